"""Labels pictures with an exported model.

Needs Pillow, numpy and onnxruntime, nothing of autocompress.

    python predict.py [--exact] model.onnx picture.jpg ...

``--exact`` is for x86-64 processors without VNNI, whose fast int8 kernels overflow. The file's
metadata say how a picture is prepared; ``prepare`` gives the same values as timm's evaluation
transform.
"""

import json
import math
import sys

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps


def shallow(picture, source):
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


def prepare(picture, told):
    """A Pillow picture as float32 (1, channels, height, width)."""
    channels, height, width = told["input_size"]
    source = picture
    if told.get("exif"):
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        picture = shallow(picture, source)
    if picture.mode not in ("1", "L", "LA"):  # grey levels are those of the RGB colours
        picture = picture.convert("RGB")
    picture = picture.convert("RGB" if channels == 3 else "L")
    target_h, target_w = (math.floor(side / told["crop_pct"]) for side in (height, width))
    ratios = picture.height / target_h, picture.width / target_w
    mode = told["crop_mode"]
    if mode == "squash":
        size = target_w, target_h
    elif mode == "center" and target_h == target_w:  # the shorter side becomes target_h
        short = min(picture.size)
        size = tuple(target_h if side == short else int(target_h * side / short) for side in picture.size)
    else:
        ratio = max(ratios) if mode == "border" else min(ratios)
        size = round(picture.width / ratio), round(picture.height / ratio)
    picture = picture.resize(size, Image.Resampling[told["interpolation"].upper()])
    # Around the centre; where the picture is smaller than the crop, a border is added.
    pad_w, pad_h = max(width - size[0], 0), max(height - size[1], 0)
    if pad_w or pad_h:
        fill = [round(255 * value) for value in told["mean"]] if mode == "border" else [0] * channels
        padded = Image.new(picture.mode, (size[0] + pad_w, size[1] + pad_h), tuple(fill) if channels == 3 else fill[0])
        padded.paste(picture, (pad_w // 2, pad_h // 2))
        picture = padded
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    picture = picture.crop((left, top, left + width, top + height))
    values = np.asarray(picture, np.float32).reshape(height, width, channels) / 255
    mean, std = (np.asarray(told[name], np.float32) for name in ("mean", "std"))
    return ((values - mean) / std).transpose(2, 0, 1)[None]


def open_model(file, exact=False):
    """The session, and what the file says of itself."""
    told = {k: json.loads(v) for k, v in ort.InferenceSession(file).get_modelmeta().custom_metadata_map.items()}
    options = ort.SessionOptions()
    for key, value in told["session_config"].items() if exact else ():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]), told


def main(arguments):
    file, *pictures = [word for word in arguments if word != "--exact"]
    session, told = open_model(file, "--exact" in arguments)
    for name in pictures:
        logits = session.run(None, {"image": prepare(Image.open(name), told)})[0][0]
        print(f"{name}: {told['class_names'][int(logits.argmax())]}")


if __name__ == "__main__":
    main(sys.argv[1:])
