"""Slots: a traced network whose tensors can be exchanged one by one, and computed again from the first that is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from autocompress.contract import FakeQuantizer, Hardened, TensorSpec
from autocompress.quantization import QuantizedNetwork


class Slot(FakeQuantizer):
    """Stands where a fake-quantizer can be; lets everything through until it is :meth:`given` something that acts."""

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        self.given(None)

    def given(self, act: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        """``act`` is what the tensor goes through from now on; None for nothing."""
        self.__dict__["_act"] = act  # past nn.Module, which would make a module a child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor as it is, or through what acts."""
        act = self.__dict__["_act"]
        return x if act is None else act(x)

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """Never: a slot has no integers."""
        raise NotImplementedError("a slot has no integers")


class SlotRunner(fx.Interpreter):
    """Runs a network over some batches, from any node on: what many rows share is computed once."""

    def __init__(self, network: QuantizedNetwork) -> None:
        super().__init__(network, garbage_collect_values=False)
        self._nodes = list(network.graph.nodes)
        place = {node: index for index, node in enumerate(self._nodes)}
        self._spent: list[list[fx.Node]] = [[] for _ in self._nodes]
        for index, node in enumerate(self._nodes):
            self._spent[max([index, *(place[user] for user in node.users)])].append(node)
        self._batches: list[torch.Tensor] = []
        self._begun: list[dict[fx.Node, Any]] = []
        self._start = 0

    def first(self, names: Collection[str]) -> int:
        """Index of the first node that a slot of one of ``names`` (of tensors) acts on."""
        return min(index for index, node in enumerate(self._nodes) if self._slot_names(node) & set(names))

    def _slot_names(self, node: fx.Node) -> set[str]:
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        slot = getattr(module, "weight_quantizer", module)
        return {slot.spec.name} if isinstance(slot, Slot) else set()

    @torch.no_grad()
    def answers(self, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The logits of ``batches``; :meth:`rest` then goes on with these batches."""
        self._batches, self._start = list(batches), 0
        self._begun = [self._input(batch) for batch in self._batches]
        return self.rest()

    @torch.no_grad()
    def advance(self, start: int) -> None:
        """Keeps what the nodes in front of ``start`` give, as the slots stand now."""
        if start < self._start:
            self._start, self._begun = 0, [self._input(batch) for batch in self._batches]
        self._begun = [self._run(values, self._start, start) for values in self._begun]
        self._start = start

    @torch.no_grad()
    def rest(self) -> list[torch.Tensor]:
        """The logits, from where :meth:`advance` stopped, as the slots stand now."""
        end = self._nodes[-1]
        return [self._run(values, self._start, len(self._nodes), keep=end)[end] for values in self._begun]

    def _input(self, batch: torch.Tensor) -> dict[fx.Node, Any]:
        return {node: batch for node in self._nodes if node.op == "placeholder"}

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
