"""Reads image files of all Pillow modes as 8-bit grey or colour; errors name broken files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image

from autocompress.errors import UserError

VERSION = 2
"""Version of the rules in this file; part of the content key of all pictures."""

GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""TIFF tags. Photometric interpretation 0 is "white is zero"."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The Pillow transpose for each EXIF orientation (JEITA CP-3451, tag 274)."""

ImageFile = str | os.PathLike[str] | IO[bytes]


def open_picture(file: ImageFile, name: str, exif: bool = False) -> Image.Image:
    """Reads an image file fully.

    Args:
        file: a path, or an open file.
        name: the name of the image in error messages.
        exif: turn the image upright by its EXIF orientation.

    Returns:
        An image of mode L or RGB.

    Raises:
        UserError: if it is not an image, is broken, or has pixels of unknown range.
    """
    with faults_of(name), _opened(file) as stream, Image.open(stream) as image:
        image.load()
        turn = _turn(image) if exif else None
        upright = plain(image)
        return upright if turn is None else upright.transpose(turn)


def check_picture(file: ImageFile, name: str, exif: bool = False) -> None:
    """Decodes an image file to its last byte, at the smallest size that its format offers.

    Raises:
        UserError: as :func:`open_picture`.
    """
    with faults_of(name), _opened(file) as stream, Image.open(stream) as image:
        image.draft(None, (1, 1))  # JPEG: all data is read, but pixels are computed at 1/8 of each side
        image.load()
        if image.mode in ("I", "F"):
            _highest(image)
        if exif:
            _turn(image)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transpose that turns a loaded image upright. Pillow itself turns TIFF files."""
    return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


@contextmanager
def _opened(file: ImageFile) -> Iterator[IO[bytes]]:
    """Opens ``file`` before Pillow does.

    Given a path, Pillow 13 memory-maps uncompressed files and then reads the rows of rotated TIFF
    files wrongly.
    """
    if isinstance(file, str | os.PathLike):
        with Path(file).open("rb") as stream:
            yield stream
    else:
        yield file


@contextmanager
def faults_of(name: str) -> Iterator[None]:
    """Turns every error while the image ``name`` is read into a UserError.

    Decoders raise many types, for example struct.error, EOFError and zlib.error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise UserError(
            f"the image {name} cannot be read: {reason.splitlines()[0]}",
            "replace or remove it, or set data.skip_unreadable",
        ) from error


def plain(image: Image.Image) -> Image.Image:
    """A loaded image as 8-bit grey (mode L) or colour (RGB).

    16-bit grey levels are scaled so that the highest possible value becomes 255. Transparency is
    dropped.

    Raises:
        ValueError: for 32-bit integers and floating-point numbers, because the value of white is
            unknown.
    """
    mode = image.mode
    if mode in ("L", "RGB"):
        return image.copy()
    if mode in GREY_16 or mode in ("I", "F"):
        return _scaled(image)
    if mode in ("1", "LA"):
        return image.convert("L")
    if mode == "La":
        return image.convert("LA").convert("L")
    if "transparency" in image.info:  # Pillow warns when it converts a palette with transparency to RGB
        image = image.convert("RGBA")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    highest = _highest(image)
    values = np.asarray(image).astype(np.float32).clip(0, highest)
    if image.format == "TIFF" and _tag(image, PHOTOMETRIC) == 0:
        values = highest - values
    return Image.fromarray(np.rint(values * (255.0 / highest)).astype(np.uint8))


def _highest(image: Image.Image) -> int:
    """The value that is white in a deep grey image.

    Raises:
        ValueError: if it is not known.
    """
    if image.mode in GREY_16:
        bits = _tag(image, BITS_PER_SAMPLE) if image.format == "TIFF" else 16
        return 2 ** (bits if 8 < bits < 16 else 16) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 2**16 - 1  # Pillow reads 16-bit PNM files (older versions also PNG) as 32-bit integers
    kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
    raise ValueError(f"its pixels are {kind}, so the value of white is unknown; convert it to 8 or 16 bits")


def _tag(image: Image.Image, number: int) -> int:
    value = image.tag_v2.get(number, 16 if number == BITS_PER_SAMPLE else 1)  # type: ignore[attr-defined]
    return int(value[0] if isinstance(value, tuple) else value)
