"""Feasibility: can each constraint be met at all? Asked of the cheapest candidate of each method, and of all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from autocompress.compression.recipe import Replay
from autocompress.compression.workbench import Workbench
from autocompress.contract import Quantizer, Value
from autocompress.job import Bound


@dataclass(frozen=True)
class CheapestCandidate:
    """The least that a method can cost here, as ratios to the baseline; nothing was trained.

    Attributes:
        label: "uncompressed" (the baseline, first), "ghost", "quantize", ..., "all together".
        latency_ratio, latency_high: median and upper end of its 95 % interval; ``latency_low`` the lower end.
        meets: by constraint, whether it can be met. Latency counts as met where the interval reaches the bound.
    """

    label: str
    latency_ms: float
    latency_ratio: float
    latency_low: float
    latency_high: float
    size_ratio: float
    macs_ratio: float
    params_ratio: float
    meets: dict[str, bool]


def feasibility(bench: Workbench, seconds: float = 1.0) -> list[CheapestCandidate]:
    """Builds, exports and measures the cheapest dry-run candidates.

    Args:
        bench: an open workbench.
        seconds: of latency measurement for each.
    """
    rules: dict[str, dict[str, str]] = {"uncompressed": {}}
    for method in bench.methods:
        rules[method.name] = {method.name: "cheapest"}
        if isinstance(method, Quantizer):
            rules[method.name]["bits"] = "cheapest"
    if len(bench.methods) > 1:
        rules["all together"] = {name: rule for each in list(rules.values()) for name, rule in each.items()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        quantizers = {method.name for method in bench.methods if isinstance(method, Quantizer)}
        for label, rule in rules.items():
            values = bench.policy(rule, label if label in quantizers else None)
            if values is not None:
                rows.append(_measure(bench, label, values, Path(folder) / "model.onnx", seconds))
    return rows


def _measure(bench: Workbench, label: str, values: dict[str, Value], file: Path, seconds: float) -> CheapestCandidate:
    candidate = bench.candidate(bench.compose(Replay(values)), dry_run=True)
    deployable = bench.export(candidate, file)
    base = bench.baseline
    measured = bench.device.measure(deployable, base.deployable, bench.job.device, seconds=seconds)
    size = file.stat().st_size
    limits = bench.job.constraints
    meets: dict[str, bool] = {}
    best_ms = measured.latency_ms * measured.ratio_low / measured.latency_ratio
    for name, bound, amount, ratio in (
        ("latency", limits.latency, best_ms, measured.ratio_low),
        ("size", limits.size, size, size / base.size_bytes),
        ("macs", limits.macs, candidate.macs, candidate.macs / base.macs),
        ("params", limits.params, candidate.params, candidate.params / base.params),
    ):
        if bound is not None:
            meets[name] = met(bound, amount, ratio)
    return CheapestCandidate(
        label=label,
        latency_ms=measured.latency_ms,
        latency_ratio=measured.latency_ratio,
        latency_low=measured.ratio_low,
        latency_high=measured.ratio_high,
        size_ratio=size / base.size_bytes,
        macs_ratio=candidate.macs / base.macs,
        params_ratio=candidate.params / base.params,
        meets=meets,
    )


def met(bound: Bound, amount: float, ratio: float) -> bool:
    """Whether a cost keeps to ``bound``: ``ratio`` to the baseline where it is relative, else ``amount``."""
    return (ratio if bound.relative else amount) <= bound.value
