"""SLB's weight quantizer.

In training, a weight is the expectation of its values under the softmax of its logits. In eval mode
and in the hard tail, it is the value with the largest logit.

SLB is "searching for low-bit weights". Each weight has one of m = 2^bits values v_1 .. v_m, which
are equally spaced from -1 to 1 (``values.py``). The paper has no scale, because the batch norm
behind the layer compensates. s is the largest weight of a channel that can be represented
(``magnitude``). Choices of ``scale`` are:

- "none": as in the paper. Weights are plain values v_i. The layer's outputs are then 1 / s as
  large, so ``absorb`` divides the norm's mean by s and its variance by s^2.
- "fixed": weights are multiplied by s. With a batch norm behind, outputs and gradients of the
  logits are those of "none", since ``BN(s y) = BN(y)``. The statistics of the trained network stay
  valid without a correction, so this is the default.
- "learned": weights are multiplied by s exp(l), and each channel learns its l. With a batch norm,
  it acts as "fixed": gamma is already such a scale, so l would have no gradient.

Without a batch norm, "none" acts as "fixed", because an unscaled layer would multiply its outputs
by 1 / s.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import nn

from autocompress.compat.torch import version_of
from autocompress.contract import FakeQuantizer, Hardened, TensorSpec
from autocompress.quantization.scales import along
from autocompress_slb import start
from autocompress_slb.settings import Settings
from autocompress_slb.values import best, expectation, nearest, odd_integers, values


class SlbFakeQuantizer(FakeQuantizer):
    """Searches among ``2^bits`` values for every weight.

    Logits are made when training begins (``start_search``, or the first forward in training), from
    the float weight or at random. A network that never trains, as in a dry run, has no logits and
    uses the nearest value of each weight. When there are logits, the float weight is not used any
    more, except while observing or disabled. The file stores a value v_i as the odd integer
    (m - 1) v_i.

    Args:
        spec: spec of a weight.
        bits: 1 to 4; may be above ``spec.bits``, for layers that need more bits.
        settings: settings of the method.
        seed: random seed of the logits.

    Raises:
        ValueError: for another number of bits.
    """

    folds_norm = False
    magnitude: torch.Tensor
    """s, float32 ``(channels,)`` or scalar: the largest weight that can be represented.

    It is 0 until it has been fitted to a weight.
    """
    integers: torch.Tensor
    values: torch.Tensor

    def __init__(self, spec: TensorSpec, bits: int, settings: Settings | None = None, seed: int = 0) -> None:
        super().__init__(spec)
        self.settings = settings or Settings()
        self.bits, self.axis = bits, spec.channel_axis
        self.seed = zlib.crc32(spec.name.encode()) ^ seed
        self.temperature, self.hard = self.settings.t_first, False
        self.register_buffer("integers", odd_integers(bits).float(), persistent=False)
        self.register_buffer("values", values(bits), persistent=False)
        shape = () if self.axis is None else (spec.shape[self.axis],)
        self.register_buffer("magnitude", torch.zeros(shape))
        learned = self.settings.scale == "learned" and not spec.normed
        self.log_scale = nn.Parameter(torch.zeros(shape)) if learned else None
        self.logits: nn.Parameter | None = None
        self._settled = False  # the engine chose the magnitude
        self._found: tuple[int, torch.Tensor] | None = None

    # --- the search -------------------------------------------------------------------------------

    def start_search(self, weight: torch.Tensor) -> None:
        """Makes new logits ``(m, *weight)``, float32. Existing ones are overwritten in place."""
        if not self._is_fitted():
            self._fit(weight)
        settings = self.settings
        with torch.no_grad():
            if settings.init != "he_normal":
                logits = start.trained_logits(weight, self.magnitude, self.bits, self.axis, settings.sharpness)
            else:
                generator = torch.Generator().manual_seed(self.seed)
                logits = start.random_logits(tuple(weight.shape), self.bits, generator).to(weight.device)
            if self.logits is None:
                self.logits = nn.Parameter(logits)
            else:
                self.logits.copy_(logits)

    def absorb(self, norm: nn.Module, bias: torch.Tensor | None = None) -> None:
        """For ``scale`` "none": moves the magnitude into the statistics of the batch norm behind.

        The ``bias`` of the layer is divided by the magnitude. Weights are then plain values v_i,
        and outputs in eval mode do not change.
        """
        mean, variance = norm.running_mean, norm.running_var
        assert isinstance(mean, torch.Tensor)
        assert isinstance(variance, torch.Tensor)
        eps = float(norm.eps)  # type: ignore[arg-type]
        with torch.no_grad():
            mean.div_(self.magnitude)
            if bias is not None:
                bias.div_(self.magnitude)
            variance.copy_(((variance + eps) / self.magnitude**2 - eps).clamp(min=0.0))
            self.magnitude.fill_(1.0)

    def _is_fitted(self) -> bool:
        return bool((self.magnitude > 0).all())

    def _fit(self, weight: torch.Tensor) -> None:
        self.magnitude.copy_(start.magnitude(weight, self.bits, self.axis))

    # --- rounding that the engine chooses ---------------------------------------------------------

    def levels(self) -> torch.Tensor | None:
        """The odd integers."""
        return self.integers.cpu()

    def settle(self, scale: torch.Tensor) -> None:
        """Sets the magnitude from the scale of the odd integers."""
        self.magnitude.copy_(scale.reshape(self.magnitude.shape) * (2**self.bits - 1))
        self._settled = True

    @property
    def shares_scale(self) -> bool:
        """Whether the spec has no channel axis."""
        return self.axis is None

    @property
    def starts_from_rounding(self) -> bool:
        """Whether the logits start from weights that the engine rounded (``init: rounded``)."""
        return self.settings.init == "rounded"

    # --- the weight -------------------------------------------------------------------------------

    @property
    def scale(self) -> torch.Tensor:
        """Scale of the odd integers, ``s / (m - 1)``, float32, in the shape of ``magnitude``.

        It is 0 until it has been fitted to a weight.
        """
        size = self.magnitude if self.log_scale is None else self.magnitude * self.log_scale.exp()
        return size / (2**self.bits - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The quantized weight. While observing or disabled, it is ``x``, the float weight."""
        if self.observing:
            if not self._settled:
                self._fit(x)
            return x
        if not self.enabled:
            return x
        if self.training and torch.is_grad_enabled() and self.logits is None:
            self.start_search(x)
        if self.logits is None or self.hard or not self.training:
            return self._scaled(self._best(x))
        self._found = None  # the next step changes the logits, and fused optimizers do not change the version
        size = self.magnitude if self.log_scale is None else self.magnitude * self.log_scale.exp()
        soft = expectation(self.logits, self.values, self.temperature)
        return soft * along(size, soft.ndim, self.axis)

    def _scaled(self, integers: torch.Tensor) -> torch.Tensor:
        return integers * along(self.scale, integers.ndim, self.axis)

    @torch.no_grad()
    def _best(self, weight: torch.Tensor) -> torch.Tensor:
        """The odd integers of the arg-max as float32, computed once for the same logits."""
        if self.logits is None:
            if not self._is_fitted():
                self._fit(weight)
            u = weight.detach().float() / along(self.magnitude, weight.ndim, self.axis)
            return self.integers[nearest(u, self.bits).int()]
        version = version_of(self.logits)
        if self._found is None or self._found[0] != version or self._found[1].device != self.logits.device:
            self._found = version, self.integers[best(self.logits).int()]
        return self._found[1]

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """Odd integers ``2 i - (m - 1)``, with i from 0; ``weight`` is the float weight.

        Raises:
            ValueError: if ``weight`` is missing.
        """
        if weight is None:
            raise ValueError(f"'{self.spec.name}' is a weight: its integers need the float tensor")
        integers = self._best(weight).to(torch.int8)
        scale, last = self.scale.detach().clone(), 2**self.bits - 1
        return Hardened(
            scale=scale,
            zero_point=torch.zeros_like(scale, dtype=torch.int32),
            low=-last,
            high=last,
            bits=self.bits,
            integers=integers,
            channel_axis=self.axis,
            step=2,
        )

    # --- state ------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": None}  # the versions of the logits of a copy begin at 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        kept = state_dict.get(f"{prefix}logits")
        if kept is None:
            self.logits = None
        elif self.logits is None:
            self.logits = nn.Parameter(torch.empty_like(kept, device=self.magnitude.device))
        self._found = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        found = "no logits" if self.logits is None else f"T={self.temperature:g}"
        return f"{self.spec.name}, {self.bits} bits, axis={self.axis}, {found}"
