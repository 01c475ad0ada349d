"""Ghost kernels by least squares on calibration images. The paper trains them from scratch.

For ghost j of intrinsic i, with P_i the d^2 shifted copies of the map Y_i,

    min_theta || Y_j - theta . P_i ||^2
    (A + ridge I) theta = b,   A = P_i P_i^T,  b = P_i Y_j

Means are subtracted first if the bias or a recalibrated normalisation restores them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

RIDGE = 1e-4
POSITIONS_PER_IMAGE = 256
"""Maximum number of positions; a regular grid of them is used, because neighbours are similar."""


class Covariance:
    """Covariance of the channels of a stream of maps ``(N, n, H, W)``."""

    def __init__(self) -> None:
        self.count = 0
        self._shift: torch.Tensor | None = None
        self._sum = torch.zeros(())
        self._products = torch.zeros(())

    def add(self, maps: torch.Tensor) -> None:
        flat = maps[:, :, :: _step(maps), :: _step(maps)].transpose(0, 1).flatten(1)
        if self._shift is None:  # sums of differences from a first guess of the mean stay exact in float32
            self._shift = flat.mean(1, keepdim=True)
        flat = flat - self._shift
        self.count += flat.shape[1]
        self._sum = self._sum + flat.sum(1).double()
        self._products = self._products + (flat @ flat.T).double()

    def matrix(self) -> torch.Tensor:
        """float64 ``[n, n]``."""
        mean = self._sum / self.count
        return self._products / self.count - torch.outer(mean, mean)


class NormalEquations:
    """A and b of every ghost of one layer, accumulated over calibration batches.

    Args:
        intrinsic: int64 ``(m,)``, channels of the source maps.
        ghosts: int64 ``(g,)``, channels of the target maps.
        owner: int64 ``(g,)``, for each ghost the index of its intrinsic map in ``intrinsic``.
        kernel: d.
        centre: subtract the means.
    """

    def __init__(
        self, intrinsic: torch.Tensor, ghosts: torch.Tensor, owner: torch.Tensor, kernel: int, *, centre: bool = True
    ) -> None:
        self.intrinsic, self.ghosts, self.owner, self.kernel, self.centre = intrinsic, ghosts, owner, kernel, centre
        self.count = 0
        self._aa = torch.zeros(())
        self._ab = torch.zeros(())
        self._a = torch.zeros(())
        self._b = torch.zeros(())
        self._bb = torch.zeros(())

    def add(self, source: torch.Tensor, target: torch.Tensor) -> None:
        step, d = _step(source), self.kernel
        # [m, d^2, P]; zero padding as in the cheap convolution, its first centre at (0, 0)
        patches = F.unfold(source[:, self.intrinsic].double(), d, padding=d // 2, stride=step)
        patches = patches.unflatten(1, (len(self.intrinsic), d * d)).permute(1, 2, 0, 3).flatten(2)
        wanted = target[:, self.ghosts, ::step, ::step].double().transpose(0, 1).flatten(1)
        self.count += wanted.shape[1]
        self._a = self._a + patches.sum(2)
        self._b = self._b + wanted.sum(1)
        self._bb = self._bb + (wanted**2).sum(1)
        self._aa = self._aa + patches @ patches.transpose(1, 2)
        self._ab = self._ab + (patches[self.owner] @ wanted[:, :, None])[:, :, 0]

    @property
    def patch_mean(self) -> torch.Tensor:
        """Mean of each tap of each ghost's intrinsic map, ``[g, d^2]``."""
        return (self._a / self.count)[self.owner]

    @property
    def target_mean(self) -> torch.Tensor:
        """``(g,)``."""
        return self._b / self.count

    def centred(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A ``[g, d^2, d^2]``, b ``[g, d^2]`` and target variance ``(g,)``, per position.

        Means are subtracted.
        """
        mean, wanted = self._a / self.count * self.centre, self.target_mean * self.centre
        covariance = self._aa / self.count - mean[:, :, None] * mean[:, None, :]
        cross = self._ab / self.count - mean[self.owner] * wanted[:, None]
        return covariance[self.owner], cross, self._bb / self.count - wanted**2

    def centre_tap(self) -> torch.Tensor:
        """The best kernel with one tap, ``[g, d^2]``; zero where the intrinsic map is constant."""
        a, b, _ = self.centred()
        theta, centre = torch.zeros_like(b), self.kernel**2 // 2
        power = a[:, centre, centre]
        theta[:, centre] = torch.where(power > 1e-12, b[:, centre] / power.clamp(min=1e-12), 0.0)
        return theta

    def solve(self) -> torch.Tensor:
        """Theta ``[g, d^2]``.

        The ridge pulls towards the centre tap, so it costs nothing where that tap is exact.
        """
        a, b, _ = self.centred()
        start = self.centre_tap()
        scale = a.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        ridged = a + RIDGE * scale[:, None, None] * torch.eye(self.kernel**2, dtype=a.dtype, device=a.device)
        rest = b - (a @ start[:, :, None])[:, :, 0]
        return start + torch.linalg.solve(ridged, rest)

    def errors(self, theta: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each ghost around its mean, ``(g,)``: E[(Y_j - theta . P_i)^2]."""
        a, b, power = self.centred()
        return power - 2 * (theta * b).sum(1) + torch.einsum("gk,gkl,gl->g", theta, a, theta)

    def output_moments(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance ``(g,)`` of ``theta . P_i``, which the ghost's norm reads."""
        a, _, _ = self.centred()
        return (theta * self.patch_mean).sum(1), torch.einsum("gk,gkl,gl->g", theta, a, theta).clamp(min=0.0)


def _step(maps: torch.Tensor) -> int:
    return max(1, round((maps.shape[-2] * maps.shape[-1] / POSITIONS_PER_IMAGE) ** 0.5))


@torch.no_grad()
def observe(
    model: nn.Module,
    batches: Callable[[], object],
    watchers: Mapping[str, Callable[[torch.Tensor], None]],
    device: torch.device,
) -> None:
    """Runs ``batches()`` through ``model`` in eval mode; watchers get outputs of their modules."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output, watch=watch: watch(output))
        for name, watch in watchers.items()
    ]
    model.eval()
    try:
        for images, _ in batches():  # type: ignore[attr-defined]
            model(images.to(device))
    finally:
        for handle in handles:
            handle.remove()
