"""unlabelled:PATH: pictures without labels, at any depth below a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from autocompress.data.listing import Listing, without_duplicates
from autocompress.data.pictures import measured, notes_on, sampled
from autocompress.data.provider import AtPath, LoadOptions, Source
from autocompress.data.scanning import SUFFIXES, pictures_in
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import digest
from autocompress.job.images import UNLABELLED

HELD_OUT = 0.2
"""Share of the pictures that is held out: candidates are compared with the baseline there."""
LEAST = 40
"""Minimum number of pictures of such a job: 32 for refitting and 8 for comparing."""


class Unlabelled(AtPath):
    """All pictures below ``PATH``, in folders of any name.

    A fixed fifth of them is held out as validation split. All labels are 0 and have no meaning.
    """

    name = "unlabelled:PATH"
    prefix = UNLABELLED

    def load(self, spec: str) -> Source:
        return self.open(spec, LoadOptions())

    def open(self, spec: str, options: LoadOptions) -> Source:
        root = self.path(spec)
        if not root.is_dir():
            raise UserError(f"there is no folder {root}", "data: {train: unlabelled:PATH} needs a folder of pictures")
        files = without_duplicates(root, [pictures_in(root, root)])
        if not len(files):
            raise UserError(f"{root} holds no pictures", f"known: {', '.join(sorted(SUFFIXES))}")
        listing = Listing(root, files, (), options.exif)
        if len(listing) < LEAST:
            raise UserError(f"{root} holds only {len(listing)} pictures", f"give at least {LEAST}")
        images = sampled(listing, options.skips)
        info = measured(images, DataInfo(0, 3, (224, 224), (), (), ()))
        every, (held_out, others) = listing.split(info), _apart([file.relative_to(root) for file in listing.files])
        return Source(every.take(others), every.take(held_out), None, info, notes_on(images), labelled=False)


def _apart(names: Sequence[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the held-out fifth, and of the others, ascending.

    Only the names decide, so that adding pictures moves almost no other picture.
    """
    order = sorted(range(len(names)), key=lambda position: digest("held out", names[position].as_posix()))
    count = round(HELD_OUT * len(names))
    chosen = [torch.tensor(sorted(part), dtype=torch.int64) for part in (order[:count], order[count:])]
    return chosen[0], chosen[1]
