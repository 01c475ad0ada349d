"""A latency model for the widths of a network, from a few profiled probes.

The time of a layer is

    t = b_0 + b_1 macs + b_2 weights + b_3 outputs + b_4 columns          (1)

with b >= 0: fixed cost, arithmetic, reading weights, writing outputs, and unfolding the input. The
coefficients of a layer are fitted to its times in the probes. A few probes do not determine the
coefficients, so they are pulled towards the coefficients of all layers of the same kind. The time
of a whole run is

    T = c_0 + c_1 sum t                                                    (2)

with coefficients fitted to runs without the profiler, including later runs. Every t contains the
time of the profiler. c_0 is negative if that exceeds the time of the operators between the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from autocompress.proposals.choices import Part
from autocompress.proposals.factors import Factor, Layer, Widths, factors

PULL = 0.003
"""Weight of the pull towards the coefficients of layers of the same kind."""


@dataclass(frozen=True)
class Profile:
    """One probe.

    Attributes:
        widths: (inputs, outputs) of each layer.
        seconds: seconds of each layer. Layers that the runtime does not run are missing.
        total: seconds of a run of the whole network.
    """

    widths: Mapping[str, tuple[float, float]]
    seconds: Mapping[str, float]
    total: float


@dataclass(frozen=True)
class LatencyModel:
    """Equations (1) and (2), fitted.

    Attributes:
        coefficients: b of each layer.
        whole: (c_0, c_1).
        error: relative standard error of a prediction, from left-out probes; NaN with fewer than
            four probes.
        sums, totals: sum of layer times, and measured seconds, of each whole run in the fit.
    """

    coefficients: Mapping[str, np.ndarray]
    whole: tuple[float, float]
    error: float
    sums: tuple[float, ...]
    totals: tuple[float, ...]

    @classmethod
    def fit(cls, layers: Sequence[Layer], profiles: Sequence[Profile]) -> LatencyModel:
        """Fits a model.

        Args:
            layers: layers of the network.
            profiles: at least two probes of different widths.

        Raises:
            ValueError: for fewer probes, or probes without times of layers.
        """
        if len(profiles) < 2 or not any(profile.seconds for profile in profiles):
            raise ValueError("a latency model needs two probes with times of layers")
        coefficients = _fit_layers(layers, profiles)
        model = cls(coefficients, (0.0, 1.0), 0.0, (), ())
        sums = [model.layers_sum(layers, profile.widths) for profile in profiles]
        totals = [profile.total for profile in profiles]
        error = _rms(_left_out(layers, profiles))
        return replace(model, whole=_line(sums, totals), error=error, sums=tuple(sums), totals=tuple(totals))

    def layers_sum(self, layers: Sequence[Layer], widths: Mapping[str, tuple[float, float]]) -> float:
        """Sum of the times of layers at some widths, by equation (1)."""
        return float(sum(self._layer(_widths(layer, widths[layer.name])) for layer in layers))

    def predict(self, layers: Sequence[Layer], widths: Mapping[str, tuple[float, float]]) -> float:
        """Seconds of a run at some widths."""
        return self.whole[0] + self.whole[1] * self.layers_sum(layers, widths)

    def corrected(self, sums: Sequence[float], totals: Sequence[float]) -> LatencyModel:
        """The model after adding whole runs that were measured later.

        Args:
            sums: :meth:`layers_sum` of each.
            totals: measured seconds of each.
        """
        all_sums, all_totals = (*self.sums, *sums), (*self.totals, *totals)
        before = [total / (self.whole[0] + self.whole[1] * own) - 1 for own, total in zip(sums, totals, strict=True)]
        old = [] if np.isnan(self.error) else [self.error] * len(self.sums)
        line = _line(all_sums, all_totals)
        return replace(self, whole=line, error=_rms([*old, *before]), sums=all_sums, totals=all_totals)

    def factors(
        self, layers: Sequence[Layer], parts: Sequence[Part], kept: Mapping[str, Sequence[float]]
    ) -> tuple[list[Factor], float]:
        """The factors for an allocation, and the constant seconds."""
        scale = self.whole[1]
        return factors(layers, parts, kept, lambda widths: scale * self._layer(widths)), self.whole[0]

    def _layer(self, widths: Widths) -> np.ndarray:
        own = self.coefficients.get(widths.layer.name)
        if own is None:
            return np.zeros(np.broadcast_shapes(widths.inputs.shape, widths.outputs.shape))
        return _features(widths) @ own


def _widths(layer: Layer, widths: tuple[float, float]) -> Widths:
    return Widths(layer, np.array(float(widths[0])), np.array(float(widths[1])), {})


def _features(widths: Widths) -> np.ndarray:
    """The terms of equation (1), ``[..., 5]``, scaled so that coefficients are similar."""
    layer = widths.layer
    inputs, outputs = np.broadcast_arrays(widths.inputs, widths.outputs)
    columns = inputs * layer.taps * layer.positions
    terms = (
        np.ones_like(inputs),
        widths.macs / 1e6,
        widths.weights / 1e5,
        outputs * layer.positions / 1e4,
        columns / 1e5,
    )
    return np.stack(np.broadcast_arrays(*terms), -1)


def _fit_layers(layers: Sequence[Layer], profiles: Sequence[Profile]) -> dict[str, np.ndarray]:
    """b of each layer. Errors are relative to the whole run of their probe."""
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for layer in layers:
        seen = [profile for profile in profiles if layer.name in profile.seconds]
        if seen:
            weight = np.array([1 / profile.total for profile in seen])
            features = np.stack([_features(_widths(layer, profile.widths[layer.name])) for profile in seen])
            times = np.array([profile.seconds[layer.name] for profile in seen])
            rows[layer.name] = features * weight[:, None], times * weight
    found: dict[str, np.ndarray] = {}
    for kind in {layer.kind for layer in layers}:
        names = [layer.name for layer in layers if layer.kind == kind and layer.name in rows]
        if not names:
            continue
        shared = _nonnegative(
            np.concatenate([rows[name][0] for name in names]), np.concatenate([rows[name][1] for name in names])
        )
        for name in names:
            features, times = rows[name]
            pull = np.diag(np.sqrt(PULL) * np.linalg.norm(features, axis=0))
            found[name] = _nonnegative(np.concatenate([features, pull]), np.concatenate([times, pull @ shared]))
    return found


def _nonnegative(system: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solves a least-squares problem with coefficients of at least 0.

    Columns are scaled, because the solver would stop early with columns of very different sizes.
    """
    norms = np.maximum(np.linalg.norm(system, axis=0), 1e-30)
    scaled, _ = nnls(system / norms, target)
    return np.asarray(scaled / norms)


def _line(sums: Sequence[float], totals: Sequence[float]) -> tuple[float, float]:
    """c of equation (2), by least squares of relative errors.

    c_0 may be negative, because the times of layers contain the time of the profiler.
    """
    total = np.asarray(totals)
    system = np.stack([1 / total, np.asarray(sums) / total], 1)
    norms = np.maximum(np.linalg.norm(system, axis=0), 1e-30)
    first, second = np.linalg.lstsq(system / norms, np.ones(len(total)), rcond=None)[0] / norms
    if second <= 0:
        return 0.0, float((total / np.asarray(sums)).mean())
    return float(first), float(second)


def _left_out(layers: Sequence[Layer], profiles: Sequence[Profile]) -> list[float]:
    """Relative error of the total of each probe, predicted from the other probes.

    The slowest and the fastest probe are never left out, because proposals are between them.
    """
    by_total = sorted(profiles, key=lambda profile: profile.total)
    errors = []
    for profile in by_total[1:-1]:
        others = [other for other in profiles if other is not profile]
        if len(others) < 3:
            continue
        model = LatencyModel(_fit_layers(layers, others), (0.0, 1.0), 0.0, (), ())
        line = _line([model.layers_sum(layers, other.widths) for other in others], [other.total for other in others])
        errors.append((line[0] + line[1] * model.layers_sum(layers, profile.widths)) / profile.total - 1)
    return errors


def _rms(errors: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else float("nan")
