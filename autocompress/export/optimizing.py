"""onnxscript's optimizer, which tries each rewrite rule only where it can match.

onnxscript tries all of its forty rules at every node of a graph. The rule for two slices of one
tensor compares every node with every other node. In a graph of a thousand nodes, this takes a third
of the time of an export.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import rewriter
from onnxscript.optimizer import fold_constants_ir

from autocompress.compat.onnxscript import operator_of, rewrite_rules

ROUNDS = 2
"""Rounds of folding and rewriting, as in onnxscript."""


def optimize(model: ir.Model) -> None:
    """Folds constants, rewrites and merges nodes in ``model``, in place.

    These are the passes of ``onnxscript.optimizer.optimize_ir`` (onnxscript 0.7) in the same order,
    with the same result, except that no constant is lost.
    """
    common.InlinePass()(model)
    for _ in range(ROUNDS):
        if not _round(model):
            break
    for final in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        final(model)


def _round(model: ir.Model) -> bool:
    """Folds and rewrites once; returns whether anything changed."""
    changed = bool(fold_constants_ir(model, onnx_shape_inference=True).modified)
    changed |= rewriter.RewritePass(_rules())(model).modified
    _keep_constants(model.graph)
    for change in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        changed |= change(model).modified
    return changed


def _keep_constants(graph: ir.Graph) -> None:
    """Keeps constants of several nodes if a rewrite rule gave them the same name.

    The rule for ``Flatten`` does this if two nodes flatten one tensor. Without this function, the
    graph would only keep the last constant.
    """
    for node in graph:
        for place, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.producer() is not None or value.is_initializer():
                continue
            value.name = f"{node.outputs[0].name}/{place}/{value.name}"
            graph.register_initializer(value)


@cache
def _rules() -> Any:
    return tuple(_RuleOfOperator(rule) for rule in rewrite_rules())


class _RuleOfOperator:
    """A rewrite rule that is only tried at nodes with the right operator.

    A rule is tried at the last node of its pattern (the first one if there are several). If the
    operators differ there, the rule cannot match.
    """

    def __init__(self, rule: Any) -> None:
        self._rule = rule
        self._operator = operator_of(rule)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def try_rewrite(self, model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        """The replacement of ``node``; None if the rule does not match."""
        if self._operator is not None and (node.domain, node.op_type) != self._operator:
            return None
        return self._rule.try_rewrite(model, graph, node, **options)
