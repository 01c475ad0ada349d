"""Sections of a job about its device, its budget, parts of the search, torch and the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, PlainSerializer, model_validator

from autocompress.job.section import Section
from autocompress.job.storage import checked_storage

_Epochs = Annotated[
    float,
    AfterValidator(lambda epochs: int(epochs) if epochs == int(epochs) else epochs),
    PlainSerializer(lambda epochs: epochs),  # "3" and not "3.0"
]
"""A number of epochs; a whole number is an int."""


class DeviceConfig(Section):
    """Where latency is measured, and how. A name alone is a device with the defaults."""

    name: str = "onnxruntime-cpu"
    """Name of the device; ``autocompress plugins`` lists them."""
    threads: int = Field(default=1, ge=1)
    """Threads of the runtime that is measured."""
    batch: int = Field(default=1, ge=1)
    """Images in one run of the model."""
    input_size: int | None = Field(default=None, ge=8)
    """Side of the square input in pixels; without it, the size of the data or of the model."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of this device alone; its page and its errors name them."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class Budget(Section):
    """Limits of the search. It ends with the first one that is reached."""

    trials: int = Field(default=60, ge=1)
    """Number of trials."""
    minutes: float | None = Field(default=None, gt=0)
    """Duration from the start of the process, with that of earlier runs if the search was resumed.

    Training the baseline does not count.
    """
    stall: int | None = Field(default=None, ge=1)
    """Ends after this number of finished trials in a row without a gain of hypervolume."""
    until_met: bool = False
    """Ends as soon as one trial meets all constraints."""
    epochs: _Epochs = Field(default=2, ge=0)
    """Maximum recovery epochs of one trial; if it is a fraction, recipes have quarters of it."""
    trial_minutes: float = Field(default=30, gt=0)
    """Ends a hung trial. Making images that several trials share does not count."""


class SearchConfig(Section):
    """Where the study is kept, and parts of a search that can be switched off to measure them."""

    storage: Annotated[str | None, AfterValidator(checked_storage)] = None
    """PostgreSQL or Redis for the study, a URL without a password; else a file of the run."""
    tables: bool = True
    """Measure the loss of the network for fewer channels in each coupling alone."""
    proposals: bool = True
    """Make the first recipes from the tables; without it, only the sampler uses the tables."""
    repair: bool = True
    """Refit layers without training."""
    crop: bool = True
    """Leave out kernel taps that only read padding from candidates' files; outputs stay equal."""
    rungs: bool = True
    """Train promising recipes further."""
    placement: bool = True
    """Measure each layer in float and in int8 on the device; stay in float where that is faster.

    Networks without grouped convolutions are not measured.
    """
    explain: bool = True
    """Measure the effect of each stage of the recommended recipe after the search.

    It takes at most a tenth of the time of the search, and at most 30 seconds.
    """


class ComputeConfig(Section):
    """Where and how torch computes trainings, repairs, moments and images of data sources."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """``auto`` is float32 on a processor, 16 bits on a GPU that computes them natively."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory format of trainings; ``auto`` times a step in both and keeps the faster."""
    compile: bool = False
    """Compile networks before they are trained."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Threads of torch on the processor."""


class BaselineConfig(Section):
    """How the baseline is trained if there is neither ``pretrained`` nor ``checkpoint``.

    If ``epochs`` is given and ``steps`` is not, there is no minimum number of steps.
    """

    epochs: _Epochs = Field(default=12, ge=0)
    """Passes over the training images."""
    steps: int = Field(default=600, ge=0)
    """Minimum number of steps, because a small data set has few steps an epoch."""
    batch_size: int = Field(default=128, ge=1)
    """Images of one batch."""
    lr: float = Field(default=2e-3, gt=0)
    """Highest learning rate."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are added up for one step."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, which becomes the baseline; 0 for none."""

    @model_validator(mode="before")
    @classmethod
    def _only_epochs(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "epochs" in given and "steps" not in given:
            return {**given, "steps": 0}
        return given
