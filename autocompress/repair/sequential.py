"""Sequential repair: refits layers, first to last, to the outputs of the original network.

Let x be the input of a layer in the compressed network, and y the output of the same layer in the
original network. Equation (1) of :mod:`.pairs` gives the weights that map x to y.

If the output of the layer is added to a shortcut, the layer also compensates for errors of the
shortcut. Let r be the value of the shortcut in the original network and r' its value in the
compressed one. Then ``(r - r') sigma / gamma`` is added to y, where sigma and gamma are the
standard deviation and the scale of the batch norm behind the layer.
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
from autocompress.repair.moments import RIDGES, Moments, naming, position_generator
from autocompress.repair.pairs import DualPairs, PairSums, fit
from autocompress.repair.rescaling import STRONGER
from autocompress.repair.shifts import ensure_bias, norm_scale

SMALLEST_SCALE = 1e-3
"""Channels do not compensate for their shortcut if gamma / sigma of their norm is smaller."""


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
    """Runs two traced networks on the same images, node by node, and refits one of them.

    Attributes:
        original: traced module of the original network.
        compressed: traced module of the network to repair; it shares its layers with that network.
        kept: for each layer, the indices of the original outputs that the compressed layer still
            has. A layer that is not named has all outputs.
        norms: for each layer, the path of the batch normalisation directly behind it in the
            compressed network; None if there is none.
        unlike: layers whose inputs have other statistics on these images than on real data. Their
            lambda is larger.
        seed: random seed for drawing output positions.
        positions: maximum number of output positions per image.
        first: number of positions at the start of a token layer that are always drawn.
        settle: function that returns the weights to deploy, for example rounded weights. Its
            arguments are the path of a layer, its fitted weight matrix and the moments of its input
            in the compressed network. With it, layers with unchanged inputs and outputs are fitted
            too. None deploys the fitted weights.
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

        Without ``settle``, a layer whose inputs and outputs are those of the original network is
        not changed.

        Args:
            batches: batches of images ``[N, C, H, W]``. All of them stay in memory, and so do the
                activations that later layers read.
            layers: module paths of the layers to refit; both networks must have them.

        Returns:
            The layers with new weights, and those that keep their old weights.
        """
        state = _State(_Run(self.original, batches), _Run(self.compressed, batches), Report())
        twins = {call: node for node, call in _calls(self.original)}
        pairs = {node: twins[call] for node, call in _calls(self.compressed) if call in twins and not call[1]}
        state.waiting = {node: twin for node, twin in pairs.items() if str(node.target) in set(layers)}
        for node in list(state.waiting):
            self._visit(node, state)
        return state.report

    def _visit(self, node: fx.Node, state: _State) -> None:
        """Refits the layer of one node.

        If exactly one layer of its shortcut is not refitted yet, that layer is refitted first.
        """
        twin = state.waiting.pop(node, None)
        if twin is None:
            return
        state.active.add(node)
        shortcuts = _shortcuts(node, twin)
        if shortcuts:
            unfitted = state.own.unmade(shortcuts[0]) & set(state.waiting)
            for other in unfitted if len(unfitted) == 1 else ():
                self._visit(other, state)
            # A layer cannot compensate for a shortcut whose value will still change. The last layer
            # of the block compensates for that shortcut.
            if state.own.unmade(shortcuts[0]) & (state.active | set(state.waiting)):
                shortcuts = ()
        with naming(str(node.target)):
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
        """Whether channels are the last dimension of the outputs of a layer: a linear layer."""
        return isinstance(self.compressed.get_submodule(name), nn.Linear)

    def _made_up(self, name: str, own: Sequence[Any], target: Sequence[Any]) -> list[torch.Tensor]:
        """Returns ``(r - r') sigma / gamma`` for every batch."""
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
        """Returns the number of samples to draw.

        Args:
            outputs: outputs of the layer, one tensor for each batch.
            last: whether channels are the last dimension.
        """
        places = outputs[0][0, ..., 0].numel() if last else outputs[0][0, 0].numel()
        return sum(map(len, outputs)) * min(places, self.positions or places)

    def _set_constant(self, name: str, constant: torch.Tensor) -> None:
        """Sets the bias of the layer to ``constant``.

        A layer without a bias gets the same effect from the running mean of the norm behind it.
        """
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
    """Returns the best ridge, and by how much its error is below that of the old weights.

    Errors are those on the held-out samples.
    """
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
    """Computes the outputs of the nodes of a traced module on demand, for all batches.

    Outputs that no remaining node reads are freed.
    """

    def __init__(self, module: fx.GraphModule, batches: Sequence[torch.Tensor]) -> None:
        self._module, self._batches = module, batches
        self._values: dict[fx.Node, list[Any]] = {}
        self._order = {node: position for position, node in enumerate(module.graph.nodes)}
        self._unread = {node: set(node.users) for node in module.graph.nodes}
        self._made_once: set[fx.Node] = set()

    def unmade(self, node: fx.Node) -> set[fx.Node]:
        """Returns those of the node and its dependencies that have not been computed yet."""
        found: set[fx.Node] = set()
        pending = [node]
        while pending:
            asked = pending.pop()
            if asked not in self._made_once and asked not in found:
                found.add(asked)
                pending += asked.all_input_nodes
        return found

    def value(self, node: fx.Node) -> list[Any]:
        """Returns the output of a node for each batch."""
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
        """Frees the outputs that only ``made`` and computed nodes read, except that of ``keep``."""
        for source in made.all_input_nodes:
            self._unread[source].discard(made)
            if not self._unread[source] and source is not keep:
                self._values.pop(source, None)


@dataclass
class _State:
    """The state of a repair.

    Attributes:
        target: run of the original network.
        own: run of the compressed network.
        report: the result so far.
        waiting: nodes whose layers are not refitted yet, each with the same node of the original
            network.
        active: nodes whose layers are being refitted.
    """

    target: _Run
    own: _Run
    report: Report
    waiting: dict[fx.Node, fx.Node] = field(default_factory=dict)
    active: set[fx.Node] = field(default_factory=set)


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)


def _calls(module: fx.GraphModule) -> list[tuple[fx.Node, tuple[str, int]]]:
    """Returns the nodes that call a layer, each with its path and the number of earlier calls."""
    seen: dict[str, int] = {}
    found = []
    for node in module.graph.nodes:
        if node.op == "call_module":
            name = str(node.target)
            found.append((node, (name, seen.get(name, 0))))
            seen[name] = seen.get(name, 0) + 1
    return found


def _shortcuts(node: fx.Node, twin: fx.Node) -> tuple[fx.Node, ...]:
    """Returns the nodes that are added to the outputs of ``node`` and ``twin``.

    Empty if the output of the layer is not added to a shortcut in both networks.
    """
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
