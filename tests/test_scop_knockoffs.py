"""Knockoff data.

Their second moments, the range of the images, and seeds.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.data import DataInfo, TensorSplit
from autocompress_scop import knockoffs
from autocompress_scop.knockoffs_gaussian import PatchGaussian, SecondOrder, from_patches, to_patches


def covariance_of(d: int, seed: int) -> torch.Tensor:
    """A well-conditioned covariance with unequal variances."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return a @ a.T / d + 0.5 * torch.diag(torch.rand(d, generator=generator, dtype=torch.float64) + 0.5)


def smooth_split(n: int = 96, size: int = 16, channels: int = 3) -> TensorSplit:
    """Smooth random images around a mean image, normalised."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, channels, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    images = images + torch.linspace(-1, 1, size) + 0.2 * torch.randn(images.shape, generator=generator)
    info = DataInfo(4, channels, (size, size), (0.5,) * channels, (0.5,) * channels, ("a", "b", "c", "d"))
    return TensorSplit(images, torch.arange(n) % 4, info)


# --- second moments -------------------------------------------------------------------------------


def test_gaussian_knockoffs_have_the_covariance_of_the_data_and_s_less_with_it() -> None:
    d, n = 6, 100_000
    covariance = covariance_of(d, 1)
    mean = torch.linspace(-2, 2, d)
    law = SecondOrder(mean, covariance)
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(covariance).float()
    x = mean + torch.randn(n, d, generator=generator) @ root.T
    copy = law(x, generator)
    joint = torch.cov(torch.cat([x, copy], 1).T.double())
    # the standard error of a covariance of n samples is about its size / sqrt(n); 5 of them are
    # allowed
    bound = 5 * float(covariance.diagonal().max()) * 1.5 / n**0.5
    assert (joint[d:, d:] - covariance).abs().max() < bound
    assert (joint[:d, d:] - (covariance - law.distance.diag())).abs().max() < bound
    assert (copy.mean(0) - mean).abs().max() < bound


@settings(max_examples=25, deadline=None)
@given(d=st.integers(1, 24), seed=st.integers(0, 1000), shrinkage=st.sampled_from([0.0, 0.2, 0.5]))
def test_the_conditional_covariance_is_positive_semidefinite(d: int, seed: int, shrinkage: float) -> None:
    law = SecondOrder(torch.zeros(d), covariance_of(d, seed), shrinkage)
    distance = law.distance.diag()
    expected = 2 * distance - distance @ torch.linalg.inv(law.covariance) @ distance
    assert torch.allclose(law.conditional, expected, atol=1e-9)
    assert torch.linalg.eigvalsh(expected).min() > -1e-9
    # 0 <= D <= 2S is the same condition for the joint covariance
    assert torch.linalg.eigvalsh(2 * law.covariance - distance).min() > -1e-9
    assert law.s <= 1


def test_knockoffs_equal_to_the_images_are_refused() -> None:
    equal = torch.ones(5, 5)  # one factor determines all coordinates, so lambda_min is 0
    with pytest.raises(ValueError, match="shrink more"):
        SecondOrder(torch.zeros(5), equal)
    assert SecondOrder(torch.zeros(5), equal, shrinkage=0.5).s == pytest.approx(1.0)


def test_a_constant_pixel_does_not_change() -> None:
    covariance = torch.eye(4)
    covariance[0, 0] = 0
    copy = SecondOrder(torch.full((4,), 3.0), covariance, 0.5)(
        torch.full((50, 4), 3.0), torch.Generator().manual_seed(0)
    )
    assert (copy[:, 0] - 3).abs().max() < 0.02
    assert (copy[:, 1] - 3).abs().max() > 0.5


# --- patches --------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 3), c=st.integers(1, 3), h=st.integers(4, 19), w=st.integers(4, 19), patch=st.integers(1, 4))
def test_an_image_is_split_into_patches_and_reassembled(n: int, c: int, h: int, w: int, patch: int) -> None:
    images = torch.arange(n * c * h * w, dtype=torch.float32).view(n, c, h, w)
    vectors = to_patches(images, patch)
    assert vectors.shape == (n, -(-h // patch) * -(-w // patch), c * patch * patch)
    assert torch.equal(from_patches(vectors, patch, images.shape[1:]), images)


def test_knockoffs_have_the_means_and_variances_of_the_images() -> None:
    split = smooth_split(n=400)
    source = PatchGaussian(split, patch=4, shrinkage=0.5)
    images = next(iter(split.loader(400)))[0]
    copy = source(images, torch.Generator().manual_seed(0))
    assert copy.shape == images.shape
    assert (copy.mean(0) - images.mean(0)).abs().max() < 0.5
    assert torch.allclose(copy.var((0, 2, 3)), images.var((0, 2, 3)), rtol=0.15)
    correlation = torch.corrcoef(torch.stack([(images - source.mean).flatten(), (copy - source.mean).flatten()]))[0, 1]
    # s = 1 in the shrunk model; what the patches share (smooth parts) is pulled less than shrinkage
    # takes it to be
    assert correlation < 0.75, "a knockoff is not the image"


# --- every kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", knockoffs.KINDS)
def test_every_kind_is_seeded_and_in_the_range_of_the_images(kind: str) -> None:
    split = smooth_split()
    images = next(iter(split.loader(7)))[0]  # odd
    made = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)  # must not matter
        source = knockoffs.make(kind, split, seed=3, steps=20)
        made.append(source(images, torch.Generator().manual_seed(5)))
    copy = made[0]
    assert torch.equal(copy, made[1])
    assert copy.shape == images.shape
    assert not copy.requires_grad
    everything = next(iter(split.loader(96)))[0]
    # normalised like the images: not the [-1, 1] of a tanh, and no farther out than a Gaussian of
    #     their variance
    assert copy.abs().max() < 1.6 * everything.abs().max()
    assert not torch.allclose(copy, images, atol=0.1)
    one = source(images[:1], torch.Generator().manual_seed(5))
    assert one.shape == images[:1].shape
    assert not torch.equal(one, images[:1])


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 9), seed=st.integers(0, 99))
def test_a_permutation_moves_every_image(n: int, seed: int) -> None:
    split = smooth_split()
    images = next(iter(split.loader(n)))[0]
    copy = knockoffs.make("permute", split)(images, torch.Generator().manual_seed(seed))
    assert not any(torch.equal(a, b) for a, b in zip(images, copy, strict=True))
    assert torch.allclose(copy.sum(0), images.sum(0), atol=1e-5)


def test_trained_generators_get_closer_to_the_images() -> None:
    split = smooth_split(n=96)
    images = next(iter(split.loader(96)))[0]

    def distance(kind: str, steps: int) -> float:
        copy = knockoffs.make(kind, split, steps=steps)(images, torch.Generator().manual_seed(0))
        mean = (copy.mean(0) - images.mean(0)).square().mean()
        return float(mean + (copy.std((0, 2, 3)) - images.std((0, 2, 3))).square().mean())

    for kind in ("gan_uncond", "gan_cond"):
        assert distance(kind, 80) < 0.5 * distance(kind, 1)


def test_invalid_settings_are_refused() -> None:
    split = smooth_split()
    with pytest.raises(ValueError, match="gaussian, gan_cond"):
        knockoffs.make("photocopy", split)
    with pytest.raises(ValueError, match="need images"):
        knockoffs.make("gaussian", split.take(torch.arange(0)))
    with pytest.raises(ValueError, match="at least two"):
        knockoffs.make("permute", split.take(torch.arange(1)))
