"""Methods for tests of the manager."""

from __future__ import annotations

from typing import Any

from torch import nn

from autocompress.contract import Method, Params, Space


def names(methods: list[Method]) -> list[str]:
    return [method.name for method in methods]


def fake(kind: type[Method], name: str, **attributes: Any) -> Method:
    """A method of ``kind`` with a name and the given attributes."""

    def search_space(self: Method, space: Space, model: nn.Module) -> Params:
        del self, space, model
        return {}

    tags = {key: frozenset(value) if isinstance(value, set) else value for key, value in attributes.items()}
    made = type(name, (kind,), {"name": name, "version": "1", "reference": "", "search_space": search_space, **tags})
    made.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return made()
