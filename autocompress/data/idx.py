"""idx:PATH: images in the files of MNIST and its relatives, as Debian packages them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from autocompress.data.provider import AtPath, Source
from autocompress.data.split import DataInfo
from autocompress.data.tensors import TensorSplit, measured
from autocompress.errors import UserError

PREFIX = "idx:"
TRAIN, TEST = "train", "t10k"
UBYTE = 8
"""The type of unsigned bytes in the third byte of a file."""


class Idx(AtPath):
    """Files of images and labels for training (``train-...``) and for the test (``t10k-...``).

    Grey images of one size, with numbers as names of classes. The files may be packed by gzip.
    """

    name = "idx:PATH"
    prefix = PREFIX

    def load(self, spec: str) -> Source:
        folder = self.path(spec)
        images, labels = _part(folder, TRAIN)
        held_out = _part(folder, TEST)
        names = tuple(str(number) for number in range(int(max(labels.max(), held_out[1].max())) + 1))
        if held_out[0].shape[1:] != images.shape[1:]:
            raise UserError(f"the images in {folder} differ in size between '{TRAIN}' and '{TEST}'")
        height, width = images.shape[2:]
        info = measured(images, DataInfo(len(names), 1, (height, width), (0.5,), (0.5,), names))
        return Source(TensorSplit(images, labels, info), None, TensorSplit(*held_out, info), info)


def _part(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 ``(N, 1, H, W)`` and labels int64 ``(N,)``.

    Raises:
        UserError: if a file is missing or damaged, or they do not fit each other.
    """
    images = _read(folder / f"{part}-images-idx3-ubyte", 3)
    labels = _read(folder / f"{part}-labels-idx1-ubyte", 1)
    if len(images) != len(labels) or not len(images):
        raise UserError(f"'{part}' in {folder} has {len(images):,} images and {len(labels):,} labels")
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).to(torch.int64)


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The array in a file, or in the same file packed by gzip.

    Raises:
        UserError: if it is missing or damaged.
    """
    packed = path.with_name(f"{path.name}.gz")
    file = path if path.exists() else packed
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file is packed else content
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}, nor {packed.name}", "data: idx:PATH needs a folder of idx files"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}", "replace it") from error
    head = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:head], ">u4").tolist()) if len(content) >= head else ()
    if content[:4] != bytes((0, 0, UBYTE, dimensions)) or len(content) - head != np.prod(shape, dtype=np.int64):
        raise UserError(f"{file} is no idx file of {dimensions} dimension{'s' if dimensions > 1 else ''}", "replace it")
    return np.frombuffer(bytearray(content), np.uint8, offset=head).reshape(shape)
