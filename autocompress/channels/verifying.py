"""Checks removals by comparing outputs, with random weights in double precision.

The sliced network is compared with two other networks. The first has zeros where the removed
channels are *read*. If the outputs differ, the dependency graph was wrong, and the coupling is
refused. The second has zeros behind the norms where the channels are *written*. If the outputs
differ, a zero does not stay zero up to the readers (a sigmoid, padding with ones), and the coupling
is not ``safe``.

SCOP scores channels with two halves of a batch. The output of a layer without a batch axis (the
relative positions of Swin V2) has no halves, so such a coupling is refused too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autocompress.channels.masking import mask_inputs, mask_outputs
from autocompress.channels.slicing import NORMS
from autocompress.contract.coupling import Coupling
from autocompress.graph import evaluating
from autocompress.memory import is_out_of_memory

TOLERANCE = 1e-9
"""Largest difference relative to the largest output.

Rounding of float64 stays below 1e-11 through 200 layers.
"""
SMALL = 96
"""Side in pixels of the test images; used for networks whose images are at least twice as large."""
RATE = 0.5
SEED = 0


def verified(
    model: nn.Module,
    every: Sequence[Coupling],
    input_size: tuple[int, int, int],
    pruners: Mapping[type[nn.Module], Any],
) -> list[Coupling]:
    """The couplings, with ``safe`` as measured, and reasons where a removal changes outputs."""
    offered = [coupling for coupling in every if coupling.prunable]
    try:
        trial = _Trial(model, input_size, pruners)
    except _NotInDouble as error:
        return [replace(c, safe=False, reasons=(str(error),)) if c.prunable else c for c in every]
    wrong = _failing(offered, trial.wrong)
    right = [coupling for coupling in offered if coupling.name not in wrong]
    wrong |= trial.without_halves(right)
    right = [coupling for coupling in right if coupling.name not in wrong]
    unsafe = _failing(right, trial.unsafe)
    return [_with_results(coupling, wrong.get(coupling.name), unsafe.get(coupling.name)) for coupling in every]


def _with_results(coupling: Coupling, wrong: str | None, unsafe: str | None) -> Coupling:
    if wrong:
        return replace(coupling, safe=False, reasons=(*coupling.reasons, wrong))
    if unsafe and not coupling.inner:
        return replace(coupling, safe=False, reasons=(*coupling.reasons, unsafe))
    return replace(coupling, safe=False) if unsafe else coupling


def _failing(couplings: Sequence[Coupling], test: Callable[[Sequence[Coupling]], str]) -> dict[str, str]:
    """The faults by name. Couplings are tested together; on a fault, each half is tested."""
    said = test(couplings) if couplings else ""
    if not said:
        return {}
    if len(couplings) == 1:
        return {couplings[0].name: said}
    middle = len(couplings) // 2
    found = _failing(couplings[:middle], test) | _failing(couplings[middle:], test)
    return found or {coupling.name: f"together with others: {said}" for coupling in couplings}


class _NotInDouble(Exception):
    pass


class _Trial:
    def __init__(
        self, model: nn.Module, input_size: tuple[int, int, int], pruners: Mapping[type[nn.Module], Any]
    ) -> None:
        self.pruners = pruners
        self.generator = torch.Generator().manual_seed(SEED)
        self.model = copy.deepcopy(model).double().eval()
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        randomise(self.model, self.generator)
        images = self._settled(input_size, device)
        self.image, self.other = images[:1], images[1:2]

    def _settled(self, size: tuple[int, int, int], device: torch.device) -> torch.Tensor:
        """Three images for the statistics of the norms.

        Large images are replaced by small ones if the network accepts them: the connections between
        channels do not depend on the size of the images.
        """
        small = (size[0], *(min(side, SMALL) if side >= 2 * SMALL else side for side in size[1:]))
        for own in dict.fromkeys([small, size]):
            images = torch.randn((3, *own), generator=self.generator, dtype=torch.float64).to(device)
            try:
                settle(self.model, images[1:])
            except Exception as error:  # a forward function may raise any type
                if is_out_of_memory(error):
                    raise
                if own == size:
                    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                    sentence = "its removal cannot be checked: the network does not run in double precision"
                    raise _NotInDouble(f"{sentence}: {reason}") from error
                continue
            return images
        raise AssertionError("the last size returns or raises")

    def wrong(self, couplings: Sequence[Coupling]) -> str:
        """A fault if zeros in the inputs of the readers give other outputs than removal."""
        return self._compare(couplings, mask_inputs, "removing its channels changes the output of the network")

    def unsafe(self, couplings: Sequence[Coupling]) -> str:
        """A fault if zeros behind the norms give other outputs than removal."""
        return self._compare(couplings, mask_outputs, "a channel that is zero does not stay zero up to its readers")

    def without_halves(self, couplings: Sequence[Coupling]) -> dict[str, str]:
        """Couplings that cannot be scored, by name: a writer's output has no batch axis."""
        writers = {writer for coupling in couplings for writer in coupling.producers}
        alone, both = (self._written(writers, images) for images in (self.image, torch.cat([self.image, self.other])))
        mixed = {name for name in writers if not _is_first_half(alone[name], both[name])}
        torn = {coupling.name: [name for name in coupling.producers if name in mixed] for coupling in couplings}
        return {name: f"the output of {names[0]} has no batch axis" for name, names in torn.items() if names}

    def _written(self, names: Iterable[str], images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """The outputs of these layers, one for each call."""
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        handles = [self.model.get_submodule(name).register_forward_hook(_into(seen[name])) for name in seen]
        try:
            with torch.no_grad():
                self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def _compare(self, couplings: Sequence[Coupling], mask: Callable[..., list[Any]], sentence: str) -> str:
        from autocompress.channels.removal import slice_channels

        keep = {coupling.name: self._keep(coupling) for coupling in couplings}
        handles = mask(self.model, couplings, keep)
        try:
            expected = self._output(self.model)
        finally:
            for handle in handles:
                handle.remove()
        sliced = self._duplicate()
        try:
            slice_channels(sliced, couplings, keep, self.pruners)
            got = self._output(sliced)
        except Exception as error:  # a forward function may raise any type
            return f"the network does not run without them: {type(error).__name__}: {error}".split("\n")[0]
        if got.shape != expected.shape:
            return "its channels reach the network's output"
        difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        # This comparison is false for NaN.
        return "" if difference <= TOLERANCE else f"{sentence} (by {difference:.1g} of its outputs)"

    def _keep(self, coupling: Coupling) -> list[int]:
        scores = torch.rand(coupling.channels, generator=torch.Generator().manual_seed(SEED))
        return coupling.left_by(coupling.ranked(scores.tolist()), coupling.kept(RATE))

    def _duplicate(self) -> nn.Module:
        """A copy that shares tensors, because slicing replaces tensors and changes none."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})

    def _output(self, model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            out = model(self.image)
        return torch.cat([value.flatten(1) for value in (out if isinstance(out, list | tuple) else [out])], dim=1)


def _into(seen: list[torch.Tensor]) -> Callable[[nn.Module, Any, torch.Tensor], None]:
    return lambda _module, _inputs, output: seen.append(output.clone())  # an in-place activation may change it


def _is_first_half(alone: Sequence[torch.Tensor], both: Sequence[torch.Tensor]) -> bool:
    """Whether each of ``both`` begins with its counterpart in ``alone``, and is twice as long."""
    return len(alone) == len(both) and all(
        b.shape == (2 * len(a), *a.shape[1:]) and torch.allclose(b[: len(a)], a, rtol=1e-6, equal_nan=True)
        for a, b in zip(alone, both, strict=True)
    )


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Randomises parameters that hide errors: norms of one, zero biases and small scales."""
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            if tensor.is_floating_point() and (tensor.max() == tensor.min()):
                fresh = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                fresh = fresh - 0.5 if name == "bias" else fresh + 0.5
                tensor.copy_(fresh if tensor.dim() < 2 or isinstance(module, NORMS) else fresh / tensor[0].numel())


def settle(model: nn.Module, images: torch.Tensor) -> None:
    """Sets the statistics of the norms on random images, so that signals keep their scale."""
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        try:
            model(images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()
