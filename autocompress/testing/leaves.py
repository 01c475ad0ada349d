"""Rules for layer types that are leaves of the traced graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from autocompress import models
from autocompress.contract import LayerSpec
from autocompress.graph import facts
from autocompress.graph.kinds import NORM_TYPES
from autocompress.quantization import (
    LayerBits,
    QuantizedNetwork,
    calibrate,
    harden,
    operator_counts,
    plan,
    quantize,
    rebuild,
)
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.leaves import leaf_spec, leaf_types
from autocompress.testing.rules import difference, require, shapes, through_json

LARGEST_DIFFERENCE = 1e-3
"""Largest difference of a simulated and a hardened layer for the same integers.

It is relative to the largest output of the layer.
"""
FEW_STEPS = 0.05
"""Largest difference of the networks in the median image, relative to the largest logit.

Both networks compute the same numbers in float32. But it depends on the processor to which of two
integers a value between them is rounded, and the image then differs by one step.
"""


def check_leaves(model: nn.Module, specs: Sequence[LayerSpec], images: torch.Tensor) -> None:
    """Checks the leaf layers in ``model``: operator counts, and equal integer forms.

    The simulated, the hardened and the rebuilt network must have equal outputs. ``model`` is not
    changed.

    Args:
        model: float, eval, from ``autocompress.models``, changed by a transform.
        specs: layer specs of the transform.
        images: batch of images ``(N, C, H, W)`` of the input size of the model.

    Raises:
        ContractViolation: if a rule is broken; the message names it.
    """
    names = [name for name, layer in model.named_modules() if leaf_spec(layer, specs) is not None]
    if not names:
        return
    size, model = models.input_size(model), _awake(model)
    counts = operator_counts(model, size, specs)
    known = frozenset[str]().union(*(spec.operator_kinds for spec in specs))
    for name in names:
        own = [count for count in counts if count.layer == name]
        require(
            bool(own) and all(count.operations > 0 for count in own),
            f"operator_counts of {name} must say how many operations it has for one image",
        )
        unsaid = {count.kind for count in own} - known
        require(
            not unsaid, f"operator_kinds must have all kinds in operator_counts of {name}: {', '.join(sorted(unsaid))}"
        )
    config = {name: LayerBits("uniform") for name in facts(model, size, leaf_types(specs)).layers}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=size, specs=specs)
    calibrate(network, [images])
    hardened = harden(network)
    for name in network.leaves():
        layer = hardened.get_submodule(name)
        require(leaf_spec(layer, specs) is not None, f"the hardened form of {name} must be of its layer type")
        bits = (getattr(layer, "weight_bits", None), getattr(layer, "input_bits", None))
        require(bits == (8, 8), f"the hardened form of {name} must have weight_bits and input_bits; it has {bits}")
    found = _check_equal(network.eval(), hardened, images)
    dry = harden(network, dry_run=True)
    rule = "the hardened structure must not depend on the grid"
    require(shapes(dry) == shapes(hardened), f"{rule}; tensors differ: {difference(shapes(dry), shapes(hardened))}")
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    again = rebuild(fresh, through_json(plan(hardened), "the plan of quantization"), specs)
    again.load_state_dict(hardened.state_dict())
    with torch.no_grad():
        same = torch.equal(again(images), found)
    require(same, "parameters, buffers and grid must define a hardened leaf layer: the rebuilt one differs")


@torch.no_grad()
def _check_equal(network: QuantizedNetwork, hardened: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Compares each hardened leaf layer with the simulated one, then the networks.

    Returns:
        The logits of ``hardened``.
    """
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        return lambda _, given, made: seen.update({name: (given[0].clone(), made.clone())})

    handles = [layer.register_forward_hook(note(name)) for name, layer in network.leaves().items()]
    expected = network(images)
    for handle in handles:
        handle.remove()
    rule = "simulated and hardened leaf layers must be equal"
    for name, (given, made) in seen.items():
        error = float(_relative(made, hardened.get_submodule(name)(given)).max())
        require(error <= LARGEST_DIFFERENCE, f"{rule}; {name} differs by {error:.2g} of its largest output")
    found: torch.Tensor = hardened(images)
    error = float(_relative(expected, found).amax(1).median())
    require(error <= FEW_STEPS, f"{rule}; the logits differ by {error:.2g} of the largest in the median of images")
    return found


def _relative(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Absolute differences as shares of the largest value."""
    return (expected - found).abs() / expected.abs().max().clamp(min=1e-12)


def _awake(model: nn.Module) -> nn.Module:
    """A copy without zero scales, which timm uses for the last norm of a residual branch."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, NORM_TYPES) and isinstance(weight, torch.Tensor) and not bool(weight.any()):
            nn.init.ones_(weight)
    return model
