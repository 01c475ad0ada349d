"""QUANTIZE: fake-quantizers of the chosen bits are placed, calibrated, trained and hardened."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from autocompress import models
from autocompress.compression import qat
from autocompress.contract import (
    Callback,
    Context,
    FakeQuantizer,
    Hardened,
    LayerSpec,
    Method,
    Params,
    PlacementTable,
    Plan,
    Quantizer,
    TensorSpec,
)
from autocompress.errors import TrialFailed
from autocompress.graph import NetworkFacts
from autocompress.models.health import faulty_tensor
from autocompress.quantization import hardening, network, rounding
from autocompress.quantization.bias_correction import correct_bias
from autocompress.quantization.placement import ONNX_RUNTIME, LayerBits
from autocompress.quantization.regions import Choose
from autocompress.recipes.recipe import Recipe
from autocompress.repair import Rounding

EXEMPT_BITS = 8
"""Bits of the stem and the classifier, which have no choice of bits."""
CALIBRATION_BATCH, BATCH_PIXELS = 64, 64 * 112**2
"""Maximum number of images in a batch, and of their pixels together, to limit memory."""
CALIBRATION_PIXELS, LEAST_CALIBRATION = 1024 * 64**2, 64
"""Maximum number of pixels of all calibration images, and minimum number of these images.

Fewer large images are needed, because ranges are taken over positions as well as over images.
"""
ROUNDING_IMAGES = 512
"""Images for the moments if the weights of all layers are rounded at once."""
IN_ORDER_BITS, IN_ORDER_IMAGES, LEAST_IN_ORDER = 2, 2048, 512
"""Maximum bits, and maximum and minimum number of images, for rounding layers in order.

Rounding in order fits more numbers than rounding all layers at once, so it needs more images.
"""


def assign(network_facts: NetworkFacts, baseline: nn.Module, granularity: str, recipe: Recipe) -> dict[str, LayerBits]:
    """The quantizers and bits of every layer of the transformed network, by name.

    Layers of float groups are absent.

    Groups are prefixes of the baseline's module names. A replaced module keeps its name, so its
    inner layers still belong to the group.
    """
    if not recipe.bits:
        return {}
    groups = models.groups(baseline, granularity)
    exempt = (*models.stem(baseline), *models.classifier(baseline))
    assigned: dict[str, LayerBits] = {}
    for name in network_facts.layers:
        group = models.group_of(name, groups)
        chosen = recipe.bits.get(group)
        if chosen is None:
            continue
        is_exempt = any(name == prefix or name.startswith(prefix + ".") for prefix in exempt)
        floor = EXEMPT_BITS if is_exempt else 1
        assigned[name] = LayerBits(
            group=group,
            weight_quantizer=chosen.activation_quantizer if chosen.weight_bits < floor else chosen.weight_quantizer,
            weight_bits=max(chosen.weight_bits, floor),
            activation_quantizer=chosen.activation_quantizer,
            activation_bits=max(chosen.activation_bits, floor),
        )
    return assigned


def quantize(
    model: nn.Module,
    assigned: Mapping[str, LayerBits],
    recipe: Recipe,
    methods: Mapping[str, Method],
    context: Context,
    *,
    pause: Callable[[], None] | None = None,
    specs: Sequence[LayerSpec] = (),
    table: PlacementTable = ONNX_RUNTIME,
    choose: Choose | None = None,
) -> tuple[nn.Module, Plan]:
    """Makes the deployable network and its plan.

    Fake-quantizers are placed and calibrated, trained if the recipe asks for it, and hardened.

    ``specs`` describe the layer types of plugins in ``model``. ``table`` is the placement table of
    the device. ``choose`` returns the layers that compute in float.

    Raises:
        TrialFailed: if ranges or the loss are not finite, if there are no calibration images, or if
            all of them have one colour.
    """

    def make(quantizer: str, spec: TensorSpec) -> FakeQuantizer:
        return _quantizer(methods, quantizer).apply(spec, recipe.quantizers[quantizer], context)

    def harden(quantizer: str, fake: FakeQuantizer, weight: torch.Tensor | None) -> Hardened:
        return _quantizer(methods, quantizer).harden(fake, weight)

    acting = [(_quantizer(methods, name), params) for name, params in recipe.quantizers.items()]
    trains = trained(recipe) and not context.dry_run
    quantized = network.quantize(
        model,
        assigned,
        make,
        input_size=context.input_size,
        trainable=trains,
        equalise=not context.dry_run and any(method.equalises(params) for method, params in acting),
        specs=specs,
        table=table,
        choose=choose,
    )
    images: list[torch.Tensor] = []
    if not context.dry_run:
        wanted = max(method.calibration_images(params) for method, params in acting)
        images = [batch.to(context.device) for batch in _calibration_images(context, wanted)]
        _check_images(images)
        quantized.to(context.device)
        context.pause()
        _round(quantized, methods, recipe, context, trains=trains)
    network.calibrate(quantized, images)
    context.pause()
    if trains:
        actors = [*((methods[name], params) for name, params in recipe.transforms), *acting]
        _train(quantized, actors, recipe, context, pause)
    elif images and any(method.corrects_bias(params) for method, params in acting):
        correct_bias(quantized, images)
        context.pause()
    hardened = hardening.harden(quantized.cpu(), harden, dry_run=context.dry_run)
    plan = hardening.plan(hardened)
    if not context.dry_run:
        _check_scales(plan)
    return hardened, plan


def _train(
    quantized: network.QuantizedNetwork,
    actors: Sequence[tuple[Method, Params]],
    recipe: Recipe,
    context: Context,
    pause: Callable[[], None] | None,
) -> None:
    """Trains the calibrated network, with the callbacks of all methods that act."""
    callbacks: list[Callback] = []
    for method, params in actors:
        callbacks += method.callbacks(quantized, params, context)
    qat.run(quantized, recipe.qat, context, callbacks, pause=pause)
    if fault := faulty_tensor(dict(quantized.named_parameters())):
        raise TrialFailed(f"{fault} after the training in low bits")


def _check_scales(plan: Plan) -> None:
    for name, grid in plan["activations"].items():
        if not math.isfinite(grid["scale"]):
            raise TrialFailed(f"the values of '{name}' are not finite numbers, so they have no scale")


def _round(
    quantized: network.QuantizedNetwork,
    methods: Mapping[str, Method],
    recipe: Recipe,
    context: Context,
    *,
    trains: bool,
) -> None:
    """Rounds weights so that outputs change least, if their quantizer asks for it.

    If some layers have 2 bits or fewer, layers are rounded one after the other, and each
    compensates for the errors of those before it. If the network trains, only weights whose
    quantizers start from rounded weights are rounded.
    """
    wanted: dict[str, Rounding] = {}
    for name, layer in quantized.fake_layers().items():
        quantizer, fake = quantized.placement.weights[name].quantizer, layer.weight_quantizer
        if not trains or fake.starts_from_rounding:
            bits = fake.spec.bits
            wanted[name] = _quantizer(methods, quantizer).rounding(recipe.quantizers[quantizer], bits)
    how = rounding.offered(quantized, wanted)
    if not how:
        return
    fakes = quantized.weight_fakes()
    is_deep = any(each == "descent" and fakes[name].spec.bits <= IN_ORDER_BITS for name, each in how.items())
    if is_deep and not trains:
        batches = _batches(context, rounding.most_images(quantized, IN_ORDER_IMAGES))
        if sum(map(len, batches)) >= LEAST_IN_ORDER:
            rounding.round_in_order(quantized, how, batches, seed=context.seed)
            return
    rounding.round_layers(quantized, how, _batches(context, ROUNDING_IMAGES), seed=context.seed)


def _batches(context: Context, wanted: int) -> list[torch.Tensor]:
    assert context.transfer is not None
    split = context.transfer.train
    split = split.subset(min(wanted, len(split)), context.seed)
    return [images.to(context.device) for images, _ in split.loader(_batch_size(context))]


def _batch_size(context: Context) -> int:
    _, height, width = context.input_size
    return max(1, min(CALIBRATION_BATCH, BATCH_PIXELS // (height * width)))


def trained(recipe: Recipe) -> bool:
    """Whether QUANTIZE trains the network."""
    return bool(recipe.qat.get("epochs"))


def _quantizer(methods: Mapping[str, Method], name: str) -> Quantizer:
    method = methods[name]
    assert isinstance(method, Quantizer)
    return method


def _check_images(images: list[torch.Tensor]) -> None:
    """Refuses images from which no ranges can be chosen: none at all, or a single colour.

    Values that are not finite are found while ranges are observed.
    """
    if not images:
        raise TrialFailed("the calibration set holds no images")
    ends = torch.stack([torch.stack(batch.transpose(0, 1).flatten(1).aminmax(dim=1)) for batch in images])
    if bool((ends[:, 0].amin(0) == ends[:, 1].amax(0)).all()):
        raise TrialFailed("all calibration images have one and the same colour, so no ranges can be found")


def _calibration_images(context: Context, wanted: int) -> Iterator[torch.Tensor]:
    assert context.transfer is not None
    split, (_, height, width) = context.transfer.calibration, context.input_size
    most = max(LEAST_CALIBRATION, CALIBRATION_PIXELS // (height * width))
    for images, _ in split.subset(min(wanted, most, len(split)), context.seed).loader(_batch_size(context)):
        yield images
