"""labels:FILE.csv: tables of pictures with several labels each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress import data
from autocompress.errors import UserError
from autocompress.job import DataConfig
from autocompress.task import TaskRef

HEAD = "image,split,bright,wide\n"


def picture(folder: Path, name: str, value: int = 90) -> str:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(file)
    return name


def table(folder: Path, text: str) -> str:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return f"labels:{folder / 'labels.csv'}"


def test_a_table_gives_splits_and_labels(tmp_path: Path) -> None:
    lines = [f"{picture(tmp_path, f'{part}/{n}.png', 20 * n)},{part},{n % 2},{int(n > 2)}"
             for part in ("train", "valid", "test") for n in range(6)]  # fmt: skip
    spec = table(tmp_path, HEAD + "\n".join(lines) + "\n\n")
    found = data.load(DataConfig.model_validate(spec), task=TaskRef("multilabel"))
    assert [len(split) for split in (found.train, found.val, found.test)] == [6, 6, 6]
    assert found.info.class_names == ("bright", "wide")
    assert torch.equal(found.val.labels(), torch.tensor([[n % 2, n > 2] for n in range(6)]).float())
    images, labels = next(iter(found.val.loader(4, shuffle=True, seed=1)))
    assert images.shape == (4, 3, 16, 16)
    assert labels.shape == (4, 2)
    assert found.train.subset(3).labels().shape == (3, 2)
    plain = data.load(DataConfig.model_validate(spec))
    assert plain.val.digest != found.val.digest


def test_a_table_without_splits_is_split_automatically(tmp_path: Path) -> None:
    lines = [f"{picture(tmp_path, f'{n}.png', 8 * n)},{n % 2}" for n in range(30)]
    found = data.load(DataConfig.model_validate(table(tmp_path, "image,odd\n" + "\n".join(lines))))
    assert [len(split) for split in (found.train, found.val, found.test)] == [24, 3, 3]
    assert found.info.num_classes == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'image'"),
        ("file,a\n", "has no column 'image'"),
        ("image,split\n", "has no column with a label"),
        ("image,a,a\n", "has two columns 'a'"),
        ("image,a\n", "lists no pictures"),
        ("image,a\nx.png,2\n", "line 2 of .* has '2' for the label 'a'"),
        ("image,a\n\nx.png,1\ny.png,2\n", "line 4 of .* has '2' for the label 'a'"),
        ("image,a\nx.png,1,0\n", "line 2 of .* has 3 columns, and the first line 2"),
        ("image,split,a\nx.png,later,1\n", "line 2 of .* has the split 'later'"),
        ("image,a\nx.png,1\nx.png,0\n", "lists 'x.png' twice"),
        ("image,a\ny.png,1\n", "lists 'y.png', which is not there"),
    ],
)
def test_an_error_in_a_table_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    picture(tmp_path, "x.png")
    with pytest.raises(UserError, match=message):
        data.load(DataConfig.model_validate(table(tmp_path, text)))


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        data.load(DataConfig.model_validate(f"labels:{tmp_path / 'no.csv'}"))
