"""A data set: coloured noise in two classes."""

from __future__ import annotations

import torch

from autocompress.contract import hookimpl
from autocompress.data import DataInfo, DatasetProvider, Source, TensorSplit


class Example(DatasetProvider):
    """Dark and light images of 16 pixels; a job names it ``example``."""

    name = "example"

    def load(self, spec: str) -> Source:
        """Three splits. Pixels are bytes; ``info`` has mean and deviation of each channel."""
        info = DataInfo(2, 3, (16, 16), (0.5,) * 3, (0.25,) * 3, ("dark", "light"))
        return Source(_split(0, 400, info), _split(1, 100, info), _split(2, 100, info), info)


def _split(seed: int, count: int, info: DataInfo) -> TensorSplit:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 128, (count, 3, 16, 16), generator=generator)
    return TensorSplit((pixels + 128 * labels[:, None, None, None]).to(torch.uint8), labels, info)


@hookimpl
def autocompress_datasets() -> list[DatasetProvider]:
    """The data sets of this plugin."""
    return [Example()]
