"""Importance of channels by criterion, and from a layer's scores to a coupling's (digest, sections 3 and 9).

    scop        I = |gamma| (2 beta - 1)        0 at the start, negative where the knockoff won
    magnitude   I = |W_j|_1                     the filter's L1 norm (Li et al., ICLR 2017)
    bn-scale    I = |gamma|                     (Liu et al., ICCV 2017)
    random      I ~ U(0, 1)                     by seed and layer name

The choice of the digest's section 10 between |gamma| (2 beta - 1) and 2 beta - 1 alone is not built: ``scop`` is the
first, as in the official code.

A layer without a batch norm behind it has gamma = 1 in ``scop``, and its filters' norms in ``bn-scale``.

Where several layers write the same channels, a channel's score is the plain mean of theirs (digest, section 8): what
they write is added up, so a writer with small gammas says little about a channel, and must not count as much as one
that makes nearly all of it. Only a ranking over all layers needs scores without a unit (:func:`normalised`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from autocompress.contract import LayerSpec
from autocompress.contract.coupling import Coupling

CRITERIA = ("scop", "magnitude", "bn-scale", "random")
Scores = dict[str, torch.Tensor]
"""Layer of the baseline -> importance of each output channel, float32 ``(M,)``, on the CPU."""
MOST_OF_A_COUPLING = 0.9
"""A global ranking takes at most this share of one coupling: a layer of one channel lets nothing through, whatever the
ranking thinks of the others."""


def importance(gamma: torch.Tensor | None, beta: torch.Tensor) -> torch.Tensor:
    """I_j = |gamma_j| (beta_j - (1 - beta_j)), float32 ``(M,)``; in [-|gamma_j|, |gamma_j|]."""
    advantage = 2 * beta - 1
    return advantage if gamma is None else gamma.abs() * advantage


def pairs_of(couplings: Iterable[Coupling], exempt: Iterable[str] = ()) -> dict[str, str | None]:
    """Which layers of the baseline get scores: layer -> the batch norm directly behind it, or None, in network order.

    Of each coupling the writers with a norm (digest, section 10: convolution directly followed by a batch norm); all
    its writers only where none has one (transformers), since gamma 1 does not compare with a real gamma.

    Args:
        couplings: of the baseline; those that may not be pruned are passed over.
        exempt: layers that the paper leaves alone (the stem).
    """
    exempt, pairs = set(exempt), {}
    for coupling in couplings:
        if not coupling.prunable:
            continue
        norms = dict(coupling.norm_of)
        writers = [name for name in coupling.producers if name not in exempt]
        chosen = [name for name in writers if name in norms] or writers
        pairs.update({name: norms.get(name) for name in chosen})
    return pairs


def from_weights(criterion: str, model: nn.Module, pairs: Mapping[str, str | None], seed: int = 0) -> Scores:
    """Scores of every criterion but ``scop``. A plugin's layer that has no weight with one row a channel (a ghost
    module) gets none.

    Raises:
        ValueError: for another criterion.
    """
    rows = {name: getattr(model.get_submodule(name), "weight", None) for name in pairs}
    return {
        name: _score(criterion, model, name, norm, seed).float().cpu()
        for name, norm in pairs.items()
        if isinstance(rows[name], torch.Tensor)
    }


def _score(criterion: str, model: nn.Module, name: str, norm: str | None, seed: int) -> torch.Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, torch.Tensor)
    if criterion == "random":
        generator = torch.Generator().manual_seed((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63)
        return torch.rand(len(weight), generator=generator)
    scale = gamma_of(model, norm)
    if criterion == "bn-scale" and scale is not None:
        return scale.abs()
    if criterion in ("magnitude", "bn-scale"):
        return weight.detach().abs().flatten(1).sum(1)
    raise ValueError(f"unknown criterion {criterion!r}")


def gamma_of(model: nn.Module, norm: str | None) -> torch.Tensor | None:
    """The scale of a batch norm, ``(M,)``; None without a norm, ones where it has no affine part."""
    if norm is None:
        return None
    module = model.get_submodule(norm)
    if isinstance(module.weight, torch.Tensor):
        return module.weight.detach()
    return torch.ones(int(module.num_features))  # type: ignore[arg-type]


def normalised(scores: torch.Tensor, largest: torch.Tensor | None = None) -> torch.Tensor:
    """Scores that compare with those of other layers: |gamma| of one layer says nothing about another's (digest,
    section 9).

    Args:
        scores: of channels that go together.
        largest: whose root mean square they are divided by; None for the scores' own. For ``scop`` |gamma|, the scores
            with every beta at one: gamma is what does not compare. How decided the betas are does, and stays: where
            they hardly left one half, all scores are near 0.

    Returns:
        Same shape. All zero stays zero; the sign stays, and with it who won against the knockoff.
    """
    size = (scores if largest is None else largest).square().mean().sqrt()
    return scores / size if float(size) > 0 else scores


def of_coupling(
    coupling: Coupling, scores: Mapping[str, torch.Tensor], model: nn.Module, specs: Sequence[LayerSpec] = ()
) -> torch.Tensor | None:
    """Scores of a coupling's channels, float32 ``(channels,)``: the mean over its writers of their scores.

    Where a writer stands in for a layer of the baseline (a ghost module), its output channels take the scores of the
    channels that they stand for (``LayerSpec.channel_map``); a channel of the coupling that is several of a writer's
    (a head, an intrinsic map with its ghosts) takes their mean.

    Returns:
        None where no writer has scores.
    """
    found = []
    for writer, index in coupling.producers.items():
        own = _of_layer(writer, scores, model, specs)
        if own is None or not all(len(indices) for indices in index):
            continue
        found.append(torch.stack([own[list(indices)].mean() for indices in index]))
    return torch.stack(found).mean(0) if found else None


def baseline_layer(name: str, known: Iterable[str]) -> str | None:
    """The layer of the baseline that ``name`` is, or that it is a part of now; None for neither."""
    known = set(known)
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def _of_layer(
    writer: str, scores: Mapping[str, torch.Tensor], model: nn.Module, specs: Sequence[LayerSpec]
) -> torch.Tensor | None:
    origin = baseline_layer(writer, scores)
    if origin is None:
        return None
    own = scores[origin]
    module = model.get_submodule(origin)
    spec = next((spec for spec in specs if type(module) is spec.layer_type), None)
    # Part of a substituted layer (a primary convolution): its channels come first among the layer's own.
    return own if spec is None else own[spec.channel_map(module).cpu()]


def global_rates(scores: Mapping[str, torch.Tensor], rate: float) -> dict[str, float]:
    """One ranking over all couplings: floor(rate * total) channels with the lowest scores go, wherever they are.

    Args:
        scores: coupling -> normalised scores of its channels.
        rate: of all channels, in [0, 1).

    Returns:
        coupling -> the share of its channels that goes, at most :data:`MOST_OF_A_COUPLING`.

    Raises:
        ValueError: for a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a rate must lie in [0, 1), not {rate}")
    if not scores:
        return {}
    pooled = torch.cat(list(scores.values()))
    owner = torch.cat([torch.full((len(own),), i) for i, own in enumerate(scores.values())])
    dropped = torch.argsort(pooled, stable=True)[: int(rate * len(pooled) + 1e-9)]
    lost = torch.bincount(owner[dropped], minlength=len(scores))
    return {
        name: min(int(n) / len(own), MOST_OF_A_COUPLING) for (name, own), n in zip(scores.items(), lost, strict=True)
    }
