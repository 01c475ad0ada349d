"""Preparation of images.

As in timm for weights with a configuration, and written for users of the model.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import ExifTags, Image
from safetensors.torch import save_file
from test_pictures import KINDS, UNKNOWN
from timm.data import create_transform, resolve_data_config

from autocompress import data, models
from autocompress.compression import artifact
from autocompress.data import DataInfo
from autocompress.data.decoding import open_picture
from autocompress.data.preprocessing import steps_of
from autocompress.errors import UserError
from autocompress.export import export
from autocompress.job import DataConfig, Job, load_job
from autocompress.opened.baseline import weights_key

SIZES = [(61, 90), (90, 61), (48, 48), (33, 120), (64, 64), (200, 201)]
CONFIGS: list[dict[str, Any]] = [
    {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bilinear"},
    {"crop_pct": 0.95, "crop_mode": "center", "interpolation": "bicubic"},
    {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic"},
    {"crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bilinear"},
    {"crop_pct": 0.9, "crop_mode": "border", "interpolation": "bicubic"},
    {"crop_pct": 1.0, "crop_mode": "border", "interpolation": "bilinear"},
    {"crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic", "input_size": [3, 40, 56]},
    {"crop_pct": 1.0, "interpolation": "lanczos", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]},
]


def paint(folder: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> str:
    """Pictures of noise with these sizes (width, height), in two classes."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number, (width, height) in enumerate(sizes):
            shape = (height, width) if mode == "L" else (height, width, 3)
            picture = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
            picture.save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def saved_model(folder: Path, classes: int = 2, in_chans: int = 3, **config: Any) -> str:
    """A model in timm's folder format, with its own configuration."""
    folder.mkdir()
    args = {"in_chans": in_chans} if in_chans != 3 else {}
    save_file(timm.create_model("test_resnet", num_classes=classes, **args).state_dict(), folder / "model.safetensors")
    known = {"input_size": [in_chans, 48, 48], "first_conv": "conv1.0", "classifier": "fc", **config}
    text = {"architecture": "test_resnet", "num_classes": classes, "model_args": args, "pretrained_cfg": known}
    (folder / "config.json").write_text(json.dumps(text))
    return f"local-dir:{folder}"


def job(model: str = "test_resnet", **settings: Any) -> Job:
    return load_job(model=model, data="digits", name="test", **settings)


def loaded(own: Job, word: str) -> data.Splits:
    return data.load(DataConfig(val=word), **models.preprocessing(own))


def ours(splits: data.Splits) -> list[torch.Tensor]:
    """All pictures of val and test, as the loader gives them."""
    return [image for part in (splits.val, splits.test) for batch, _ in part.loader(4) for image in batch]


def theirs(splits: data.Splits, config: dict[str, Any]) -> list[torch.Tensor]:
    """The same pictures, by timm's own transform."""
    transform = create_transform(**config, is_training=False)
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    parts: list[Any] = [splits.val, splits.test]
    return [transform(part.pictures.picture(int(i)).convert(mode)) for part in parts for i in part.indices]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_pretrained_weights_get_the_images_of_timm(tmp_path: Path, config: dict[str, Any]) -> None:
    word, name = paint(tmp_path / "pictures", SIZES), saved_model(tmp_path / "model", **config)
    splits = loaded(job(name, pretrained=True), word)
    own = timm.create_model(name, pretrained=True)
    assert equal(ours(splits), theirs(splits, resolve_data_config(model=own)))


def test_pictures_of_one_size_are_prepared_in_the_same_way(tmp_path: Path) -> None:
    word, name = paint(tmp_path / "pictures", [(60, 60)] * 4), saved_model(tmp_path / "model", crop_pct=0.9)
    splits = loaded(job(name, pretrained=True), word)
    config = resolve_data_config(model=timm.create_model(name, pretrained=True))
    assert splits.info.size == (48, 48)
    assert equal(ours(splits), theirs(splits, config))


def test_grey_pictures_become_colour_images_for_weights_with_three_channels(tmp_path: Path) -> None:
    word = paint(tmp_path / "pictures", SIZES, mode="L")
    name = saved_model(tmp_path / "model", crop_pct=0.9, crop_mode="border", mean=[0.1, 0.5, 0.9])
    splits = loaded(job(name, pretrained=True), word)
    assert equal(ours(splits), theirs(splits, resolve_data_config(model=timm.create_model(name, pretrained=True))))
    grey = saved_model(tmp_path / "grey", in_chans=1, crop_mode="border", mean=[0.3], std=[0.2])
    splits = loaded(job(grey, pretrained=True), word)
    assert splits.info.channels == 1
    assert equal(ours(splits), theirs(splits, resolve_data_config(model=timm.create_model(grey, pretrained=True))))


def test_at_the_test_size_of_the_weights_timm_uses_another_crop(tmp_path: Path) -> None:
    word = paint(tmp_path / "pictures", SIZES)
    name = saved_model(tmp_path / "model", crop_pct=0.875, test_input_size=[3, 64, 64], test_crop_pct=1.0)
    splits = loaded(job(name, pretrained=True, device={"input_size": 64}), word)
    config = resolve_data_config(model=timm.create_model(name, pretrained=True), use_test_size=True)
    assert (config["input_size"], config["crop_pct"]) == ([3, 64, 64], 1.0)
    assert equal(ours(splits), theirs(splits, config))


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_job_may_set_other_values(tmp_path: Path, pretrained: bool) -> None:
    word = paint(tmp_path / "pictures", SIZES)
    name = saved_model(tmp_path / "model") if pretrained else "test_resnet"
    said = {
        "input_size": [3, 40, 40],
        "crop_pct": 0.8,
        "crop_mode": "squash",
        "interpolation": "bicubic",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
    }
    splits = loaded(job(name, pretrained=pretrained, model_args=said), word)
    assert equal(ours(splits), theirs(splits, resolve_data_config(said)))


def test_a_new_classifier_is_trained_on_whole_pictures_of_one_size(tmp_path: Path) -> None:
    word = paint(tmp_path / "pictures", [(60, 60)] * 4)
    other = saved_model(tmp_path / "model", classes=7, crop_pct=0.9, interpolation="bicubic")
    info = loaded(job(other, pretrained=True), word).info
    assert (info.size, info.crop_pct, info.interpolation) == ((60, 60), 1.0, "bicubic")
    scratch = loaded(job(), word).info
    assert (scratch.size, scratch.crop_pct, scratch.interpolation) == ((60, 60), 1.0, "bilinear")
    varied = loaded(job(), paint(tmp_path / "varied", SIZES)).info
    assert (varied.crop_pct, varied.crop_mode, varied.interpolation) == (0.875, "center", "bilinear")


def test_a_checkpoint_of_timm_has_its_preprocessing(tmp_path: Path) -> None:
    word = paint(tmp_path / "pictures", [(60, 60)] * 4)
    state = timm.create_model("test_resnet", num_classes=2).state_dict()
    args = {"crop_pct": 0.7, "img_size": 32, "interpolation": "bicubic", "mean": [0.2, 0.3, 0.4], "std": None}
    torch.save({"state_dict": state, "args": args}, tmp_path / "timm.pth")
    splits = loaded(job(checkpoint=tmp_path / "timm.pth"), word)
    config = resolve_data_config(args, pretrained_cfg=timm.get_pretrained_cfg("test_resnet").to_dict())
    assert equal(ours(splits), theirs(splits, config))
    save_file(state, tmp_path / "plain.safetensors")
    assert loaded(job(checkpoint=tmp_path / "plain.safetensors"), word).info.crop_pct == 1.0


def test_invalid_fields_of_a_checkpoint_are_ignored(tmp_path: Path) -> None:
    args = {"crop_pct": "all", "img_size": [1], "interpolation": 3, "mean": 0.25, "std": "wide", "crop_mode": ["a"]}
    torch.save(
        {"state_dict": timm.create_model("test_resnet", num_classes=2).state_dict(), "args": args}, tmp_path / "m.pth"
    )
    wanted = models.preprocessing(job(checkpoint=tmp_path / "m.pth"))
    assert (wanted["mean"], wanted["crop_mode"], wanted["interpolation"]) == ((0.25,), "center", "bilinear")
    with pytest.raises(UserError, match=r"configuration of 'local-dir:.*': 'crop_pct' must be a number from 0.1 to 1"):
        models.preprocessing(job(saved_model(tmp_path / "model", crop_pct="all"), pretrained=True))


@pytest.mark.parametrize(
    ("key", "given"),
    [
        *[("crop_pct", value) for value in (0, 1.5, -1, "all", True, [0.9])],
        *[("crop_mode", value) for value in ("middle", 1, ["center"])],
        *[("interpolation", value) for value in ("random", "bicubik", 3)],
        *[("img_size", value) for value in (0, -3, "a", [1], [32, "x"], True, 3.5, 10**6)],
        *[("input_size", value) for value in (32, [32, 32], [3, 0, 32], ["a", 1, 2])],
        *[("in_chans", value) for value in (0, -1, "a", True, 2.0, [3])],
        *[("num_classes", value) for value in (0, 1, -1, "a", True)],
    ],
)
def test_invalid_preprocessing_is_named(key: str, given: Any) -> None:
    own = job(model_args={key: given})
    with pytest.raises(UserError, match=rf"'model_args\.{key}' must be .*, not "):
        models.create(own)
    if key != "num_classes":
        with pytest.raises(UserError, match=rf"'model_args\.{key}' must be .*, not "):
            models.preprocessing(own)


@pytest.mark.parametrize("word", ["digits", "folder"])
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_pictures_have_one_or_three_channels(tmp_path: Path, word: str, channels: int) -> None:
    word = paint(tmp_path / "pictures", SIZES) if word == "folder" else word
    with pytest.raises(UserError, match=rf"the model reads {channels} channels, and pictures have 1 or 3"):
        loaded(job(model_args={"in_chans": channels}), word)
    state = timm.create_model("test_resnet", num_classes=2, in_chans=channels).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=rf"the model reads {channels} channels"):
        loaded(job(checkpoint=tmp_path / "weights.safetensors"), word)


@pytest.mark.parametrize("word", ["digits", "folder"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_pictures_work(tmp_path: Path, word: str, channels: int) -> None:
    word = paint(tmp_path / "pictures", SIZES) if word == "folder" else word
    splits = loaded(job(model_args={"in_chans": channels}, device={"input_size": 40}), word)
    images, _ = next(iter(splits.val.loader(4)))
    assert images.shape == (4, channels, 40, 40)


@pytest.mark.parametrize("word", ["digits", "folder"])
def test_content_keys_contain_all_settings(tmp_path: Path, word: str) -> None:
    word = paint(tmp_path / "pictures", SIZES) if word == "folder" else word
    changes: list[dict[str, Any]] = [
        {},
        {"crop_pct": 0.9},
        {"crop_mode": "squash"},
        {"interpolation": "bicubic"},
        {"mean": 0.1},
        {"std": 0.1},
    ]
    jobs = [job(model_args=change, device={"input_size": 40}) for change in changes]
    splits = [loaded(own, word) for own in jobs]
    assert len({part.val.digest for part in splits}) == len(changes)
    made = [models.create(own, part.info) for own, part in zip(jobs, splits, strict=True)]
    assert len({weights_key(model) for model in made}) == len(changes)


@pytest.fixture(scope="module")
def infer() -> Any:
    """The script that is exported with a model."""
    spec = importlib.util.spec_from_file_location("infer", Path(__file__).parents[1] / "autocompress/delivery/infer.py")
    assert spec
    assert spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_script_prepares_pictures_like_the_engine(
    tmp_path: Path, infer: Any, config: dict[str, Any], mode: str
) -> None:
    word, name = paint(tmp_path / "pictures", SIZES, mode), saved_model(tmp_path / "model", **config)
    splits = loaded(own := job(name, pretrained=True), word)
    said = artifact.metadata(models.create(own, splits.info))
    told = {key: json.loads(value) for key, value in said.items()}
    part: Any = splits.val
    got = [infer.prepare(part.pictures.picture(int(index)), told) for index in part.indices]
    assert np.array_equal(np.concatenate(got), torch.cat([batch for batch, _ in part.loader(4)]).numpy())
    assert any(splits.info.interpolation in step for step in told["preprocessing"])


def test_a_file_records_how_its_pictures_are_prepared(tmp_path: Path, infer: Any) -> None:
    word = paint(tmp_path / "pictures", SIZES)
    name = saved_model(tmp_path / "model", crop_pct=0.9, crop_mode="border", interpolation="bicubic")
    splits = loaded(own := job(name, pretrained=True), word)
    model = models.create(own, splits.info)
    export(model, tmp_path / "model.onnx", models.input_size(model), artifact.metadata(model))
    session, told = infer.open_model(tmp_path / "model.onnx")
    part: Any = splits.val
    got = np.concatenate([infer.prepare(part.pictures.picture(int(index)), told) for index in part.indices])
    logits = session.run(None, {"image": got})[0]
    with torch.no_grad():
        assert np.allclose(logits, model(torch.cat([batch for batch, _ in part.loader(4)])).numpy(), atol=1e-4)
    assert [told[key] for key in ("crop_pct", "crop_mode", "interpolation")] == [0.9, "border", "bicubic"]
    assert told["preprocessing"][1:3] == [
        "resize keeping its aspect ratio, until it just fits into 53 x 53 (height x width), bicubic, with antialiasing "
        "(Pillow's resize)",
        "crop or pad it to 48 x 48 around its centre, with 124, 116, 104 as the colour of the border",
    ]


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_the_script_reads_files_like_the_engine(tmp_path: Path, infer: Any, upright: bool, deep: bool) -> None:
    """Rotated pictures, and pictures with 16 bits."""
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 65535 if deep else 255, (40, 60)).astype(np.uint16 if deep else np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png", exif=exif)
    splits = data.load(DataConfig(train=f"folder:{tmp_path / 'pictures'}", exif=upright))
    assert splits.info.size == ((60, 40) if upright else (40, 60))
    own = job()
    told = {key: json.loads(value) for key, value in artifact.metadata(models.create(own, splits.info)).items()}
    assert told["exif"] == upright
    assert ("upright" in told["preprocessing"][0]) == upright
    part: Any = splits.val
    files = [part.pictures.files[int(index)] for index in part.indices]
    got = np.concatenate([infer.prepare(Image.open(file), told) for file in files])
    assert np.array_equal(got, torch.cat([batch for batch, _ in part.loader(4)]).numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_reads_every_kind_of_file_like_the_engine(tmp_path: Path, infer: Any, kind: str) -> None:
    file = tmp_path / kind
    file.write_bytes(KINDS[kind][0]())
    told = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear", "exif": False}
    for channels in (1, 3):
        told |= {"input_size": [channels, 8, 8], "mean": [0.0] * channels, "std": [1.0] * channels}
        engine = infer.prepare(open_picture(file, kind), told)  # it gives a picture with 8 bits
        assert np.array_equal(infer.prepare(Image.open(file), told), engine)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_the_script_refuses_a_picture_without_a_known_range(tmp_path: Path, infer: Any, kind: str) -> None:
    file = tmp_path / kind
    file.write_bytes(UNKNOWN[kind]())
    told = {"input_size": [1, 8, 8], "exif": False}
    with pytest.raises(ValueError, match="the value of white is unknown"):
        infer.prepare(Image.open(file), told)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_steps_describe_deep_pictures(channels: int) -> None:
    info = DataInfo(2, channels, (8, 8), (0.5,) * channels, (0.2,) * channels, ("a", "b"))
    assert "grey levels of more than 8 bits are first scaled so that the highest possible value becomes 255" in str(
        steps_of(info)[0]
    )
