"""Runs a traced network from any node on, so that variants share the computation before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx


class PartialRunner(fx.Interpreter):
    """Runs a network for some batches, from any node on."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network, garbage_collect_values=False)
        self._nodes = list(network.graph.nodes)
        place = {node: index for index, node in enumerate(self._nodes)}
        self._spent: list[list[fx.Node]] = [[] for _ in self._nodes]
        for index, node in enumerate(self._nodes):
            self._spent[max([index, *(place[user] for user in node.users)])].append(node)
        self._batches: list[torch.Tensor] = []
        self._begun: list[dict[fx.Node, Any]] = []
        self._start = 0

    def first_call(self, layers: Collection[str]) -> int:
        """Index of the first node that calls one of these modules, by path."""
        return min(
            index for index, node in enumerate(self._nodes) if node.op == "call_module" and str(node.target) in layers
        )

    @torch.no_grad()
    def answers(self, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs for ``batches``; :meth:`rest` then uses these batches."""
        self._batches, self._start = list(batches), 0
        self._begun = [self._input(batch) for batch in self._batches]
        return self.rest()

    @torch.no_grad()
    def advance(self, start: int) -> None:
        """Stores the values of the nodes before ``start``, computed with the present network."""
        if start < self._start:
            self._start, self._begun = 0, [self._input(batch) for batch in self._batches]
        self._begun = [self._run(values, self._start, start) for values in self._begun]
        self._start = start

    @torch.no_grad()
    def rest(self) -> list[torch.Tensor]:
        """The outputs, computed with the present network from where :meth:`advance` stopped."""
        end = self._nodes[-1]
        return [self._run(values, self._start, len(self._nodes), keep=end)[end] for values in self._begun]

    def _input(self, batch: torch.Tensor) -> dict[fx.Node, Any]:
        """The batch as the first argument; others (timm's ``attn_mask``) have their default."""
        first, *others = (node for node in self._nodes if node.op == "placeholder")
        return {first: batch, **{node: node.args[0] if node.args else None for node in others}}

    def _run(
        self, values: Mapping[fx.Node, Any], start: int, stop: int, keep: fx.Node | None = None
    ) -> dict[fx.Node, Any]:
        self.env = dict(values)
        for index in range(start, stop):
            node = self._nodes[index]
            if node.op != "placeholder":
                self.env[node] = self.run_node(node)
            for spent in self._spent[index]:
                if spent is not keep:
                    self.env.pop(spent, None)
        return self.env
