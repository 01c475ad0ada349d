"""Requirements of a model on its images, applied to the properties of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autocompress.data.preprocessing import DEFAULT_CROP_PCT
from autocompress.data.split import DataInfo
from autocompress.errors import UserError

PICTURE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Wanted:
    """Requirements of a model on its images. A field that is None is decided by the data.

    Pictures of one size are used whole and in that size. There are two exceptions: the job says
    otherwise, or the weights were trained for the same number of classes. In the second case size,
    crop and channels are those of the weights.

    Attributes:
        input_size: (height, width) of the images, or the side of a square.
        default_size: used without ``input_size``, if pictures vary in size or in the second case.
        channels: 1 or 3.
        mean, std: mean and standard deviation of each channel, or one number for all channels.
        crop_pct, crop_mode, interpolation: as in :class:`DataInfo`.
        default_crop_pct: used without ``crop_pct``, as ``default_size``; None for 0.875.
        trained_classes: number of classes of the weights, where the preparation of their pictures
            is known.
        trained_channels: number of image channels of these weights.
    """

    input_size: int | tuple[int, int] | None = None
    default_size: int | tuple[int, int] | None = None
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    default_crop_pct: float | None = None
    trained_classes: int | None = None
    trained_channels: int | None = None

    def applied(self, info: DataInfo) -> DataInfo:
        """The properties ``info`` of the data, changed to meet these requirements.

        Raises:
            UserError: if pictures cannot have the number of channels that the model reads.
        """
        as_trained = self.trained_classes == info.num_classes
        size, channels, crop = self.input_size, self.channels, self.crop_pct
        if as_trained and channels is None:
            channels = self.trained_channels
        if size is None and (as_trained or not info.fixed_size):
            size = self.default_size
        if crop is None:
            loose = as_trained or not info.fixed_size
            crop = (self.default_crop_pct or DEFAULT_CROP_PCT) if loose else 1.0
        channels = info.channels if channels is None else channels
        if channels != info.channels and channels not in PICTURE_CHANNELS:
            raise UserError(
                f"the model reads {channels} channels, and pictures have 1 or 3", "set model_args.in_chans to 1 or 3"
            )
        return replace(
            info,
            channels=channels,
            size=info.size if size is None else (size, size) if isinstance(size, int) else size,
            mean=spread(info.mean if self.mean is None else self.mean, channels),
            std=spread(info.std if self.std is None else self.std, channels),
            crop_pct=crop,
            crop_mode=self.crop_mode or "center",
            interpolation=self.interpolation or "bilinear",
        )


def spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """``values`` for ``channels`` channels.

    If their number is another one, each channel gets their average.
    """
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
