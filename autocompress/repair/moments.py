"""Second moments of layer inputs over calibration images, for refits and orders of channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from autocompress.files import digest
from autocompress.graph import evaluating
from autocompress.repair.columns import POSITIONS, Columns

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for the strength of the ridge term, relative to the mean diagonal of G."""
DEFAULT_RIDGE = 1e-2
MOST_COLUMNS = 8192
"""Layers with more columns store samples instead of G: the dual form of the same equations."""
NOTHING = 1e-30
"""An input with a mean diagonal of G below this is treated as constant."""
MEMORY_BYTES = 1_500_000_000
"""Memory for matrices in one pass over the images; larger networks need more passes."""


@dataclass(frozen=True)
class Moments:
    """First and second moments of the columns x of the input of one layer, for each group.

    Attributes:
        columns: the unfolding of the input.
        count: number of samples.
        mean: a = E[x], float64 ``[groups, width]``.
        covariance: G = E[(x - a)(x - a)^T], float64 ``[groups, width, width]``; None in the dual
            form.
        samples: x - a, float32 ``[groups, count, width]``, in the dual form; else None.
        ridge: lambda of this layer, chosen on held-out samples; relative to the mean diagonal of G.
        rescaled: moments were corrected, because the images differ from the data
            (:mod:`.rescaling`).
    """

    columns: Columns
    count: int
    mean: torch.Tensor
    covariance: torch.Tensor | None
    samples: torch.Tensor | None = None
    ridge: float = DEFAULT_RIDGE
    rescaled: bool = False

    @property
    def bytes(self) -> int:
        """Memory of its matrices."""
        return sum(own.nbytes for own in (self.covariance, self.samples) if own is not None)

    def in_float32(self) -> Moments:
        """A copy with G in float32, which makes refits twice as fast and less precise."""
        return self if self.covariance is None else replace(self, covariance=self.covariance.float())

    @property
    def scale(self) -> torch.Tensor:
        """Mean diagonal of G for each group, float64 ``[groups]``."""
        if self.covariance is not None:
            return self.covariance.diagonal(dim1=1, dim2=2).mean(1)
        assert self.samples is not None
        return self.samples.square().mean((1, 2), dtype=torch.float64)

    def regularised(self, group: int) -> torch.Tensor:
        """G + lambda s I of one group, with s its mean diagonal, float64 ``[width, width]``."""
        if self.covariance is not None:
            system = self.covariance[group].clone()
        else:
            assert self.samples is not None
            samples = self.samples[group].double()
            system = samples.T @ samples / self.count
        system.diagonal().add_(self.ridge * max(float(self.scale[group]), NOTHING))
        return system

    def energy(self, matrix: torch.Tensor) -> torch.Tensor:
        """diag(W G W^T): the variance of each output of a weight matrix.

        Args:
            matrix: float64 ``[groups, outputs, width]``.

        Returns:
            float64 ``[groups, outputs]``.
        """
        if self.covariance is not None:
            return ((matrix @ self.covariance) * matrix).sum(2)
        assert self.samples is not None
        return (matrix @ self.samples.double().transpose(1, 2)).square().mean(2)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON for the store. G is float32: its rounding error is far below a ridge."""
        tensors = {"mean": self.mean}
        tensors |= {"covariance": self.covariance.float()} if self.covariance is not None else {}
        tensors |= {"samples": self.samples} if self.samples is not None else {}
        columns = self.columns
        record = {
            "count": self.count,
            "ridge": self.ridge,
            "rescaled": self.rescaled,
            "groups": columns.groups,
            "inputs": columns.inputs,
            "taps": [list(tap) for tap in columns.taps],
            "kernel": list(columns.kernel),
        }
        return tensors, record

    @classmethod
    def from_state(cls, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> Moments:
        """Restores the result of :meth:`state`."""
        taps = tuple((int(row), int(place)) for row, place in record["taps"])
        kernel = (int(record["kernel"][0]), int(record["kernel"][1]))
        columns = Columns(int(record["groups"]), int(record["inputs"]), taps, kernel)
        covariance = tensors.get("covariance")
        return cls(
            columns,
            int(record["count"]),
            tensors["mean"],
            None if covariance is None else covariance.double(),
            tensors.get("samples"),
            float(record["ridge"]),
            bool(record["rescaled"]),
        )


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Adds the name of ``layer`` to a ValueError about its numbers."""
    try:
        yield
    except ValueError as error:
        told = str(error)
        raise ValueError(told if layer in told else f"{told}, at '{layer}'") from error


def factor(system: torch.Tensor) -> torch.Tensor:
    """Cholesky factor of G + lambda s I, batched.

    For a singular matrix, the ridge is multiplied by ten until the factorisation succeeds.

    Raises:
        ValueError: if the matrix holds NaN or infinite values.
    """
    lower, failed = torch.linalg.cholesky_ex(system)
    # NaN makes the factorisation fail, or reaches the diagonal of the factor, so it is enough to
    # check the diagonal.
    if not failed.any() and torch.isfinite(lower.diagonal(dim1=-2, dim2=-1)).all():
        return lower
    if not torch.isfinite(system).all():
        raise ValueError("a matrix of moments holds NaN or infinite values")
    scale = system.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp(min=NOTHING)
    more = 1e-8
    while True:
        lower, failed = torch.linalg.cholesky_ex(system + torch.diag_embed((more * scale).expand(system.shape[:-1])))
        if not failed.any():
            return lower
        more = 10 * more


def dual(columns: Columns, samples: Sequence[torch.Tensor]) -> Moments:
    """Moments in the dual form, from samples, float32 ``[groups, samples, width]`` each."""
    both = torch.cat(list(samples), 1)
    mean = both.mean(1, dtype=torch.float64)
    return Moments(columns, both.shape[1], mean, None, both - mean[:, None].float())


class Sums:
    """Sums over samples minus a fixed shift, which avoids cancellation."""

    def __init__(self, shift: torch.Tensor) -> None:
        groups, width = shift.shape
        self.shift = shift
        self.count = 0
        self.first = torch.zeros((groups, width), dtype=torch.float64)
        self.second = torch.zeros((groups, width, width), dtype=torch.float64)

    def add(self, x: torch.Tensor) -> None:
        """Adds samples ``[groups, samples, width]``: products in float32, sums in float64."""
        centred = x - self.shift[:, None].to(x)
        self.count += centred.shape[1]
        self.first += centred.sum(1, dtype=torch.float64).cpu()
        self.second += (centred.transpose(1, 2) @ centred).cpu()

    def merged(self, other: Self) -> Self:
        """Sums over both; ``other`` has the same shift."""
        both = copy.copy(self)
        both.count = self.count + other.count
        both.first, both.second = self.first + other.first, self.second + other.second
        return both

    def moments(self, columns: Columns, ridge: float = DEFAULT_RIDGE) -> Moments:
        """a and G of all samples."""
        offset = self.first / self.count
        covariance = self.second / self.count
        covariance.baddbmm_(offset[:, :, None], offset[:, None, :], alpha=-1)
        return Moments(columns, self.count, self.shift.double() + offset, covariance, ridge=ridge)


class _Gathering:
    """The sums of one layer over two halves of the images.

    While there are fewer samples than columns, the samples themselves are stored.
    """

    def __init__(self, name: str, columns: Columns, generator: torch.Generator) -> None:
        self.name, self.columns = name, columns
        self.generator = generator
        self._halves: list[Sums] = []
        self._samples: list[tuple[int, torch.Tensor]] = []

    def add(self, samples: torch.Tensor, half: int) -> None:
        """Adds samples ``[groups, samples, width]`` of one call of the layer to half 0 or 1."""
        if not torch.isfinite(samples).all():
            raise ValueError(f"the input of {self.name} holds NaN or infinite values")
        if self._halves:
            self._halves[half].add(samples.float())
            return
        self._samples.append((half, samples.float().cpu()))
        few = sum(known.shape[1] for _, known in self._samples) < self.columns.width
        if few or self.columns.width > MOST_COLUMNS:
            return
        shift = self._samples[0][1].mean(1).double()
        self._halves = [Sums(shift), Sums(shift)]
        for of, known in self._samples:
            self._halves[of].add(known)
        self._samples.clear()

    def moments(self, choose_ridge: Callable[[Moments, Moments, Moments], float]) -> Moments:
        """Moments over all images, with the ridge that is best on held-out images."""
        if self._samples:
            halves = [[known for of, known in self._samples if of == half] for half in (0, 1)]
            whole = dual(self.columns, [*halves[0], *halves[1]])
            parts = [dual(self.columns, half) for half in halves if half]
        else:
            fit, held_out = self._halves
            whole = fit.merged(held_out).moments(self.columns)
            parts = [half.moments(self.columns) for half in (fit, held_out) if half.count]
        return whole if len(parts) < 2 else replace(whole, ridge=choose_ridge(whole, parts[0], parts[1]))


def gather(
    model: nn.Module,
    layers: Sequence[str],
    batches: Callable[[], Iterable[torch.Tensor]],
    *,
    seed: int = 0,
    positions: int | None = POSITIONS,
    choose_ridge: Callable[[nn.Module, Moments, Moments, Moments], float] | None = None,
    pause: Callable[[], None] | None = None,
) -> dict[str, Moments]:
    """Moments of the inputs of ``layers``, from forward passes in eval mode without gradients.

    Args:
        model: network on any device; it is not changed.
        layers: module paths of layers with columns (:func:`columns.has_columns`).
        batches: returns the images, ``[N, C, H, W]`` on the device of the model, at each call. It
            is called once per pass; matrices larger than ``MEMORY_BYTES`` need several passes.
        seed: random seed for drawing positions.
        positions: maximum number of output positions per image.
        choose_ridge: called with the layer and its moments over all images, over the first half and
            over the second half; None for ``DEFAULT_RIDGE``.
        pause: called between batches and between layers.

    Returns:
        Moments by layer, in the order of ``layers``. A layer that did not run is left out.

    Raises:
        ValueError: if an input holds NaN or infinite values, or there are no images.
        TypeError: if a layer has no columns.
    """
    found: dict[str, Moments] = {}
    with evaluating(model):
        batch = next(iter(batches()), None)
        if batch is None or not len(batch):
            raise ValueError("moments need at least one image")
        columns = columns_of(model, layers, batch[:1])
        for names in _passes(columns):
            gatherings = {name: _Gathering(name, columns[name], position_generator(name, seed)) for name in names}
            _watch(model, gatherings, batches, positions, pause)
            for name, gathering in gatherings.items():
                layer = model.get_submodule(name)
                choose = partial(choose_ridge, layer) if choose_ridge is not None else _default_ridge
                with naming(name):
                    found[name] = gathering.moments(choose)
                if pause is not None:
                    pause()  # choosing lambda of a wide layer takes up to a second
    return {name: found[name] for name in layers if name in found}


def columns_of(model: nn.Module, layers: Sequence[str], image: torch.Tensor) -> dict[str, Columns]:
    """The unfolding of the input of each layer, from a forward pass of ``image``, ``[1, C, H, W]``.

    A layer that does not run is left out.
    """
    found: dict[str, Columns] = {}

    def see(name: str, layer: nn.Module, x: torch.Tensor) -> None:
        found[name] = Columns.of(layer, x.shape[1:])

    with evaluating(model), _hooked(model, layers, see):
        model(image)
    return found


def prefix_tokens(model: nn.Module) -> int:
    """Number of class and register tokens of timm's transformers, which are always drawn."""
    return int(getattr(model, "num_prefix_tokens", 0))


def position_generator(name: str, seed: int) -> torch.Generator:
    """A generator per layer, so that leaving out a layer does not change other layers."""
    return torch.Generator().manual_seed(int(digest("positions", name, seed)[:15], 16))


def _default_ridge(*_: Moments) -> float:
    return DEFAULT_RIDGE


def _watch(
    model: nn.Module,
    gatherings: Mapping[str, _Gathering],
    batches: Callable[[], Iterable[torch.Tensor]],
    positions: int | None,
    pause: Callable[[], None] | None,
) -> None:
    half, first = 0, prefix_tokens(model)

    def see(name: str, layer: nn.Module, x: torch.Tensor) -> None:
        gathering = gatherings[name]
        samples, _ = gathering.columns.sample(layer, x, gathering.generator, positions, first)
        gathering.add(samples, half)

    with _hooked(model, list(gatherings), see):
        for batch in batches():
            for part in batch.tensor_split(2) if len(batch) > 1 else (batch,):  # with one batch, both halves get images
                model(part)
                half = 1 - half
            if pause is not None:
                pause()


@contextmanager
def _hooked(
    model: nn.Module, layers: Sequence[str], see: Callable[[str, nn.Module, torch.Tensor], None]
) -> Iterator[None]:
    """Calls ``see`` with the input of each of ``layers`` whenever one runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda layer, inputs: see(name, layer, inputs[0].detach())

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _passes(columns: Mapping[str, Columns]) -> list[list[str]]:
    """Groups of layers whose matrices fit into memory: two float64 matrices per layer."""
    passes: list[list[str]] = []
    used = 0
    for name, own in columns.items():
        width = 0 if own.width > MOST_COLUMNS else own.width
        need = 2 * 8 * width * width * own.groups
        if not passes or used + need > MEMORY_BYTES:
            passes.append([])
            used = 0
        passes[-1].append(name)
        used += need
    return passes
