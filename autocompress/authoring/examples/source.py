"""A data source: noise that the teacher labels."""

from __future__ import annotations

import torch
from torch import nn

from autocompress.contract import Context, DataSource, Method, Params, Space, TransferSet, hookimpl
from autocompress.data import TensorSplit
from autocompress.synthesis import data_info


class Example(DataSource):
    """Gaussian noise in the units of normalised images."""

    name = "example"
    version = "1"
    reference = "author, title, venue"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """How many images; not searched, since each value costs a set of its own."""
        return {"images": space.integer("images", 16, 4096, default=256, structural=False, searched=False)}

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        """The images, from a generator that is seeded with ``context.seed``."""
        count = params["images"] if context.images is None else min(params["images"], context.images)
        generator = torch.Generator().manual_seed(context.seed)
        images = torch.randn(count, *context.input_size, generator=generator)
        split = TensorSplit(images, torch.zeros(count, dtype=torch.int64), data_info(teacher))
        return TransferSet(split, split, split.digest, labelled=False)


@hookimpl
def autocompress_methods() -> list[Method]:
    """The methods of this plugin."""
    return [Example()]
