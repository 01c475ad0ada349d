"""Labels pictures with the model beside this script.

Needs onnxruntime, numpy and Pillow, nothing of autocompress.

    python infer.py picture.jpg ...        # the label of each picture
    python infer.py --accuracy FOLDER      # FOLDER holds one folder of pictures for each class
    python infer.py --json picture.jpg     # for programs

``preprocessing.json`` and the metadata of the model have the preprocessing of pictures. ``prepare``
gives the same values as timm's evaluation transform.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps, UnidentifiedImageError

HERE = Path(__file__).resolve().parent
PREPROCESSING = "preprocessing.json"


def shallow(picture: Image.Image, source: Any) -> Image.Image:
    """Grey levels of 9 to 16 bits as 8 bits; Pillow's own conversion would clip them.

    ``source``: the opened file.
    """
    tags = getattr(source, "tag_v2", {})  # of a TIFF file
    if picture.mode == "F" or (picture.mode == "I" and source.format not in ("PNG", "PPM")):
        raise ValueError("the value of white is unknown; convert the picture to 8 or 16 bits")
    bits = tags.get(258, 16)
    bits = bits[0] if isinstance(bits, tuple) else bits
    highest = 2 ** (bits if 8 < bits < 16 else 16) - 1
    values = np.asarray(picture).astype(np.float32).clip(0, highest)
    if tags.get(262) == 0:  # white is zero
        values = highest - values
    return Image.fromarray(np.rint(values * (255 / highest)).astype(np.uint8))


def prepare(picture: Image.Image, told: dict[str, Any]) -> np.ndarray:
    """A Pillow picture as float32 ``(1, channels, height, width)``."""
    channels, height, width = told["input_size"]
    source = picture
    if told.get("exif"):
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        picture = shallow(picture, source)
    if picture.mode not in ("1", "L", "LA"):  # grey levels are computed from RGB colours
        picture = picture.convert("RGB")
    picture = picture.convert("RGB" if channels == 3 else "L")
    size = resized_to(picture, told)
    picture = picture.resize(size, Image.Resampling[told["interpolation"].upper()])
    # Around the centre; if the picture is smaller than the crop, a border is added.
    pad_w, pad_h = max(width - size[0], 0), max(height - size[1], 0)
    if pad_w or pad_h:
        is_mean = told["crop_mode"] == "border"
        fill = [round(255 * value) for value in told["mean"]] if is_mean else [0] * channels
        padded = Image.new(picture.mode, (size[0] + pad_w, size[1] + pad_h), tuple(fill) if channels == 3 else fill[0])
        padded.paste(picture, (pad_w // 2, pad_h // 2))
        picture = padded
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    picture = picture.crop((left, top, left + width, top + height))
    values = np.asarray(picture, np.float32).reshape(height, width, channels) / 255
    mean, std = (np.asarray(told[name], np.float32) for name in ("mean", "std"))
    prepared: np.ndarray = ((values - mean) / std).transpose(2, 0, 1)[None]
    return prepared


def resized_to(picture: Image.Image, told: dict[str, Any]) -> tuple[int, int]:
    """(width, height) that the picture is resized to before it is cropped."""
    _, height, width = told["input_size"]
    target_h, target_w = (math.floor(side / told["crop_pct"]) for side in (height, width))
    ratios = picture.height / target_h, picture.width / target_w
    mode = told["crop_mode"]
    if mode == "squash":
        return target_w, target_h
    if mode == "center" and target_h == target_w:  # the shorter side becomes target_h
        short = min(picture.size)
        new_w, new_h = (target_h if side == short else int(target_h * side / short) for side in picture.size)
        return new_w, new_h
    ratio = max(ratios) if mode == "border" else min(ratios)
    return round(picture.width / ratio), round(picture.height / ratio)


def needs_exact() -> bool:
    """Whether this x86-64 processor lacks VNNI, so that its fast int8 kernels overflow."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True


def open_model(file: str | Path, exact: bool | None = None) -> tuple[ort.InferenceSession, dict[str, Any]]:
    """The session, and the preprocessing of its pictures.

    Args:
        file: the ONNX file.
        exact: use exact integers, which are slower; by default if this processor needs the option.
    """
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    beside = Path(file).resolve().parent / PREPROCESSING
    if beside.is_file():
        told = json.loads(beside.read_text(encoding="utf-8"))
    else:
        found = session.get_modelmeta().custom_metadata_map
        told = {key: json.loads(value) for key, value in found.items()}
    if not (needs_exact() if exact is None else exact):
        return session, told
    options = ort.SessionOptions()
    for key, value in told["session_config"].items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]), told


def logits(session: ort.InferenceSession, told: dict[str, Any], file: Path) -> np.ndarray:
    """The outputs of the model for a picture, one number for each class."""
    with Image.open(file) as picture:
        prepared = prepare(picture, told)
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: prepared})[0][0]
    return found


def label(session: ort.InferenceSession, told: dict[str, Any], file: Path) -> int:
    """The number of the class that the model predicts for a picture."""
    return int(np.argmax(logits(session, told, file)))


def labels(session: ort.InferenceSession, told: dict[str, Any], file: Path) -> list[int]:
    """The numbers of the labels that a multilabel model predicts for a picture."""
    threshold = told["task"]["options"].get("threshold", 0.5)
    return np.flatnonzero(logits(session, told, file) > math.log(threshold / (1 - threshold))).tolist()


def listed(folder: Path, class_names: list[str]) -> list[tuple[Path, int]]:
    """The pictures in the class folders of ``folder``, each with the number of its class."""
    known = tuple(Image.registered_extensions())
    found = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if place.name not in class_names:
            raise ValueError(f"'{place.name}' in {folder} is not a class of this model")
        files = sorted(path for path in place.rglob("*") if path.suffix.lower() in known)
        found += [(file, class_names.index(place.name)) for file in files]
    if not found:
        raise ValueError(f"{folder} holds no folders with pictures, one for each class")
    return found


def check_there(paths: list[Path], what: str) -> None:
    """Refuses paths that do not exist; ``what`` is "file" or "folder"."""
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {what} {path}")
        if path.is_dir() != (what == "folder"):
            raise ValueError(f"{path} is no {what}")


def main(arguments: list[str] | None = None) -> int:
    """Labels pictures, or counts correct labels; returns the exit code."""
    parser = argparse.ArgumentParser(description="Labels pictures with an ONNX model.")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="files; with --accuracy folders")
    parser.add_argument(
        "--accuracy", action="store_true", help="FOLDER has one folder of pictures per class: count the correct labels"
    )
    parser.add_argument("--model", type=Path, default=HERE / "model.onnx", help="the ONNX file")
    parser.add_argument(
        "--exact", choices=("auto", "yes", "no"), default="auto", help="exact integers, for x86-64 without VNNI"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    try:
        check_there([given.model], "file")
        check_there(given.pictures, "folder" if given.accuracy else "file")
        session, told = open_model(given.model, {"auto": None, "yes": True, "no": False}[given.exact])
        names = told["class_names"]
        if given.accuracy and "task" in told:
            raise ValueError("--accuracy counts pictures with one class each, and this model gives several labels")
        if "task" in told:
            several = [(file, labels(session, told, file)) for file in given.pictures]
            value: Any = [
                {"picture": str(file), "labels": numbers, "classes": [names[number] for number in numbers]}
                for file, numbers in several
            ]
            lines = [f"{one['picture']}: {', '.join(one['classes']) or 'none'}" for one in value]
        elif given.accuracy:
            wanted = [pair for folder in given.pictures for pair in listed(folder, names)]
            right = sum(label(session, told, file) == number for file, number in wanted)
            share = 100 * right / len(wanted)
            value = {"accuracy": share, "right": right, "pictures": len(wanted)}
            lines = [f"{share:.2f} % of {len(wanted)} pictures are labelled correctly ({right})"]
        else:
            found = [(file, label(session, told, file)) for file in given.pictures]
            value = [{"picture": str(file), "label": number, "class": names[number]} for file, number in found]
            lines = [f"{file}: {names[number]}" for file, number in found]
    except (OSError, ValueError, UnidentifiedImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(value) if given.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
