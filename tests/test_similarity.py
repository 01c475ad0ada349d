"""Similarity of data to the training data of a model.

It is computed over all images together, it ranks data as expected, and it refuses other models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teacher import SIZE, TinyNet, described, digits_teacher, untrained
from torch import nn

from autocompress.data import DataInfo, TensorSplit
from autocompress.data.digits import Digits
from autocompress.errors import UserError
from autocompress.synthesis import watching_norms
from autocompress.synthesis.similarity import pooled_statistics, similarity
from autocompress.synthesis.statistics import input_statistics
from autocompress.synthesis.terms_gaussian import blurred, mean_divergence

INFO = DataInfo(10, 1, (16, 16), (0.3,), (0.35,), tuple("0123456789"))


def split(images: torch.Tensor) -> TensorSplit:
    return TensorSplit(images, torch.zeros(len(images), dtype=torch.int64), INFO)


def held_out() -> torch.Tensor:
    """Digits on which the teacher was not trained."""
    found = Digits().load("digits").val
    assert isinstance(found, TensorSplit)
    return (F.avg_pool2d(found.images.float() / 255, 2) - 0.3) / 0.35


def test_data_are_ranked_by_their_similarity_to_the_training_data() -> None:
    teacher, real, _ = digits_teacher()
    new = held_out()[:256]
    # Mild changes: the distance of a change depends on its strength.
    shifted, blurred, inverted = new + 0.3, 0.5 * new + 0.5 * F.avg_pool2d(new, 3, 1, 1), -new
    noise = torch.randn(256, *SIZE)
    scores = [similarity(teacher, split(images)) for images in (new, shifted, blurred, inverted, noise)]
    likeness, *others, worst = scores
    assert likeness < similarity(teacher, split(real)) + 0.01, "it hardly matters whether images were trained on"
    assert all(5 * likeness < other < worst for other in others), scores


def test_real_digits_precede_blurred_ones_and_these_precede_noise() -> None:
    """The divergence has the direction of the authors' code.

    The other direction hardly separates blurred digits from noise.
    """
    teacher, real, _ = digits_teacher()
    new = held_out()[:256]
    noise = torch.randn(256, *SIZE)
    found = [similarity(teacher, split(images)) for images in (new, blurred(new), noise)]
    assert 10 * found[0] < found[1] < found[2] / 3, found
    other = [similarity(teacher, split(images), divergence="recorded") for images in (new, blurred(new), noise)]
    assert other[2] / other[1] < 0.5 * found[2] / found[1], "the option must have an effect"
    assert similarity(teacher, split(real)) < found[1] / 10


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), shift=st.sampled_from([0.0, 100.0]))
@settings(max_examples=20, deadline=None)
def test_statistics_are_those_of_all_images_together(sizes: list[int], shift: float) -> None:
    """Averages over batches would differ.

    A batch of one image has almost no variance between images.
    """
    torch.manual_seed(0)
    teacher = untrained()
    # The brightness of images differs, so almost all variance is between batches of one image.
    images = torch.randn(sum(sizes), *SIZE) + 5 * torch.randn(sum(sizes), 1, 1, 1) + shift
    found = pooled_statistics(teacher, [(part, torch.zeros(len(part))) for part in images.split(sizes)])
    exact = copy.deepcopy(teacher).double()
    with torch.no_grad(), watching_norms(exact) as norms:
        exact(images.double())
        for pooled, whole in zip(found, [input_statistics(images.double()), *norms], strict=True):
            assert pooled.name == whole.name
            assert torch.allclose(pooled.mean, whole.mean, rtol=1e-4, atol=1e-4)
            assert torch.allclose(pooled.variance, whole.variance, rtol=1e-3, atol=1e-5)


def test_the_batch_size_does_not_matter() -> None:
    teacher, real, _ = digits_teacher()
    scores = [similarity(teacher, split(real), batch_size=size) for size in (1, 7, 256)]
    assert scores[0] == pytest.approx(scores[2], rel=1e-4)
    assert scores[1] == pytest.approx(scores[2], rel=1e-4)
    whole = copy.deepcopy(teacher)
    with torch.no_grad(), watching_norms(whole) as norms:
        whole(real)
        assert mean_divergence([input_statistics(real), *norms]).item() == pytest.approx(scores[2], rel=1e-4)


def test_few_images_have_an_upward_bias_of_one_over_their_number() -> None:
    """A channel with n independent normal values scores 1/n on average."""
    torch.manual_seed(0)
    net = described(nn.Sequential(nn.BatchNorm2d(64, eps=0.0)).eval(), (64, 1, 1), 10)
    net[0].running_mean += 1e-3  # type: ignore[index]  # or it would count as untrained
    net.weight = nn.Parameter(torch.zeros(1))
    scores = {
        n: sum(similarity(net, [(torch.randn(n, 64, 1, 1), torch.zeros(n))]) for _ in range(20)) / 20 for n in (32, 256)
    }
    assert scores[256] == pytest.approx(1 / 256, rel=0.15)
    assert scores[32] == pytest.approx(1 / 32, rel=0.25)


def test_the_model_is_not_changed_and_its_mode_does_not_matter() -> None:
    teacher, real, _ = digits_teacher()
    training = copy.deepcopy(teacher).train()
    before = {name: value.clone() for name, value in training.state_dict().items()}
    assert similarity(training, split(real)) == similarity(teacher, split(real))
    assert all(torch.equal(before[name], value) for name, value in training.state_dict().items())
    assert all(module.training for module in training.modules())
    assert not any(module._forward_pre_hooks for module in training.modules())


def test_progress_counts_images() -> None:
    seen: list[int] = []
    similarity(digits_teacher()[0], split(held_out()[:10]), batch_size=4, progress=seen.append)
    assert seen == [4, 8, 10]


def test_models_without_statistics_are_refused() -> None:
    bare = described(TinyNet(norm=nn.Identity).eval(), SIZE, 10)
    with pytest.raises(UserError, match="cannot be computed with this model: it has no batch norm"):
        similarity(bare, split(held_out()[:4]))
    with pytest.raises(UserError, match="recorded nothing yet"):
        similarity(described(TinyNet().eval(), SIZE, 10), split(held_out()[:4]))

    def nothing() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from ()

    with pytest.raises(UserError, match="no images"):
        similarity(digits_teacher()[0], nothing())
