"""Knockoffs from generators that are trained on the transfer set.

The training code of the paper is not published. Architectures and losses here are our own, small
enough for a minute on one core.

``UnconditionalGan`` is what the official code does: G(z), independent of the image. That satisfies
the full swap, but a partial swap breaks the correlation within an image. ``ConditionalGan`` is what
the paper describes (after KnockoffGAN, Jordon et al., ICLR 2019): G(x, z) against a discriminator
that predicts which patches were swapped between x and x~.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.data import Split
from autocompress_scop.knockoffs_gaussian import PatchGaussian, to_patches

NOISE = 64
SIDE = 32
"""Images are generated at most this large and then resized (the official ones: 64, then 224)."""
BATCH = 32
LR, BETAS = 1e-3, (0.5, 0.9)
PATCH = 4
Z_PLANES = 4


class _Range(nn.Module):
    """Maps each channel to the range of the images: lo + (hi - lo) sigmoid(x)."""

    lo: torch.Tensor
    hi: torch.Tensor

    def __init__(self, split: Split) -> None:
        super().__init__()
        ends = [(x.amin((0, 2, 3)), x.amax((0, 2, 3))) for x, _ in split.loader(256)]
        for name, values in (
            ("lo", torch.stack([lo for lo, _ in ends]).amin(0)),
            ("hi", torch.stack([hi for _, hi in ends]).amax(0)),
        ):
            self.register_buffer(name, values.view(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lo + (self.hi - self.lo) * torch.sigmoid(x)


class UnconditionalGan:
    """x~ = G(z), z ~ N(0, I_64), G trained with the non-saturating loss.

    Args:
        split: real images.
        steps: training steps of both networks.
        seed, device, progress: as in ``knockoffs.make``.
    """

    def __init__(
        self,
        split: Split,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        progress: Callable[..., None] | None = None,
    ) -> None:
        channels, *size = split.input_size
        doublings = max(1, (min(max(size), SIDE) // 4 - 1).bit_length())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = _noise_generator(channels, doublings, _Range(split)).to(device)
            judge = _judge(channels, doublings).to(device)
        self.size, side = (size[0], size[1]), 4 * 2**doublings
        draw = torch.Generator().manual_seed(seed)
        ours, theirs = _optimizer(self.net), _optimizer(judge)
        for step, real in zip(range(steps), _endless(split, seed), strict=False):
            real = F.interpolate(real.to(device), (side, side), mode="bilinear", antialias=True)
            fake = self.net(_noise(len(real), draw, device))
            loss = F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()
            _step(theirs, loss)
            _step(ours, F.softplus(-judge(fake)).mean())
            if progress is not None:
                progress((step + 1) / steps, "generator")
        self.net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As many images as in ``images``, independent of their content."""
        made = self.net(_noise(len(images), generator, images.device))
        return F.interpolate(made, self.size, mode="bilinear", antialias=True)


def _noise_generator(channels: int, doublings: int, squash: nn.Module) -> nn.Sequential:
    width = 64
    layers: list[nn.Module] = [nn.Linear(NOISE, width * 16), nn.Unflatten(1, (width, 4, 4)), nn.BatchNorm2d(width)]
    for _ in range(doublings):
        layers += [nn.ReLU(), nn.ConvTranspose2d(width, max(width // 2, 16), 2, stride=2)]
        width = max(width // 2, 16)
        layers.append(nn.BatchNorm2d(width))
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1), squash)


def _judge(channels: int, doublings: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise([channels, *(32 for _ in range(doublings))]):
        layers += [nn.Conv2d(width_in, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 1))


class ConditionalGan:
    """x~ = G(x, z) with a swap discriminator.

        x', x~' = x, x~ with the patches of a random mask m swapped
        D minimises  BCE(D(x', x~'), m)
        G minimises  BCE(D(x', x~'), 1/2) + |cov(x~) - S|^2 / |S|^2
                       + |cov(x, x~) - (S - diag s)|^2 / |S|^2 + |mean(x~) - mean(x)|^2 / tr S

    S and s are those of the Gaussian knockoffs on patches of 4. Without the term of cov(x, x~),
    x~ = x would minimise the loss, and such knockoffs are useless.

    Args:
        split: real images.
        steps, seed, device, shrinkage, progress: as in ``knockoffs.make``.
    """

    def __init__(
        self,
        split: Split,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        shrinkage: float,
        progress: Callable[..., None] | None = None,
    ) -> None:
        channels = split.input_size[0]
        gaussian = PatchGaussian(split, PATCH, shrinkage)
        patch, mean = gaussian.patch, gaussian.mean.to(device)
        covariance = gaussian.law.covariance.float().to(device)
        cross = covariance - gaussian.law.distance.float().diag().to(device)
        scale = covariance.square().sum()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = _image_generator(channels, _Range(split)).to(device)
            judge = _swap_judge(channels, patch).to(device)
        draw = torch.Generator().manual_seed(seed)
        ours, theirs = _optimizer(self.net), _optimizer(judge)
        for step, x in zip(range(steps), _endless(split, seed), strict=False):
            x = x.to(device)
            copy = self._sample(x, draw)
            places = -(-x.shape[2] // patch), -(-x.shape[3] // patch)
            swapped = torch.randint(0, 2, (len(x), 1, *places), generator=draw).float().to(device)
            mask = swapped.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., : x.shape[2], : x.shape[3]]
            pair = _swap(x, copy, mask)
            _step(theirs, F.binary_cross_entropy_with_logits(judge(pair.detach()), swapped))
            fooled = F.binary_cross_entropy_with_logits(judge(pair), torch.full_like(swapped, 0.5))
            a, b = (to_patches(images - mean, patch).flatten(0, 1) for images in (x, copy))
            moments = (b.T @ b / len(b) - covariance).square().sum() + (a.T @ b / len(a) - cross).square().sum()
            _step(ours, fooled + moments / scale + b.mean(0).square().sum() / covariance.trace())
            if progress is not None:
                progress((step + 1) / steps, "generator")
        self.net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Knockoffs of ``images``."""
        return self._sample(images, generator)

    def _sample(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        n, _, h, w = images.shape
        z = torch.randn(n, Z_PLANES, h, w, generator=generator).to(images.device)
        made: torch.Tensor = self.net(torch.cat([images, z], 1))
        return made


def _swap(x: torch.Tensor, copy: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``(x', x~')`` side by side, ``(N, 2 C, H, W)``; where ``mask`` is 1 they are exchanged."""
    return torch.cat([x + mask * (copy - x), copy + mask * (x - copy)], 1)


def _image_generator(channels: int, squash: nn.Module) -> nn.Sequential:
    width = 16
    return nn.Sequential(
        nn.Conv2d(channels + Z_PLANES, width, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, channels, 3, padding=1),
        squash,
    )


def _swap_judge(channels: int, patch: int) -> nn.Sequential:
    """A logit per patch that says whether it was swapped, from the patch and its neighbours."""
    return nn.Sequential(
        _Padded(patch),
        nn.Conv2d(2 * channels, 64, patch, stride=patch),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 1),
    )


class _Padded(nn.Module):
    """Repeats edges to fill whole patches."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (0, -x.shape[3] % self.patch, 0, -x.shape[2] % self.patch), mode="replicate")


def _noise(n: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    return torch.randn(n, NOISE, generator=generator).to(device)


def _optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=LR, betas=BETAS)


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    # Each loss also gives gradients to the other network, which its zero_grad drops.
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _endless(split: Split, seed: int) -> Iterator[torch.Tensor]:
    """Batches of images, epoch after epoch."""
    size = min(BATCH, len(split))
    for epoch in itertools.count():
        for images, _ in split.loader(size, shuffle=True, seed=seed + epoch, drop_last=True):
            yield images
