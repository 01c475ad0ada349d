"""glyphs: characters rendered from the Latin fonts that come with matplotlib; no download."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageDraw, ImageFont

from autocompress.data.provider import DatasetProvider, LoadOptions, Source
from autocompress.data.split import DataInfo
from autocompress.data.tensors import TensorSplit, measured
from autocompress.files import atomic, cache_folder, digest, kept_if_possible

log = logging.getLogger("autocompress")

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"""The 47 classes of EMNIST's balanced split (Cohen et al., 2017).

Lower-case letters that look like their capitals are merged with them.
"""

SIZE = 32
VERSION = 2
COUNTS = {"train": 12_000, "val": 2_000, "test": 3_000}
FONTS = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-BoldItalic",
        "STIXGeneral",
        "STIXGeneralBolIta",
        "STIXGeneralItalic",
        "cmr10",
        "cmti10",
    ),
    "val": ("DejaVuSans-Oblique", "DejaVuSansMono-BoldOblique", "STIXGeneralBol", "cmss10"),
    "test": ("DejaVuSans-Bold", "DejaVuSerif-Italic", "cmb10", "cmtt10"),
}
"""The fonts of each split. No font is in two splits.

Validation and test both have sans and serif, upright and slanted, light and bold fonts.
"""

CANVAS = 96
"""Side in pixels of the square in which a character is drawn before it is warped."""
EM = 60
"""Font size on that canvas."""


class Glyphs(DatasetProvider):
    """47 classes, 32x32, one channel; validation and test images are in unseen fonts.

    12,000 images to train, 2,000 to validate and 3,000 to test.
    """

    name = "glyphs"

    def load(self, spec: str) -> Source:
        del spec
        return self._source(_kept())

    def open(self, spec: str, options: LoadOptions) -> Source:
        # A dry run gets black images where none are stored yet, because drawing takes seconds.
        if options.preview and not _path().exists():
            return self._source(_blank())
        return super().open(spec, options)

    def _source(self, arrays: dict[str, np.ndarray]) -> Source:
        info = DataInfo(len(CLASSES), 1, (SIZE, SIZE), (0.5,), (0.5,), tuple(CLASSES))
        info = measured(torch.from_numpy(arrays["train.images"]), info)
        splits = [
            TensorSplit(torch.from_numpy(arrays[f"{part}.images"]), torch.from_numpy(arrays[f"{part}.labels"]), info)
            for part in ("train", "val", "test")
        ]
        return Source(splits[0], splits[1], splits[2], info)


def _path() -> Path:
    """The file of the images."""
    import matplotlib  # here, because listing the data sets does not need it

    key = digest(VERSION, matplotlib.__version__, PIL.__version__, np.__version__, FONTS, COUNTS)
    return cache_folder("data") / f"glyphs-{key[:12]}.npz"


def _blank() -> dict[str, np.ndarray]:
    """Arrays as :func:`_kept` gives them, with black images."""
    images = {f"{part}.images": np.zeros((count, 1, SIZE, SIZE), np.uint8) for part, count in COUNTS.items()}
    labels = {f"{part}.labels": np.arange(count, dtype=np.int64) % len(CLASSES) for part, count in COUNTS.items()}
    return images | labels


def _kept() -> dict[str, np.ndarray]:
    """The images from the cache folder; they are drawn first if they are missing."""
    path = _path()
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s); it is made again", path, error)
    arrays: dict[str, np.ndarray] = {}
    for number, (part, count) in enumerate(COUNTS.items()):
        arrays[f"{part}.images"], arrays[f"{part}.labels"] = render(FONTS[part], count, seed=number)
    with kept_if_possible(path.parent), atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    return arrays


def render(fonts: tuple[str, ...], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws ``count`` characters in ``fonts``, all classes equally often.

    Returns:
        Images uint8 ``(count, 1, 32, 32)`` and labels int64 ``(count,)``, in random order; equal
        for equal ``seed``.
    """
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % len(CLASSES)).astype(np.int64)
    which = random.integers(len(fonts), size=count)
    masks = {(font, label): _mask(font, CLASSES[label]) for font in fonts for label in range(len(CLASSES))}
    warps = _warps(random, count)
    drawn = np.empty((count, SIZE, SIZE), np.float32)
    for i in range(count):
        mask = masks[fonts[which[i]], int(labels[i])]
        # Drawn at twice the size and averaged, so that thin strokes stay connected.
        large = mask.transform((2 * SIZE, 2 * SIZE), Image.Transform.AFFINE, tuple(warps[i]), Image.Resampling.BILINEAR)
        drawn[i] = np.asarray(large, np.float32).reshape(SIZE, 2, SIZE, 2).mean((1, 3))
    return _photograph(drawn / 255, random)[:, None], labels


def _mask(font: str, character: str) -> Image.Image:
    """The character in white on black, centred on a canvas, in the proportions of the font."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    canvas = Image.new("L", (CANVAS, CANVAS))
    typeface = ImageFont.truetype(str(path), EM, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = typeface.getbbox(character)
    position = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(canvas).text(position, character, fill=255, font=typeface)
    return canvas


def _warps(random: np.random.Generator, count: int) -> np.ndarray:
    """Random affine maps from image to canvas, ``(count, 6)`` as for PIL.

    Rotation up to 15 degrees, shear, size 0.6 to 1.1 of the image, shift up to an eighth of it.
    """
    angle = random.uniform(-0.26, 0.26, count)
    shear = random.uniform(-0.3, 0.3, count)
    zoom = random.uniform(0.6, 1.1, count) * (2 * SIZE / EM)
    aspect = np.exp(random.uniform(-0.15, 0.15, count))
    shift = random.uniform(-SIZE / 4, SIZE / 4, (count, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    across, down = 1 / (zoom * aspect), aspect / zoom
    a, b = cos * across, (sin + shear * cos) * across
    d, e = -sin * down, (cos - shear * sin) * down
    # The shifted centre of the image is mapped to the centre of the canvas.
    x, y = SIZE + shift[:, 0], SIZE + shift[:, 1]
    return np.stack([a, b, CANVAS / 2 - a * x - b * y, d, e, CANVAS / 2 - d * x - e * y], 1)


def _photograph(drawn: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Adds random grey levels (half light on dark), a gradient, blur and noise; uint8."""
    count = len(drawn)

    def each(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, (count, 1, 1)).astype(np.float32)

    weight = each(0, 0.5)
    blurred = drawn.copy()
    for axis in (1, 2):
        blurred = (np.roll(blurred, 1, axis) + 2 * blurred + np.roll(blurred, -1, axis)) / 4
    ink = (1 - 2 * weight) * drawn + 2 * weight * blurred
    paper, contrast = each(0.0, 0.35), each(0.25, 0.65)
    images = paper + contrast * ink
    ramp = np.linspace(-0.5, 0.5, SIZE, dtype=np.float32)
    images += each(-0.3, 0.3) * ramp[None, :, None] + each(-0.3, 0.3) * ramp[None, None, :]
    images = np.where(random.random((count, 1, 1)) < 0.5, 1 - images, images)
    images += each(0.03, 0.2) * random.standard_normal(images.shape, dtype=np.float32)
    return np.clip(np.rint(images * 255), 0, 255).astype(np.uint8)
