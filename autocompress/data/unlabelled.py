"""unlabelled:PATH: pictures without labels, at any depth below a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from autocompress.data.listing import SUFFIXES, Listing, pictures_in, without_twins
from autocompress.data.pictures import measured, notes_on, sampled
from autocompress.data.provider import DatasetProvider, LoadOptions, Source
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import digest
from autocompress.job import absolute
from autocompress.job.schema import UNLABELLED

HELD_OUT = 0.2
"""Share of the pictures that is not trained on: candidates are compared with the baseline there."""
LEAST = 40
"""Pictures that such a job needs: 32 to refit on, and 8 to compare on."""


class Unlabelled(DatasetProvider):
    """All pictures below ``PATH``, whatever the folders between are called. A fixed fifth of them
    is held out as validation split; all labels are 0 and mean nothing."""

    name = "unlabelled:PATH"

    def claims(self, spec: str) -> bool:
        return spec.startswith(UNLABELLED)

    def anchored(self, spec: str) -> str:
        return UNLABELLED + absolute(spec.removeprefix(UNLABELLED))

    def load(self, spec: str) -> Source:
        return self.open(spec, LoadOptions())

    def open(self, spec: str, options: LoadOptions) -> Source:
        root = Path(spec.removeprefix(UNLABELLED)).expanduser()
        if not root.is_dir():
            raise UserError(f"there is no folder {root}", "data: {train: unlabelled:PATH} wants a folder of pictures")
        files = without_twins({"": pictures_in(root)})
        if not any(files.values()):
            raise UserError(f"{root} holds no pictures", f"known: {', '.join(sorted(SUFFIXES))}")
        listing = Listing(root, list(files.values()), (), options.exif)
        if len(listing) < LEAST:
            raise UserError(f"{root} holds {len(listing)} pictures, which is too few", f"give at least {LEAST}")
        if not options.preview:
            listing.verify()
        images = sampled(listing)
        info = measured(images, DataInfo(0, 3, (224, 224), (), (), ()))
        every, (held_out, others) = listing.split(info), _apart([file.relative_to(root) for file in listing.files])
        return Source(every.take(others), every.take(held_out), None, info, notes_on(images), labelled=False)


def _apart(names: Sequence[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the fifth that is held out, and of the others, ascending.

    Names decide, and nothing else: where pictures are added, nearly all others stay where they are.
    """
    order = sorted(range(len(names)), key=lambda position: digest("held out", names[position].as_posix()))
    count = round(HELD_OUT * len(names))
    chosen = [torch.tensor(sorted(part), dtype=torch.int64) for part in (order[:count], order[count:])]
    return chosen[0], chosen[1]
