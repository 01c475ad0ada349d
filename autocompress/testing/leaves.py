"""Rules for layer types that are leaves of the traced graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from autocompress import models
from autocompress.contract import LayerSpec
from autocompress.graph import facts
from autocompress.graph.kinds import NORM_TYPES
from autocompress.quantization import LayerBits, calibrate, harden, operator_counts, plan, quantize, rebuild
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.leaves import leaf_spec, leaf_types
from autocompress.testing.rules import difference, require, shapes, through_json

LARGEST_DIFFERENCE = 1e-3
"""Largest difference of simulated and hardened layers in the median image.

It is relative to the largest logit.
"""
ONE_STEP = 0.05
"""Largest difference in any image.

Both layers compute the same numbers in float32. But a value between two integers may be rounded to
either one, and the image then differs by one step.
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
    with torch.no_grad():
        expected, found = network.eval()(images), hardened(images)
    errors = (expected - found).abs().amax(1) / expected.abs().max().clamp(min=1e-12)
    error, worst = float(errors.median()), float(errors.max())
    require(
        error <= LARGEST_DIFFERENCE and worst <= ONE_STEP,
        "simulated and hardened leaf layers must be equal; the logits differ by "
        f"{error:.2g} of the largest in the median of images, {worst:.2g} at worst",
    )
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


def _awake(model: nn.Module) -> nn.Module:
    """A copy without zero scales, which timm uses for the last norm of a residual branch."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, NORM_TYPES) and isinstance(weight, torch.Tensor) and not bool(weight.any()):
            nn.init.ones_(weight)
    return model
