"""Batches do not depend on the number of reading processes or on stored pictures."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress import data
from autocompress.data import batches, processes
from autocompress.data.pictures import DatasetSplit
from autocompress.data.processes import Readers
from autocompress.errors import UserError
from autocompress.job import DataConfig

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """48 pictures of noise in two classes, and a cache for the test."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(24):
            noise = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def _no_processes_stay() -> Iterator[None]:
    processes._pools.clear()
    yield
    processes._pools.clear()


def training(folder: Path, workers: int = 0) -> DatasetSplit:
    """The 38 training images, at the size of the model."""
    config = DataConfig(train=f"folder:{folder}", workers=workers)
    split = data.load(config, default_size=16, input_size=16).train
    assert isinstance(split, DatasetSplit)
    assert split.readers.count == workers
    return split


def read(split: DatasetSplit, **how: Any) -> Batches:
    return list(split.loader(8, **how))


def equal(one: Batches, other: Batches) -> bool:
    pairs = zip(one, other, strict=True)
    return len(one) > 2 and all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_processes_gives_the_same_batches(folder: Path, workers: int) -> None:
    alone, helped = training(folder), training(folder, workers)
    for seed in (0, 2**62):  # of two epochs, read by the same processes
        how = {"shuffle": True, "seed": seed, "augment": True, "drop_last": seed == 0}
        assert equal(read(alone, **how), read(helped, **how))
    assert equal(read(alone), read(helped.relabelled(helped.labels())))
    assert len(processes._pools) == 1


def test_the_order_is_that_of_torch(folder: Path) -> None:
    split = training(folder)
    numbered = split.relabelled(torch.arange(len(split)))
    found = [labels.tolist() for _, labels in read(numbered, shuffle=True, seed=5)]
    generator = torch.Generator().manual_seed(5)
    loader = torch.utils.data.DataLoader(range(len(split)), 8, shuffle=True, generator=generator)  # type: ignore[arg-type]
    assert found == [batch.tolist() for batch in loader]


def test_pictures_are_opened_once(folder: Path) -> None:
    split = training(folder)
    before, changed = read(split), read(split, augment=True, seed=3)
    other = training(folder)  # as another process opens the same folder
    for index in split.indices[1:-1].tolist():  # the other pictures have the size
        split.pictures.files[index].unlink()  # type: ignore[attr-defined]
    assert equal(before, read(other))
    assert equal(changed, read(other, augment=True, seed=3))
    part = other.take(torch.arange(0, 38, 2)).take(torch.arange(17))
    assert torch.equal(torch.cat([images for images, _ in read(part)]), torch.cat([i for i, _ in before])[:34:2])


def test_stored_images_of_other_library_versions_are_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, changed in enumerate(("torch", "Pillow", "timm", "torchvision")):
        monkeypatch.setattr(batches, "version", lambda name, changed=changed: "9" if name == changed else "1")
        read(training(folder))
        assert len(list((tmp_path / "cache" / "pictures").iterdir())) == 1 + number


def test_damaged_stored_images_are_decoded_again(folder: Path, tmp_path: Path) -> None:
    before = read(training(folder))
    (kept,) = (tmp_path / "cache" / "pictures").iterdir()
    with kept.open("r+b") as file:
        file.seek(4 * 38 + 100)
        file.write(b"0123456789")
    assert equal(before, read(training(folder)))


@pytest.mark.parametrize("room", ["0", "0.00001"])
def test_on_a_full_disk_nothing_is_stored_and_batches_are_equal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    before = read(training(folder))
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("AUTOCOMPRESS_PICTURES_GB", room)
    assert equal(before, read(training(folder)))
    pictures = tmp_path / "other" / "pictures"
    assert not pictures.exists() or not list(pictures.iterdir())


def test_a_disk_error_does_not_change_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert len(read(training(folder))) == 5


def test_without_shared_memory_batches_go_through_pipes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(training(folder), augment=True)
    monkeypatch.setattr(processes, "SHARED_MEMORY", str(folder / "missing"))
    assert equal(before, read(training(folder, 1), augment=True))


def test_the_work_of_a_killed_process_is_done_by_this_one(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waits, "__defaults__", (0.2,))  # seconds until torch checks the process
    before_all = signal.getsignal(signal.SIGCHLD)
    split = training(folder, 1)
    before = read(training(folder), augment=True)
    found: Batches = []
    for batch in split.loader(8, augment=True):
        found.append(batch)
        if len(found) == 1:
            (pool,) = processes._pools.values()
            (worker,) = pool.loader._iterator._workers  # type: ignore[union-attr]
            os.kill(worker.pid, signal.SIGKILL)
            assert signal.getsignal(signal.SIGCHLD) is before_all, (
                "the error is not raised in other work of this process"
            )
    assert equal(before, found)
    assert "reads on" in caplog.text


def test_random_numbers_of_a_training_do_not_depend_on_the_readers(folder: Path) -> None:
    split, before = training(folder, 1), torch.get_rng_state()
    read(split, augment=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_and_validation_images_of_one_folder_share_their_processes(folder: Path) -> None:
    splits = data.load(DataConfig(train=f"folder:{folder}", workers=1), default_size=16, input_size=16)
    pids = []
    for _ in range(2):
        for split in (splits.train, splits.val):
            list(split.loader(2, augment=True))
            pids.append([pool.loader._iterator._workers[0].pid for pool in processes._pools.values()])  # type: ignore[union-attr]
    assert pids[1] == pids[3]
    assert len(set(pids[3])) == 2


def test_two_passes_at_the_same_time_are_independent(folder: Path) -> None:
    alone, split = training(folder), training(folder, 1)
    pairs = list(zip(split.loader(8, augment=True), split.loader(8, augment=True, seed=1), strict=True))
    assert equal(read(alone, augment=True), [one for one, _ in pairs])
    assert equal(read(alone, augment=True, seed=1), [other for _, other in pairs])


def test_an_unreadable_picture_is_named_by_the_process_that_reads(folder: Path) -> None:
    split = training(folder, 1)
    broken = folder / "a" / "3.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a/3\.png cannot be read"):
        read(split, augment=True)


@pytest.mark.slow
def test_after_cudas_first_use_processes_are_not_forked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(training(folder), augment=True)
    split = training(folder, 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert equal(before, read(split, augment=True))
    (pool,) = processes._pools.values()
    assert pool.loader.multiprocessing_context.get_start_method() == "forkserver"  # type: ignore[union-attr]


def test_the_number_of_readers_depends_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "usable_processors", lambda: 16)
    assert Readers.of("auto", 2) == Readers(7, waits=True)
    assert Readers.of("auto", 1).count == 8
    assert Readers.of("auto", 16).count == 0
    assert Readers.of(3, 16) == Readers(3)


def test_a_pass_may_skip_its_first_batches(folder: Path) -> None:
    for split in (training(folder), data.load(DataConfig(train="digits")).train.take(torch.arange(38))):
        whole = list(split.loader(8, shuffle=True, seed=1, augment=True))
        rest = list(split.loader(8, shuffle=True, seed=1, augment=True).on(torch.device("cpu"), first=2))
        assert len(rest) == 3
        assert equal(whole[2:], rest)


def test_little_work_starts_no_process(folder: Path) -> None:
    split = training(folder).read_by(Readers(2, waits=True))
    assert equal(read(training(folder)), read(split))
    assert not processes._pools
