"""Recipes that are computed from measured tables of a network (docs/proposals.md).

- :mod:`.choices`: the parts of a network, and the choices of each.
- :mod:`.structure`: measures the loss of couplings.
- :mod:`.tables`: measures and interpolates tables within a time limit.
- :mod:`.factors` and :mod:`.latency`: costs of choices.
- :mod:`.problem`: what is allocated. :mod:`.allocation` finds the best choices within a budget,
  with :mod:`.minimising`; :mod:`.budgets` does so for a dozen budgets.
- :mod:`.correction` and :mod:`.measured`: correct predictions with results of trials.

Optuna's samplers are in ``autocompress.searching.sampling``.
"""

from autocompress.proposals.allocation import Allocation, allocate
from autocompress.proposals.budgets import COUNT, Proposal, draw_tilts, probe_points, propose, smallest
from autocompress.proposals.choices import Choice, Part, Selection
from autocompress.proposals.correction import Correction
from autocompress.proposals.factors import (
    STRUCTURE,
    Factor,
    Layer,
    Widths,
    energy,
    factors,
    layer_widths,
    layers_of,
    macs,
    parameters,
    size_bytes,
)
from autocompress.proposals.interpolation import interpolate
from autocompress.proposals.latency import LatencyModel, Profile
from autocompress.proposals.measured import with_measured
from autocompress.proposals.problem import Problem
from autocompress.proposals.structure import (
    SIXTEENTHS,
    RemovedChannels,
    keep_set,
    kept_shares,
    kl_divergence,
    structure_part,
)
from autocompress.proposals.tables import Cell, Failure, Pair, Table, measure

__all__ = [
    "COUNT",
    "SIXTEENTHS",
    "STRUCTURE",
    "Allocation",
    "Cell",
    "Choice",
    "Correction",
    "Factor",
    "Failure",
    "LatencyModel",
    "Layer",
    "Pair",
    "Part",
    "Problem",
    "Profile",
    "Proposal",
    "RemovedChannels",
    "Selection",
    "Table",
    "Widths",
    "allocate",
    "draw_tilts",
    "energy",
    "factors",
    "interpolate",
    "keep_set",
    "kept_shares",
    "kl_divergence",
    "layer_widths",
    "layers_of",
    "macs",
    "measure",
    "parameters",
    "probe_points",
    "propose",
    "size_bytes",
    "smallest",
    "structure_part",
    "with_measured",
]
