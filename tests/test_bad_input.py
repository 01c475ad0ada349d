"""Bad input to the real command: exit code 2, one line on stderr, and no results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from patience import patient
from PIL import Image

from autocompress.cli import main

MODEL = ("--model", "test_resnet")
DIGITS = (*MODEL, "--data", "digits")
PICTURES = (*MODEL, "--data", "folder:pictures")


def pictures(parts: tuple[str, ...] = ("train", "val", "test"), classes: tuple[str, ...] = ("dark", "light")) -> Path:
    """Four images for each class in each split."""
    random = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            folder = Path("pictures") / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return Path("pictures")


def corrupt_image() -> tuple[str, ...]:
    file = pictures() / "test" / "light" / "2.png"
    file.write_bytes(file.read_bytes()[:-200])
    return PICTURES


def empty_folder() -> tuple[str, ...]:
    Path("pictures").mkdir()
    return PICTURES


def empty_class() -> tuple[str, ...]:
    (pictures() / "train" / "middle").mkdir()
    return PICTURES


def one_class() -> tuple[str, ...]:
    pictures(classes=("dark",))
    return PICTURES


def one_training_image() -> tuple[str, ...]:
    for file in list((pictures(parts=("",)) / "dark").iterdir())[1:]:
        file.unlink()
    for file in list(Path("pictures/light").iterdir())[2:]:
        file.unlink()
    return PICTURES


def two_training_folders() -> tuple[str, ...]:
    pictures(parts=("train", "Training"))
    return PICTURES


def splits_without_classes() -> tuple[str, ...]:
    pictures(parts=("",), classes=("Testing", "Training"))
    return PICTURES


def image_of_floats() -> tuple[str, ...]:
    Image.fromarray(np.zeros((32, 32), np.float32)).save(pictures() / "val" / "light" / "x.tif")
    return PICTURES


def no_folder() -> tuple[str, ...]:
    return PICTURES


def checkpoint(change: Callable[[dict[str, torch.Tensor]], object]) -> tuple[str, ...]:
    state = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
    change(state)
    torch.save(state, "weights.pth")
    return (*DIGITS, "--checkpoint", "weights.pth")


def checkpoint_of_another_shape() -> tuple[str, ...]:
    return checkpoint(lambda state: state.update({"conv1.0.weight": torch.zeros(9, 1, 3, 3)}))


def checkpoint_of_other_classes() -> tuple[str, ...]:
    return checkpoint(lambda state: state.update({"fc.weight": torch.zeros(7, 96), "fc.bias": torch.zeros(7)}))


def checkpoint_that_is_incomplete() -> tuple[str, ...]:
    return checkpoint(lambda state: state.pop("bn1.weight"))


def checkpoint_that_is_none() -> tuple[str, ...]:
    Path("weights.pth").write_bytes(b"no weights at all")
    return (*DIGITS, "--checkpoint", "weights.pth")


def checkpoint_of_nan() -> tuple[str, ...]:
    return checkpoint(lambda state: state["bn1.weight"].fill_(float("nan")))


def two_channels_too_many(data: tuple[str, ...]) -> tuple[str, ...]:
    return (*data, "--set", "model_args.in_chans=4")


def pictures_for_four_channels() -> tuple[str, ...]:
    pictures()
    return two_channels_too_many(PICTURES)


def two_sources_of_weights() -> tuple[str, ...]:
    return (*checkpoint(len), "--pretrained")


def results_below_a_file() -> tuple[str, ...]:
    Path("file").write_text("")
    return (*DIGITS, "--results", "file/results")


def results_is_a_file() -> tuple[str, ...]:
    Path("results").write_text("")
    return DIGITS


def job(**lines: str) -> tuple[str, ...]:
    keys = {"model": "test_resnet", "data": "digits", **lines}
    Path("job.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    return ("job.yaml",)


def a_typo_in_the_space() -> tuple[str, ...]:
    return job(space="{quantize: {weight_rnage: minmax}}")


def a_value_outside_the_space() -> tuple[str, ...]:
    return job(space="{quantize: {weight_range: largest}}")


Case = tuple[Callable[[], tuple[str, ...]], str]
CASES: list[Case] = [
    (checkpoint_of_another_shape, "weights.pth: 'conv1.0.weight' has shape (9, 1, 3, 3), the model needs "),
    (checkpoint_of_other_classes, "weights.pth: 'fc.weight' has 7 classes, the data has 10"),
    (checkpoint_that_is_incomplete, "weights.pth has no tensor 'bn1.weight'"),
    (checkpoint_that_is_none, "weights.pth "),
    (checkpoint_of_nan, "weights.pth: 'bn1.weight' holds NaN"),
    (lambda: two_channels_too_many(DIGITS), "the model reads 4 channels, and pictures have 1 or 3"),
    (pictures_for_four_channels, "the model reads 4 channels, and pictures have 1 or 3"),
    (
        lambda: ("--model", "test_vit", "--data", "digits", "--input-size", "33"),
        "'test_vit' cannot take images of 33 x 33 pixels and 1 channel: ",
    ),
    (
        lambda: job(model="test_vit", model_args="{global_pool: ''}"),
        "'test_vit' gives a tensor (2, 5, 10) for ",
    ),
    (
        lambda: (*DIGITS, "--set", "model_args.crop_mode=middle"),
        "--set model_args.crop_mode must be center, squash",
    ),
    (
        lambda: (*DIGITS, "--set", "baseline.lr=1e9", "--set", "baseline.epochs=1"),
        "the training of the baseline 'test_",
    ),
    (lambda: (*DIGITS, "--checkpoint", "weights.pth"), "--checkpoint names no file: weights.pth"),
    (two_sources_of_weights, "--checkpoint cannot be combined with 'pretrained'"),
    (empty_folder, "pictures holds no class folders"),
    (empty_class, "the class folder pictures/train/middle holds no images"),
    (one_class, "pictures/train has one class only, 'dark'"),
    (one_training_image, "1 image is left for training (1 for validation, 1 for the test), but the batch norm "),
    (lambda: (*DIGITS, "--set", "baseline.batch_size=1"), "--set baseline.batch_size cannot be 1: the batch norm of "),
    (two_training_folders, "pictures/Training and pictures/train are the same split by their names"),
    (splits_without_classes, "pictures/Testing and pictures/Training hold no class folders"),
    (image_of_floats, "the image pictures/val/light/x.tif cannot be read: its pixels are floating-point numbers"),
    (no_folder, "there is no folder pictures"),
    (corrupt_image, "the image pictures/test/light/2.png cannot be read: "),
    (results_below_a_file, "file/results/test_resnet-digits cannot be written: "),
    (results_is_a_file, "results/test_resnet-digits cannot be written: "),
    (lambda: (*DIGITS, "--device", "onnxruntime-gpu"), "--device names no device: 'onnxruntime-gpu'"),
    (lambda: (*MODEL, "--data", "digit"), "--data names no data set: 'digit' (did you mean 'digits'?)"),
    (lambda: (*DIGITS, "--methods", "gost"), "--methods names no installed method: 'gost' (did you mean 'ghost'?)"),
    (
        lambda: (*DIGITS, "--space", "jiont"),
        "--space cannot be found: there is no space 'jiont' (did you mean 'joint'?)",
    ),
    (lambda: (*DIGITS, "--energy", "0.5x"), "--energy bounds energy, which no device here measures"),
    (lambda: (*DIGITS, "--latency", "0x"), "--latency must be more than 0"),
    (lambda: job(constraints="{size: 0 MB}"), "job.yaml:3: 'constraints.size' must be more than 0"),
    (lambda: job(constraints="{accuracy_drop: 1, accuracy_drop: 2}"), "job.yaml:3: 'constraints.accuracy_drop' is "),
    (a_typo_in_the_space, "job.yaml:3: 'space.quantize.weight_rnage' matches no parameter of the space (did you mean "),
    (a_value_outside_the_space, "job.yaml:3: 'space.quantize.weight_range' cannot be 'largest'"),
    (lambda: ("gone.yaml",), "there is no job file gone.yaml"),
]


def name_of(case: Case) -> str:
    prepare, message = case
    return message if prepare.__name__ == "<lambda>" else prepare.__name__


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def arguments(prepare: Callable[[], tuple[str, ...]]) -> list[str]:
    """Arguments of the command for a search that trains nothing before it fails."""
    given = prepare()
    untrained = () if any(word.startswith("baseline.epochs=") for word in given) else ("--set", "baseline.epochs=0")
    return ["search", *given, "--trials", "1", *untrained]


def check(code: object, errors: str, message: str) -> None:
    """Checks that stderr is one line, and that the next search is not affected."""
    assert code == 2, errors
    (line,) = errors.splitlines()
    assert line.replace(f"{Path.cwd()}/", "").startswith(f"error: {message}")
    assert "Traceback" not in errors
    assert not [path for name in ("trials.csv", "front.csv", "artifacts") for path in Path().rglob(name)]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_bad_input_gives_one_sentence(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, message = case
    monkeypatch.setattr(sys, "argv", ["autocompress", *arguments(prepare)])
    with pytest.raises(SystemExit) as ended:
        main()
    check(ended.value.code, capsys.readouterr().err, message)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] in (corrupt_image, a_typo_in_the_space)], ids=name_of
)
def test_bad_input_gives_one_sentence_in_the_real_command(case: Case) -> None:
    prepare, message = case
    command = [sys.executable, "-m", "autocompress.cli", *arguments(prepare)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=patient(120), env=dict(os.environ)
    )
    check(done.returncode, done.stderr, message)


def test_an_unwritable_cache_folder_gives_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", "file/cache")
    monkeypatch.setattr(sys, "argv", ["autocompress", *arguments(lambda: DIGITS)])
    with pytest.raises(SystemExit) as ended:
        main()
    check(ended.value.code, capsys.readouterr().err, "the cache folder file/cache cannot be written: ")
