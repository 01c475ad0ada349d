"""``autocompress synthesize`` and ``autocompress similarity``: files, output, and refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autocompress import data, models
from autocompress.cli import main
from autocompress.cli.commands import synthesize
from autocompress.data import DataInfo
from autocompress.errors import UserError
from autocompress.job import DataConfig, load_job
from autocompress.synthesis import teacher_logits
from autocompress.synthesis.imagefolder import as_bytes, folder_names, write_images
from autocompress.synthesis.similarity import similarity
from autocompress.testing import example_model
from autocompress.training import recalibrate_batch_norm

MEAN, STD = 0.3, 0.32
Command = Callable[..., str]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a command in this process, in an empty folder.

    Returns its output; if ``code`` is 2, its error.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["autocompress", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed
        return printed.out if code == 0 else printed.err.removeprefix("error: ").strip()

    return run


def save(folder: Path, name: str, normed: bool = True, channels: int = 1) -> Path:
    """A checkpoint of ``name`` for 10 classes of grey 32x32 images.

    Its batch norms have statistics.
    """
    job = load_job(model=name, data="digits", seed=1)
    info = DataInfo(10, channels, (32, 32), (MEAN,) * channels, (STD,) * channels, tuple("0123456789"))
    model = models.create(job, info)
    if normed:
        train = data.load(DataConfig.model_validate("digits"), mean=(MEAN,), std=(STD,)).train
        recalibrate_batch_norm(model, train)
    # Random weights would predict one class for all images.
    (head,) = models.classifier(model)
    noise = torch.randn(64, channels, 32, 32)
    model.get_submodule(head).bias.data -= teacher_logits(model, noise).mean(0)  # type: ignore[operator]
    path = folder / f"{name}.pth"
    torch.save({"state_dict": model.state_dict(), "args": {"mean": [MEAN], "std": [STD]}}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints"), "test_resnet")


@pytest.fixture(scope="module")
def without_norms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints"), "test_vit", normed=False)


def of(checkpoint: Path) -> tuple[str | Path, ...]:
    return ("--model", checkpoint.stem, "--checkpoint", checkpoint, "--input-size", "32")


# --- synthesize -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deepinversion", "knowledge_within", "zskd"])
def test_images_of_every_method_are_written(here: Command, checkpoint: Path, method: str, tmp_path: Path) -> None:
    out = tmp_path / "images"
    how = ("--method", method, "--images", 12, "--set", "iterations=3")
    printed = here("synthesize", *of(checkpoint), *how, "--out", out)
    assert f"wrote {out}: 12 images of 1x32x32, " in printed
    facts = json.loads((out / "synthesis.json").read_text())
    assert (facts["method"], facts["images"], facts["size"]) == (method, 12, [1, 32, 32])
    assert facts["params"]["iterations"] == 3
    assert facts["params"]["images"] == 12
    assert facts["mean"] == pytest.approx([MEAN])
    assert {"agreement", "confidence", "diversity", "feature_distance", "bns"} == set(facts["quality"])
    assert facts["seconds"] > 0
    with Image.open(out / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 32
    folders = [path for path in out.iterdir() if path.is_dir()]
    assert len(folders) > 1
    assert sorted(path.name for path in folders) == sorted(entry["folder"] for entry in facts["classes"])
    assert {path.name for path in out.iterdir() if path.is_file()} == {"contact_sheet.png", "synthesis.json"}
    files = sorted(out.glob("*/*.png"))
    assert len(files) == 12
    model = models.create(load_job(model="test_resnet", checkpoint=checkpoint, data="none", input_size=32))
    for file in files:
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("L", (32, 32))
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 1, 32, 32) / 255
        label = int(teacher_logits(model, (pixels - MEAN) / STD).argmax())
        assert file.parent.name == str(label), (
            "images must be in the folder of the class that the teacher predicts for the file"
        )


def test_a_seed_repeats_the_images_and_full_names_of_parameters_work(
    here: Command, checkpoint: Path, tmp_path: Path
) -> None:
    found = []
    for number, seed in enumerate((3, 3, 4)):
        out = tmp_path / f"images{number}"
        scheme = ("--set", "knowledge_within.scheme=gaussian", "--seed", seed)
        here("synthesize", *of(checkpoint), "--method", "knowledge_within", "--images", 4, *scheme, "--out", out)
        assert json.loads((out / "synthesis.json").read_text())["params"] == {"scheme": "gaussian", "images": 4}
        found.append({file.relative_to(out): file.read_bytes() for file in out.glob("*/*.png")})
    assert found[0] == found[1] != found[2]


def test_a_model_without_batch_norm(here: Command, without_norms: Path, tmp_path: Path) -> None:
    message = here("synthesize", *of(without_norms), "--out", tmp_path / "a", code=2)
    assert message.startswith("deepinversion cannot make images from test_vit: it has no batch norm")
    assert message.endswith("(--method knowledge_within or zskd can)")
    out = tmp_path / "b"
    here("synthesize", *of(without_norms), "--method", "zskd", "--images", 4, "--set", "iterations=2", "--out", out)
    assert "bns" not in json.loads((out / "synthesis.json").read_text())["quality"]
    start = ("synthesize", *of(without_norms), "--method", "knowledge_within", "--out", tmp_path / "c")
    assert "its scheme 'bns' needs batch norm" in here(*start, "--set", "scheme=bns", code=2)
    assert not (tmp_path / "c").exists()


def test_invalid_arguments_of_synthesize(here: Command, checkpoint: Path, tmp_path: Path) -> None:
    start = ("synthesize", *of(checkpoint), "--out", tmp_path / "images")
    assert here(*start, "--method", "deepinvertion", code=2) == (
        "'deepinvertion' is no method that makes images (did you mean 'deepinversion'?)"
    )
    assert "'ghost' is no method that makes images" in here(*start, "--method", "ghost", code=2)
    assert here(*start, "--set", "iteration=3", code=2) == (
        "--set iteration: deepinversion has no such parameter here (did you mean 'iterations'?)"
    )
    message = here(*start, "--method", "zskd", "--set", "tau=100", code=2)
    assert message == "--set tau cannot be 100.0: it takes 1.0 .. 20.0 (log)"
    within = (*start, "--method", "knowledge_within")
    assert here(*within, "--set", "scheme=1", code=2) == (
        "--set scheme cannot be 1: it takes bns+inception | bns | inception | gaussian | preset"
    )
    assert here(*within, "--set", "scheme=[1]", code=2).startswith("--set scheme cannot be 1: it takes ")
    assert here(*within, "--set", "preset=1", code=2).startswith("--set preset cannot be 1: it takes ")
    for wrong in ("mean=[a]", "mean=[0.1,0.2]", "std=[0]"):
        message = here(*start, "--set", f"model_args.{wrong}", code=2)
        assert f"model_args.{wrong.partition('=')[0]}" in message
        assert "must be finite numbers" in message
    assert "--set images cannot be combined with --images" in here(*start, "--set", "images=3", code=2)
    assert "--set lr has no value" in here(*start, "--set", "lr", code=2)
    assert here("synthesize", "--model", "resnet18", "--out", "x", code=2) == (
        "the model has no trained weights (give --checkpoint PATH or --pretrained)"
    )
    message = here("synthesize", "--model", "resnet81", "--checkpoint", checkpoint, "--out", "x", code=2)
    assert message.startswith("--model names no timm model: 'resnet81' (did you mean ")
    assert "--checkpoint names no file" in here(
        "synthesize", "--model", "test_resnet", "--checkpoint", "none.pth", "--out", "x", code=2
    )
    assert not (tmp_path / "images").exists()
    assert not list(tmp_path.glob(".images*")), "nothing is left behind"


def test_one_number_normalises_grey_images(here: Command, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "images"
    how = ("--method", "knowledge_within", "--set", "scheme=gaussian", "--images", 4)
    here("synthesize", *of(checkpoint), *how, "--set", "model_args.mean=0", "--set", "model_args.std=0.5", "--out", out)
    facts = json.loads((out / "synthesis.json").read_text())
    assert (facts["mean"], facts["std"]) == ([0], [0.5])


def test_channels_without_a_file_format_are_refused_before_anything_is_made(
    here: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("images were made")

    monkeypatch.setattr("autocompress.cli.commands.synthesize._made", never)
    twelve = save(tmp_path, "test_resnet", normed=False, channels=12)
    message = here("synthesize", *of(twelve), "--method", "zskd", "--out", tmp_path / "images", code=2)
    assert message == "images of 12 channels cannot be written as PNG (images need 1 or 3 channels)"


def test_quality_is_computed_in_batches() -> None:
    model, sizes = example_model(), list[int]()
    images, labels = torch.randn(300, 3, 32, 32), torch.zeros(300, dtype=torch.int64)
    whole = similarity(model, [(images, labels)])
    model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    found = synthesize._quality(model, images, labels)
    assert max(sizes) <= 256
    assert found["bns"] == pytest.approx(whole, rel=1e-4)


def test_nothing_is_overwritten(here: Command, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    message = here("synthesize", *of(checkpoint), "--out", tmp_path / "mine", code=2)
    assert message == f"{tmp_path / 'mine'} is there already (give --out another folder)"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


# --- files ----------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=80), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_folder_names_are_valid_and_different(names: list[str]) -> None:
    found = folder_names(names)
    assert len(found) == len(names)
    assert len({name.casefold() for name in found}) == len(names)
    for name in found:
        assert name
        assert name == Path(name).name
        assert name.isascii()
        assert not name.startswith((".", "-"))
        assert len(name) < 80


def test_folder_names_of_common_classes() -> None:
    assert folder_names(["tench, Tinca tinca", "../x", "A", "a", ""]) == [
        "tench-Tinca-tinca",
        "x",
        "A",
        "a-3",
        "class-4",
    ]
    numbers = folder_names([str(number) for number in range(11)])
    assert numbers == sorted(numbers), "in the order of the labels"
    assert numbers[2] == "02"


@pytest.mark.parametrize("channels", [1, 3])
def test_files_have_the_pixels(channels: int, tmp_path: Path) -> None:
    info = DataInfo(2, channels, (5, 7), (0.4,) * channels, (0.2,) * channels, ("a", "b"))
    pixels = torch.randint(0, 256, (3, channels, 5, 7), dtype=torch.uint8)
    normalised = (pixels.float() / 255 - 0.4) / 0.2
    assert torch.equal(as_bytes(normalised, info), pixels)
    assert as_bytes(torch.full((1, channels, 5, 7), 99.0), info).eq(255).all()
    write_images(pixels, torch.tensor([1, 0, 1]), ["a", "b"], tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob("*/*")) == ["a/1.png", "b/0.png", "b/2.png"]
    with Image.open(tmp_path / "b" / "2.png") as image:
        read = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(5, 7, channels)
    assert torch.equal(read.permute(2, 0, 1), pixels[2])


def test_images_of_two_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 channels"):
        write_images(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), torch.tensor([0]), ["a"], tmp_path)


# --- similarity -----------------------------------------------------------------------------------


def rows(printed: str, names: Sequence[str]) -> dict[str, list[str]]:
    """The cells of the rows that begin with one of ``names``, in the printed order."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in cells if row[0] in names}


def test_training_data_of_a_model_come_first(here: Command, checkpoint: Path) -> None:
    printed = here("similarity", *of(checkpoint), "glyphs", "digits", "--images", 300)
    assert "images were read at 32x32;" in printed
    found = rows(printed, ["digits", "glyphs", "Gaussian noise"])
    assert next(iter(found)) == "digits"
    assert set(found) == {"digits", "glyphs", "Gaussian noise"}
    values = [float(row[2]) for row in found.values()]
    assert values == sorted(values)
    assert values[0] < values[1] / 3
    assert {row[1] for row in found.values()} == {"300"}
    assert "J only compares data sets" in printed
    assert "about 1 / images in deep layers" in printed
    other = here("similarity", *of(checkpoint), "digits", "--images", 300, "--divergence", "recorded")
    noise = [float(cells["Gaussian noise"][2]) for cells in (found, rows(other, ["Gaussian noise"]))]
    assert noise[1] < noise[0] / 2, "KL(recorded || measured) is smaller for too much variance"


def test_folders_work_and_the_smallest_data_set_decides_the_number_of_images(
    here: Command, checkpoint: Path, tmp_path: Path
) -> None:
    for number in range(40):
        into = tmp_path / "pictures" / ("even" if number % 2 else "odd")
        into.mkdir(parents=True, exist_ok=True)
        values: Any = torch.randint(0, 256, (32, 32), dtype=torch.uint8).numpy()
        Image.fromarray(values).save(into / f"{number}.png")
    word = f"folder:{tmp_path / 'pictures'}"
    printed = here("similarity", "--model", "test_resnet", "--checkpoint", checkpoint, "digits", word)
    assert "images were read at 32x32, the size of digits (--input-size for another);" in printed
    found = rows(printed, [word, "digits", "Gaussian noise"])
    assert found["digits"][1] == found[word][1] == "32"
    assert found[word][0] == "train", "validation would be four images"
    assert next(iter(found)) == "digits"


def test_invalid_arguments_of_similarity(here: Command, checkpoint: Path, without_norms: Path) -> None:
    assert "did you mean 'digits'" in here("similarity", *of(checkpoint), "digit", code=2)
    message = here("similarity", *of(without_norms), "digits", code=2)
    assert message.startswith("J cannot be computed for test_vit: it has no batch norm")
    assert "--set lr means nothing here" in here("similarity", *of(checkpoint), "digits", "--set", "lr=1", code=2)
    assert "give --checkpoint" in here("similarity", "--model", "resnet18", "digits", code=2)
