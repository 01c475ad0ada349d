"""Corrects moments on images that differ from the data, with recorded statistics of batch norms.

A batch norm recorded the variance of each of its inputs on the data. If the images give another
variance, the inputs of the layers behind that norm are scaled to correct it, and a stronger ridge
pulls the refit towards the old weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autocompress.graph import evaluating
from autocompress.repair.moments import Moments

FACTOR = 2.0
"""Ratio of variances above which images are treated as different from the data."""
STRONGER = 10.0
"""Factor of lambda for such images."""
MOST = 64.0
"""Maximum factor on a variance. Almost constant inputs tell too little for a larger one."""
NO_VARIANCE = 1e-12
"""A channel with a recorded variance below this is dead."""


@torch.no_grad()
def variance_ratios(
    model: nn.Module,
    norms: Sequence[str],
    batches: Iterable[torch.Tensor],
    pause: Callable[[], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Variances of the inputs of batch norms on images, divided by the recorded variances.

    Args:
        model: network on any device; it is not changed.
        norms: module paths of batch norms with running statistics.
        batches: images ``[N, C, H, W]`` on the device of the model.
        pause: called between batches.

    Returns:
        float64 ``[channels]`` by norm; 1 for dead channels. A norm that did not run is left out.
    """
    sums: dict[str, list[Any]] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def see(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            # Relative to the recorded mean, to avoid cancellation.
            mean = norm.running_mean
            assert isinstance(mean, torch.Tensor)
            own = inputs[0].detach().float().transpose(0, 1).flatten(1) - mean.float()[:, None]
            known = sums.setdefault(name, [0, 0.0, 0.0])
            known[0] += own.shape[1]
            known[1] = known[1] + own.sum(1, dtype=torch.float64).cpu()
            known[2] = known[2] + own.square().sum(1, dtype=torch.float64).cpu()

        return see

    with evaluating(model), ExitStack() as stack:
        for name in norms:
            stack.callback(model.get_submodule(name).register_forward_pre_hook(hook(name)).remove)
        for batch in batches:
            model(batch)
            if pause is not None:
                pause()
    found = {}
    for name, (count, first, second) in sums.items():
        recorded = model.get_submodule(name).running_var
        assert isinstance(recorded, torch.Tensor)
        variance, recorded = second / count - (first / count).square(), recorded.detach().double().cpu()
        known = recorded > NO_VARIANCE
        found[name] = torch.where(known, variance.clamp(min=0) / recorded.clamp(min=NO_VARIANCE), 1.0)
    return found


def correction(ratio: torch.Tensor) -> torch.Tensor:
    """The factor for each input; 1 where both variances are similar.

    Args:
        ratio: variance of each input on the images, divided by the recorded one.
    """
    alike = (ratio <= FACTOR) & (ratio >= 1 / FACTOR)
    return torch.where(alike, 1.0, ratio.clamp(1 / MOST, MOST).rsqrt())


def rescaled(moments: Moments, scale: torch.Tensor) -> Moments:
    """Moments with each input scaled about its mean by ``scale``, and a stronger lambda.

    Args:
        moments: moments of a layer.
        scale: for each of its input channels, ``[groups * inputs]``.
    """
    columns = moments.columns
    spread = scale.to(moments.mean).reshape(columns.groups, columns.inputs)
    spread = spread.repeat_interleave(len(columns.taps), dim=1)
    covariance, samples = moments.covariance, moments.samples
    return replace(
        moments,
        covariance=None if covariance is None else covariance * spread[:, :, None] * spread[:, None, :],
        samples=None if samples is None else samples * spread[:, None, :].to(samples),
        ridge=STRONGER * moments.ridge,
        rescaled=True,
    )
