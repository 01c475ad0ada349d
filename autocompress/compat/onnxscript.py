"""The rewrite rules of onnxscript's optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxscript import rewriter


def rewrite_rules() -> Sequence[Any]:
    """The rules that ``optimize_ir`` applies, in its order.

    Private: ``rewriter._DEFAULT_REWRITE_RULES``.
    """
    return tuple(rewriter._DEFAULT_REWRITE_RULES)


def operator_of(rule: Any) -> tuple[str, str] | None:
    """Domain and name of the last operator in the pattern of ``rule``; None for several.

    Private: ``RewriteRule._target_pattern``.
    """
    found = rule._target_pattern.output_nodes[0].op_identifier()
    return found and found[:2]
