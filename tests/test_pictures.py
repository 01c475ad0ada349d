"""Picture files.

Each mode, depth and format becomes the grey or colour image that it shows, or gives one sentence.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from autocompress import data
from autocompress.data.decoding import check_picture, open_picture, plain
from autocompress.data.pictures import sampled
from autocompress.errors import UserError
from autocompress.job import DataConfig, load_job

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
"""Grey levels from black to white."""
COLOURS = np.stack([RAMP, RAMP.T, np.full_like(RAMP, 60)], -1)


def lab() -> Image.Image:
    """The colours in CIE L*a*b*."""
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    turn = ImageCms.buildTransform(*spaces, "RGB", "LAB")
    return ImageCms.applyTransform(Image.fromarray(COLOURS), turn)


def deep(dtype: str = "<u2") -> np.ndarray:
    return RAMP.astype(dtype) * np.asarray(257, dtype)


def pnm(kind: bytes, values: np.ndarray, highest: int) -> bytes:
    return b"%s\n8 8\n%d\n" % (kind, highest) + values.tobytes()


def twelve_bits() -> bytes:
    """A TIFF file of 12-bit grey levels, two in three bytes."""
    values = (RAMP.astype(np.uint32) * 4095 // 255).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1)
    pixels = packed.astype(np.uint8).tobytes()
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(pixels)}
    start = 8 + len(pixels)
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\x04\x00" + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in tags.items()
    )
    head = b"II*\x00" + start.to_bytes(4, "little")
    return head + pixels + len(tags).to_bytes(2, "little") + entries + bytes(4)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


grey, colour = Image.fromarray(RAMP), Image.fromarray(COLOURS)
KINDS: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "1.png": (lambda: saved(grey.point(lambda v: 255 * (v > 127)).convert("1"), "PNG"), "L", 128),
    "L.png": (lambda: saved(grey, "PNG"), "L", 0),
    "L.jpg": (lambda: saved(grey, "JPEG", quality=100), "L", 3),
    "L white is zero.tif": (lambda: saved(grey, "TIFF", tiffinfo={262: 0}), "L", 0),
    "LA.png": (lambda: saved(grey.convert("LA"), "PNG"), "L", 0),
    "P.gif": (lambda: saved(grey, "GIF"), "RGB of grey", 0),
    "P.png": (lambda: saved(colour.quantize(256), "PNG"), "RGB", 24),
    "P transparent.png": (lambda: saved(colour.quantize(200), "PNG", transparency=bytes(range(200))), "RGB", 24),
    "PA.tif": (lambda: saved(grey.convert("PA"), "TIFF"), "RGB of grey", 0),
    "RGB.png": (lambda: saved(colour, "PNG"), "RGB", 0),
    "RGB.jpg": (lambda: saved(colour, "JPEG", quality=100, subsampling=0), "RGB", 4),
    "RGB.webp": (lambda: saved(colour, "WEBP", lossless=True), "RGB", 0),
    "RGBA.png": (lambda: saved(colour.convert("RGBA"), "PNG"), "RGB", 0),
    "CMYK.tif": (lambda: saved(colour.convert("CMYK"), "TIFF"), "RGB", 2),
    "CMYK.jpg": (lambda: saved(colour.convert("CMYK"), "JPEG", quality=100, subsampling=0), "RGB", 8),
    "YCbCr.tif": (lambda: saved(colour.convert("YCbCr"), "TIFF"), "RGB", 3),
    "LAB.tif": (lambda: saved(lab(), "TIFF"), "RGB", 12),  # some colours lie outside of sRGB
    "I;16.png": (lambda: saved(Image.fromarray(deep()), "PNG"), "L", 0),
    "I;16.tif": (lambda: saved(Image.fromarray(deep()), "TIFF"), "L", 0),
    "I;16B.tif": (lambda: saved(Image.fromarray(deep(">u2")), "TIFF"), "L", 0),
    "I;16 white is zero.tif": (lambda: saved(Image.fromarray(65535 - deep()), "TIFF", tiffinfo={262: 0}), "L", 0),
    "12 bits.tif": (twelve_bits, "L", 1),
    "16 bits.pgm": (lambda: pnm(b"P5", deep(">u2"), 65535), "L", 0),
    "12 bits.pgm": (lambda: pnm(b"P5", (RAMP.astype(np.uint32) * 4095 // 255).astype(">u2"), 4095), "L", 1),
    "16 bits.ppm": (lambda: pnm(b"P6", COLOURS.astype(">u2") * 257, 65535), "RGB", 1),
}
"""Each kind of file: how it is made, the expected image, and the tolerance in levels of 255."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_its_image(kind: str, tmp_path: Path) -> None:
    make, becomes, tolerance = KINDS[kind]
    file = tmp_path / kind
    file.write_bytes(make())
    check_picture(file, kind)
    image = open_picture(file, kind)
    assert image.mode == becomes.split()[0]
    expected = COLOURS if becomes == "RGB" else np.repeat(RAMP[..., None], 3, -1)
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "HSV", "YCbCr", "LAB", "I;16", "I;16L", "I;16B", "I;16N"])
def test_pictures_in_memory_of_any_mode_are_converted(mode: str) -> None:
    image = Image.new(mode, (4, 4), 0)
    assert plain(image).mode in ("L", "RGB")


UNKNOWN = {
    "F.tif": lambda: saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
    "I.tif": lambda: saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "F.pfm": lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "PPM"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_picture_without_a_known_range_is_refused(kind: str, tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    (folder / "dark" / "x.tif").write_bytes(UNKNOWN[kind]())
    for word in (f"folder:{folder}", f"torch/image_folder@{folder}"):
        with pytest.raises(UserError, match=r"dark/x\.tif cannot be read: its pixels .* the value of white is unknown"):
            data.load(DataConfig(train=word))


def class_folders(root: Path, depth: int = 8) -> Path:
    """Two classes of grey pictures of ``depth`` bits: dark ones and light ones."""
    random = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (root / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(random.normal(level, 10, (8, 8)), 0, 255).round().astype(np.uint8)
            image = Image.fromarray(pixels if depth == 8 else pixels.astype(np.uint16) * 257)
            image.save(root / name / f"{number}.png")
    return root


def test_deep_pictures_give_the_images_of_8_bit_ones(tmp_path: Path) -> None:
    shallow, deeper = (class_folders(tmp_path / str(depth), depth) for depth in (8, 16))
    both = [data.load(DataConfig(train=f"folder:{folder}")) for folder in (shallow, deeper)]
    assert both[0].info == both[1].info
    assert both[1].info.input_size == (1, 8, 8)
    for one, other in zip(*(splits.train.loader(8) for splits in both), strict=True):
        assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("broken", ["nonsense", "cut off", "empty", "bomb"])
@pytest.mark.parametrize("word", ["folder:", "torch/image_folder@", "torch/folder@"])
def test_a_broken_picture_is_named_before_anything_else_happens(broken: str, word: str, tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    file = folder / "light" / "7.png"
    whole = file.read_bytes()
    bomb = struct.pack(">II5B", 60_000, 60_000, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + bomb + struct.pack(">I", zlib.crc32(b"IHDR" + bomb))
    contents = {"nonsense": b"no image", "cut off": whole[:-30], "empty": b"", "bomb": whole[:8] + chunk + whole[33:]}
    file.write_bytes(contents[broken])
    for _ in range(2):  # the failure is not remembered as a success
        with pytest.raises(UserError, match=r"the image .*light/7\.png cannot be read: ") as caught:
            data.load(DataConfig(train=word + str(folder)))
        assert "\n" not in str(caught.value)


FORMATS = {kind: saved(colour, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM")}
FORMATS["TIFF packed"] = saved(colour, "TIFF", compression="tiff_lzw")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.floats(0.1, 1),
)
def test_a_damaged_file_is_an_image_or_gives_one_sentence(
    kind: str, places: list[tuple[float, int]], length: float
) -> None:
    content = bytearray(FORMATS[kind][: max(int(length * len(FORMATS[kind])), 1)])
    for place, value in places:
        content[int(place * len(content))] = value
    fault = fault_of(bytes(content))
    assert fault == "" or fault.startswith("the image x cannot be read: ")
    assert "\n" not in fault


def fault_of(content: bytes) -> str:
    """The error of a file that cannot be read; empty if it becomes a plain image."""
    try:
        check_picture(io.BytesIO(content), "x", exif=True)
        assert open_picture(io.BytesIO(content), "x", exif=True).mode in ("L", "RGB")
    except UserError as error:
        return str(error)
    return ""


# --- orientation ----------------------------------------------------------------------------------


def turned(orientation: int, kind: str) -> bytes:
    """The colours with a black left half, as stored by a camera in another orientation."""
    upright = Image.fromarray(np.where(np.arange(16) < 8, 0, 255).astype(np.uint8)[None].repeat(8, 0))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return saved(stored, kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright_if_the_job_asks(orientation: int, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(turned(orientation, kind))
    check_picture(file, "x", exif=True)
    image = np.asarray(open_picture(file, "x", exif=True).convert("L"))
    assert image.shape == (8, 16)
    assert image[:, :7].max() < 60 < 200 < image[:, 9:].min()


def test_orientation_is_a_setting_of_the_data(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / f"{number}.jpg").write_bytes(turned(6, "JPEG"))
    for word in (f"folder:{tmp_path}", f"torch/image_folder@{tmp_path}"):
        plainly = data.load(DataConfig(train=word))
        upright = data.load(DataConfig(train=word, exif=True))
        assert (plainly.info.size, upright.info.size) == ((16, 8), (8, 16))
        assert upright.digest != plainly.digest
    with pytest.raises(UserError, match=r"'digits' does not support 'data\.exif'"):
        data.load(DataConfig(train="digits", exif=True))


def test_a_job_keeps_its_orientation(tmp_path: Path) -> None:
    job = load_job(model="resnet18", data={"train": "folder:x", "exif": True})
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert load_job(tmp_path / "job.yaml").data == job.data == DataConfig(train="folder:x", exif=True)
    assert load_job(model="resnet18", data="folder:x", **{"data.exif": True}).data.words == dict.fromkeys(
        ("train", "val", "test"), "folder:x"
    )
    with pytest.raises(UserError, match=r"'data\.exif' must be true or false"):
        load_job(model="resnet18", data={"train": "folder:x", "exif": "yes"})


def test_reading_pictures_does_not_change_random_generators_of_any_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = data.load(DataConfig(train=f"folder:{class_folders(tmp_path)}")).train
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    before = torch.get_rng_state()
    list(train.loader(4, augment=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert seeds == [], "dropout on CUDA would be drawn from the last image's seed"


@pytest.mark.parametrize("count", [1, 4, 5, 7, 8, 9, 400])
def test_sampled_pictures_are_spread_over_the_whole_list(count: int) -> None:
    """Earlier, these were the first ones if there were less than twice as many as wanted."""

    class Numbered:
        def __len__(self) -> int:
            return count

        def picture(self, index: int) -> int:
            return index

    found = sampled(Numbered(), most=4)  # type: ignore[arg-type]
    steps = np.diff([*found, count])  # type: ignore[list-item]
    assert len(found) == min(4, count)
    assert found[0] == 0
    assert steps.max() - steps.min() <= 1
