"""Sequential repair: layers are fitted front to back to the outputs of the original network.

Let x be the input of a layer in the compressed network, and y its output in the original network. A
layer is fitted to them by equation (1) of :mod:`.pairs`. Where the output is added to a shortcut, y
also compensates for the change of the shortcut from r to r': (r - r') sigma / gamma is added to y.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from autocompress.graph.kinds import kind
from autocompress.repair.columns import POSITIONS, Columns, has_columns
from autocompress.repair.moments import RIDGES, Moments, position_generator
from autocompress.repair.pairs import DualPairs, PairSums, fit
from autocompress.repair.rescaling import STRONGER
from autocompress.repair.shifts import ensure_bias, norm_scale

SMALLEST_SCALE = 1e-3
"""Channels with a smaller scale of the norm do not compensate for their shortcut."""


@dataclass
class Report:
    """Result of a sequential repair.

    Attributes:
        refitted: layers with new weights.
        undone: layers that keep their old weights, because new ones were worse on held-out images.
    """

    refitted: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)


@dataclass
class Lockstep:
    """Two traced networks that run in parallel, node by node, on the same images.

    Attributes:
        original: traced module; its outputs are the target.
        compressed: traced module of the network to repair; it shares its layers with that network.
        kept: by layer, the outputs of the original layer that the compressed layer has; a layer
            that is not named has all.
        norms: by layer, the batch normalisation directly behind it in the compressed network.
        unlike: layers with inputs that differ from the data; lambda is stronger for them.
        seed: for drawing positions.
        positions: most output positions per image.
        first: number of first positions of a token layer that are always drawn.
        settle: given a layer's path, its fitted weight matrix and the moments of its own input,
            returns the weights that are deployed; every layer is then fitted. None deploys the
            fitted weights.
    """

    original: fx.GraphModule
    compressed: fx.GraphModule
    kept: Mapping[str, Sequence[int]]
    norms: Mapping[str, str | None]
    unlike: Collection[str] = ()
    seed: int = 0
    positions: int | None = POSITIONS
    first: int = 0
    settle: Callable[[str, torch.Tensor, Moments], torch.Tensor] | None = None

    @torch.no_grad()
    def repair(self, batches: Sequence[torch.Tensor], layers: Sequence[str]) -> Report:
        """Refits ``layers`` in the order of execution.

        A layer with the same inputs and outputs as in the original network is not changed.

        Args:
            batches: images ``[N, C, H, W]``; all of them stay in memory, with the activations that
                will be read.
            layers: module paths that both networks have.
        """
        state = _State(_Run(self.original, batches), _Run(self.compressed, batches), Report())
        twins = {call: node for node, call in _calls(self.original)}
        pairs = {node: twins[call] for node, call in _calls(self.compressed) if call in twins and not call[1]}
        state.waiting = {node: twin for node, twin in pairs.items() if str(node.target) in set(layers)}
        for node in list(state.waiting):
            self._visit(node, state)
        return state.report

    def _visit(self, node: fx.Node, state: _State) -> None:
        """Refits the layer of one node, and before it a layer that is alone in its shortcut."""
        twin = state.waiting.pop(node, None)
        if twin is None:
            return
        state.active.add(node)
        shortcuts = _shortcuts(node, twin)
        if shortcuts:
            unfitted = state.own.unmade(shortcuts[0]) & set(state.waiting)
            for other in unfitted if len(unfitted) == 1 else ():
                self._visit(other, state)
            # A layer cannot compensate for a value that still changes. The last layer of the block
            # does.
            if state.own.unmade(shortcuts[0]) & (state.active | set(state.waiting)):
                shortcuts = ()
        self._refit(str(node.target), node, twin, shortcuts, state)
        state.active.remove(node)

    def _refit(self, name: str, node: fx.Node, twin: fx.Node, shortcuts: tuple[fx.Node, ...], state: _State) -> None:
        layer = self.compressed.get_submodule(name)
        source, origin = node.args[0], twin.args[0]
        if not has_columns(layer) or not isinstance(source, fx.Node) or not isinstance(origin, fx.Node):
            return
        before, inputs = state.target.value(origin), state.own.value(source)
        outputs = [self._of_kept(name, value.float()) for value in state.target.value(twin)]
        changed = name in self.kept or any(not _equal(x, y) for x, y in zip(before, inputs, strict=True))
        if shortcuts:
            here, there = state.own.value(shortcuts[0]), state.target.value(shortcuts[1])
            extra = self._made_up(name, here, there)
            changed = changed or any(bool(more.any()) for more in extra)
            outputs = [y + more for y, more in zip(outputs, extra, strict=True)]
        if not changed and self.settle is None:
            return
        columns = Columns.of(layer, inputs[0].shape[1:])
        fitted, held_out = self._sums(name, layer, columns, inputs, outputs)
        if not fitted.count or not held_out.count:
            return
        matrix = columns.weight(layer).cpu()
        ridge, gain = _best(matrix, fitted, held_out, columns)
        whole = fitted.merged(held_out)  # type: ignore[arg-type]
        mean, cross = whole.targets()
        moments = whole.moments(columns)
        ridge *= STRONGER if name in self.unlike else 1
        new = fit(matrix, moments, cross, ridge) if gain > 0 else matrix
        (state.report.refitted if gain > 0 else state.report.undone).append(name)
        new = new if self.settle is None else self.settle(name, new, moments)
        columns.write(layer, new)
        self._set_constant(name, (mean - (new @ moments.mean[:, :, None])[:, :, 0]).flatten())

    def _of_kept(self, name: str, value: torch.Tensor) -> torch.Tensor:
        kept = self.kept.get(name)
        if kept is None:
            return value
        index = torch.as_tensor(kept, dtype=torch.int64, device=value.device)
        return value.index_select(-1 if self._channels_last(name) else 1, index)

    def _channels_last(self, name: str) -> bool:
        """Whether the outputs of a layer have their channels last, which are maps of images too."""
        return isinstance(self.compressed.get_submodule(name), nn.Linear)

    def _made_up(self, name: str, own: Sequence[Any], target: Sequence[Any]) -> list[torch.Tensor]:
        """(r - r') sigma / gamma for every batch."""
        is_map = not self._channels_last(name)
        scale = norm_scale(self.compressed, self.norms.get(name), own[0].shape[1 if is_map else -1])
        inverse = torch.where(scale.abs() < SMALLEST_SCALE, 0.0, 1 / scale).float().to(own[0].device)
        inverse = inverse[:, None, None] if is_map else inverse
        return [(self._of_kept(name, there) - here) * inverse for here, there in zip(own, target, strict=True)]

    def _sums(
        self,
        name: str,
        layer: nn.Module,
        columns: Columns,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
    ) -> tuple[PairSums, PairSums] | tuple[DualPairs, DualPairs]:
        generator = position_generator(name, self.seed)
        halves: list[PairSums] = []
        apart = DualPairs(), DualPairs()
        last = self._channels_last(name)
        few = self._samples(outputs, last=last) < columns.width
        for x, y in zip(inputs, outputs, strict=True):
            for half, (part, of) in enumerate(zip(x.tensor_split(2), y.tensor_split(2), strict=True)):
                if not len(part):
                    continue
                samples, places = columns.sample(layer, part.float(), generator, self.positions, self.first)
                flat = of.reshape(len(of), -1, of.shape[-1]) if last else of.flatten(2).transpose(1, 2)
                rows = flat[torch.arange(len(flat), device=flat.device)[:, None], places].flatten(0, 1)
                grouped = rows.unflatten(1, (columns.groups, -1)).transpose(0, 1)
                if few:
                    apart[half].add_pair(samples, grouped)
                    continue
                if not halves:
                    shifts = samples.mean(1).double().cpu(), grouped.mean(1).double().cpu()
                    halves = [PairSums(*shifts), PairSums(*shifts)]
                halves[half].add_pair(samples, grouped)
        return apart if few else (halves[0], halves[1])

    def _samples(self, outputs: Sequence[torch.Tensor], *, last: bool) -> int:
        """The number of samples that will be drawn; ``last``: channels are the last dimension."""
        places = outputs[0][0, ..., 0].numel() if last else outputs[0][0, 0].numel()
        return sum(map(len, outputs)) * min(places, self.positions or places)

    def _set_constant(self, name: str, constant: torch.Tensor) -> None:
        """Sets the constant that the layer adds to its outputs, which replaces its bias."""
        norm = self.norms.get(name)
        bias = ensure_bias(self.compressed, name, norm)
        if bias is not None:
            bias.copy_(constant.to(bias))
            return
        assert norm is not None
        mean = self.original.get_submodule(norm).running_mean
        assert isinstance(mean, torch.Tensor)
        own = self.compressed.get_submodule(norm).running_mean
        assert isinstance(own, torch.Tensor)
        kept = self.kept.get(name)
        old = mean if kept is None else mean[torch.as_tensor(kept, dtype=torch.int64, device=mean.device)]
        own.copy_(old - constant.to(old))


def _best(
    matrix: torch.Tensor, fitted: PairSums | DualPairs, held_out: PairSums | DualPairs, columns: Columns
) -> tuple[float, float]:
    """The ridge with the least held-out error, and its gain over the old weights."""
    moments, judge = fitted.moments(columns), held_out.moments(columns)
    mean, cross = fitted.targets()
    judge_mean, judge_cross = held_out.targets()

    def error(new: torch.Tensor) -> float:
        constant = mean - (new @ moments.mean[:, :, None])[:, :, 0]
        offset = judge_mean - constant - (new @ judge.mean[:, :, None])[:, :, 0]
        return float(judge.energy(new).sum() - 2 * (new * judge_cross).sum() + offset.square().sum())

    errors = {ridge: error(fit(matrix, moments, cross, ridge)) for ridge in RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    return best, error(matrix) - errors[best]


class _Run:
    """Values of the nodes of a traced module by batch, computed on demand and freed after use."""

    def __init__(self, module: fx.GraphModule, batches: Sequence[torch.Tensor]) -> None:
        self._module, self._batches = module, batches
        self._values: dict[fx.Node, list[Any]] = {}
        self._order = {node: position for position, node in enumerate(module.graph.nodes)}
        self._unread = {node: set(node.users) for node in module.graph.nodes}
        self._made_once: set[fx.Node] = set()

    def unmade(self, node: fx.Node) -> set[fx.Node]:
        """The node and its dependencies that were not computed yet."""
        found: set[fx.Node] = set()
        pending = [node]
        while pending:
            asked = pending.pop()
            if asked not in self._made_once and asked not in found:
                found.add(asked)
                pending += asked.all_input_nodes
        return found

    def value(self, node: fx.Node) -> list[Any]:
        """The values of a node for all batches."""
        pending = [node]
        while pending:
            asked = pending[-1]
            missing = [source for source in asked.all_input_nodes if source not in self._values]
            if asked in self._values:
                pending.pop()
            elif missing:
                pending += sorted(missing, key=lambda source: -self._order[source])
            else:
                self._values[asked] = [self._made(asked, batch) for batch in range(len(self._batches))]
                self._made_once.add(asked)
                pending.pop()
                self._free(asked, keep=node)
        return self._values[node]

    def _made(self, node: fx.Node, batch: int) -> Any:
        if node.op == "placeholder":  # further arguments of a forward have defaults
            return self._batches[batch] if self._order[node] == 0 else node.args[0]

        def given(argument: Any) -> Any:
            return fx.map_arg(argument, lambda source: self._values[source][batch])

        arguments, keywords = given(node.args), given(node.kwargs)
        if node.op == "call_module":
            return self._module.get_submodule(str(node.target))(*arguments, **keywords)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._module)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
        assert callable(node.target)
        return node.target(*arguments, **keywords)

    def _free(self, made: fx.Node, keep: fx.Node) -> None:
        """Frees values that no remaining node reads."""
        for source in made.all_input_nodes:
            self._unread[source].discard(made)
            if not self._unread[source] and source is not keep:
                self._values.pop(source, None)


@dataclass
class _State:
    """The state of a repair: both runs, the result so far, and the remaining layers."""

    target: _Run
    own: _Run
    report: Report
    waiting: dict[fx.Node, fx.Node] = field(default_factory=dict)
    active: set[fx.Node] = field(default_factory=set)


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)


def _calls(module: fx.GraphModule) -> list[tuple[fx.Node, tuple[str, int]]]:
    """Nodes that call a layer, each with the path of the layer and the number of earlier calls."""
    seen: dict[str, int] = {}
    found = []
    for node in module.graph.nodes:
        if node.op == "call_module":
            name = str(node.target)
            found.append((node, (name, seen.get(name, 0))))
            seen[name] = seen.get(name, 0) + 1
    return found


def _shortcuts(node: fx.Node, twin: fx.Node) -> tuple[fx.Node, ...]:
    """The values added to the output of a layer, in the compressed and the original network."""
    found = []
    for layer in (node, twin):
        behind = layer
        while len(behind.users) == 1 and kind(next(iter(behind.users))) in ("norm", "identity", "dropout"):
            behind = next(iter(behind.users))
        users = list(behind.users)
        if len(users) != 1 or kind(users[0]) != "add" or len(users[0].all_input_nodes) != 2:
            return ()
        found.append(next(source for source in users[0].all_input_nodes if source is not behind))
    return tuple(found)
