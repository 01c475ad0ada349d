"""The ONNX files of candidates, and the recipe that shows which layers always stay in float."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autocompress import models
from autocompress.compression import artifact
from autocompress.compression.candidate import Candidate
from autocompress.compression.layertypes import layer_specs
from autocompress.contract import Deployable, Method, Quantizer
from autocompress.errors import InvalidRecipe, TrialFailed
from autocompress.export import cropped, custom_operators, export
from autocompress.recipes.bits import GroupBits
from autocompress.recipes.choosers import Policy
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.recipe import Recipe


def write_file(candidate: Candidate, file: Path, baseline: nn.Module, methods: Sequence[Method]) -> Deployable:
    """Writes the ONNX file of the candidate, without kernel taps that only read padding.

    Raises:
        TrialFailed: if a standard runtime could not load it.
    """
    size = models.input_size(baseline)
    deployed = cropped(candidate.model, candidate.crop)
    export(deployed, file, size, artifact.metadata(baseline), layer_specs(methods))
    if lacking := custom_operators(file):
        raise TrialFailed(f"the file needs operators that a standard runtime lacks: {', '.join(sorted(lacking))}")
    return Deployable(file, size, candidate.operators, lambda: deployed)


def quantized_everywhere(space: JobSpace, methods: Sequence[Method], groups: Sequence[str]) -> Recipe | None:
    """The recipe that only quantizes: every group, weights and activations, with the most bits.

    It is None if no recipe of the job quantizes activations.
    """
    uniform = next((m for m in methods if isinstance(m, Quantizer) and m.activation_bits), None)
    try:
        known = space.compose(Policy({"bits": "default"})).quantizers
    except InvalidRecipe:
        return None
    if uniform is None or uniform.name not in known:
        return None
    widest = GroupBits(uniform.name, max(uniform.weight_bits), uniform.name, max(uniform.activation_bits))
    return Recipe(values={}, bits=dict.fromkeys(groups, widest), quantizers={uniform.name: known[uniform.name]})
