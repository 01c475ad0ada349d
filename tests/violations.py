"""Texts of broken rules, for tests of the conformance checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autocompress.testing import ContractViolation


def told(check: Callable[..., Any], *arguments: Any) -> str:
    """All rules that ``check`` reports as broken."""
    with pytest.raises(ContractViolation) as caught:
        check(*arguments)
    return "\n".join(caught.value.rules)
