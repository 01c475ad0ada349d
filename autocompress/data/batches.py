"""Reads batches of pictures: kept images are copied, others are decoded and prepared.

An image only depends on the picture and its seed. So batches are the same for every number of
reading processes, and whether or not images are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from autocompress.data.keeping import Kept
from autocompress.data.preprocessing import augmented_pixels, evaluated_pixels
from autocompress.data.randomness import seeded
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import digest

LIBRARIES = ("Pillow", "timm", "torchvision")
"""Libraries that decode and resize; kept images depend on their versions."""


class Pictures(Protocol):
    """A list of pictures.

    Attributes:
        key: equal keys mean equal pictures.
        place: place of the pictures, as text.
    """

    key: str
    place: str

    def __len__(self) -> int: ...

    @property
    def changed(self) -> str:
        """A sentence about changes since the list was made; empty if none is known."""
        ...

    def check(self, index: int) -> None:
        """Decodes one picture to its last byte.

        Raises:
            UserError: if it cannot be read.
        """
        ...

    def picture(self, index: int) -> Image.Image:
        """One picture of mode L or RGB, in any size.

        Raises:
            UserError: if it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Request:
    """The pictures of one batch.

    Attributes:
        indices: positions in the list of pictures.
        slots: positions in the images that are kept.
        seeds: seeds of the augmentation of each; None for evaluation.
        by_pipe: whether the answer is an array, which is sent by a pipe: machines may have little
            shared memory.
    """

    indices: np.ndarray
    slots: np.ndarray
    seeds: np.ndarray | None
    by_pipe: bool = False


@dataclass
class Origin:
    """The pictures of a split, and of splits that are taken from it. Decoded pictures may be kept.

    Attributes:
        pictures: the list.
        indices: positions in it, int64.
    """

    pictures: Pictures
    indices: np.ndarray
    _kept: dict[str, Kept | None] = field(default_factory=dict, repr=False)

    @cached_property
    def key(self) -> str:
        """Content key of the pictures."""
        return digest("pictures", self.pictures.key, self.indices.tobytes())

    def prepared(self, info: DataInfo) -> Kept | None:
        """Images prepared for evaluation; None if there is no room for them."""
        return self._found(f"prepared {info.preprocessing}", lambda: info.input_size)

    def decoded(self, channels: int) -> Kept | None:
        """Decoded pictures, ``(height, width, channels)``; None without room, or if sizes vary."""
        return self._found(f"decoded {channels}", lambda: self._shape(channels))

    def _shape(self, channels: int) -> tuple[int, ...] | None:
        ends = {pixels(self.pictures.picture(int(index)), channels).shape for index in self.indices[[0, -1]]}
        return ends.pop() if len(ends) == 1 else None

    def _found(self, what: str, shape: Callable[[], tuple[int, ...] | None]) -> Kept | None:
        if what not in self._kept:
            one = shape() if len(self.indices) else None
            key = digest(self.key, what, [version(name) for name in LIBRARIES])
            kept = None if one is None else Kept(key, (len(self.indices), *one))
            self._kept[what] = kept if kept is not None and kept.is_kept else None
        return self._kept[what]


class Reading(Dataset[Any]):
    """Answers requests, in this process or in a reading process.

    Args:
        origin: the pictures.
        info: how images are prepared.
    """

    def __init__(self, origin: Origin, info: DataInfo) -> None:
        self.origin, self.info = origin, info
        self.evaluated = evaluated_pixels(info)

    @cached_property
    def augmented(self) -> Callable[[Image.Image], torch.Tensor]:
        """The transform of training images; making it may compile, so one process makes it."""
        return augmented_pixels(self.info)

    def __getitem__(self, request: Request) -> torch.Tensor | np.ndarray | tuple[str, str]:
        """Images ``(N, C, H, W)``, or the message and the hint of an error for the user."""
        try:
            found = self.read(request)
        except UserError as error:
            return error.message, error.hint
        return found.numpy() if request.by_pipe else found

    def read(self, request: Request) -> torch.Tensor:
        """Images ``(N, C, H, W)``: uint8, or float32 that is normalised already.

        Raises:
            UserError: naming a picture that cannot be read.
        """
        if request.seeds is None:
            return self._evaluated(request)
        found = []
        for image, seed in zip(self._decoded(request), request.seeds, strict=True):
            seeded(int(seed))
            found.append(self.augmented(image))
        return torch.stack(found)

    def _decoded(self, request: Request) -> Iterator[Image.Image]:
        """The decoded pictures, in the mode of the images."""
        decoded = self.origin.decoded(self.info.channels)
        has = np.zeros(len(request.slots), bool) if decoded is None else decoded.has(request.slots)
        kept = iter(() if decoded is None else decoded.read(request.slots[has]))
        for index, slot, is_kept in zip(request.indices.tolist(), request.slots.tolist(), has.tolist(), strict=True):
            if is_kept:
                yield Image.fromarray(_flat(next(kept)))
                continue
            image = self._picture(index)
            if decoded is not None:
                decoded.write(slot, pixels(image, self.info.channels))
            yield image

    def _evaluated(self, request: Request) -> torch.Tensor:
        prepared = self.origin.prepared(self.info)
        has = np.zeros(len(request.slots), bool) if prepared is None else prepared.has(request.slots)
        if prepared is not None and has.all():
            return torch.from_numpy(prepared.read(request.slots))
        found = torch.empty((len(has), *self.info.input_size), dtype=torch.uint8)
        for number, (index, slot) in enumerate(zip(request.indices, request.slots, strict=True)):
            if prepared is not None and has[number]:
                found[number] = torch.from_numpy(prepared.read(slot))
                continue
            found[number] = self.evaluated(self._picture(int(index)))
            if prepared is not None:
                prepared.write(int(slot), found[number].numpy())
        return found

    def _picture(self, index: int) -> Image.Image:
        """A picture in the mode of the images."""
        image, mode = self.origin.pictures.picture(index), mode_of(self.info.channels)
        return image if image.mode == mode else image.convert(mode)


def mode_of(channels: int) -> str:
    """Pillow's mode of images of 1 or 3 channels."""
    return "L" if channels == 1 else "RGB"


def pixels(image: Image.Image, channels: int) -> np.ndarray:
    """A picture as uint8 ``(height, width, channels)``."""
    array = np.asarray(image.convert(mode_of(channels)))
    return array[:, :, None] if array.ndim == 2 else array


def _flat(array: np.ndarray) -> np.ndarray:
    return array[:, :, 0] if array.shape[2] == 1 else array
