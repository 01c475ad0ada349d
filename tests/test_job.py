"""A job: file, keyword arguments and flags give the same object, and so does its dump."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.cli import options
from autocompress.errors import HintedError, UserError
from autocompress.job import Bound, DataConfig, DeviceConfig, Job, limits_of, load_job, resolved, warnings
from autocompress.objectives.quantities import BY_NAME
from autocompress.objectives.spelling import parse_bound, spell_bound

FILE = """\
model: resnet18
data: glyphs
device: {name: onnxruntime-cpu, threads: 2}
objectives: [accuracy, latency, size]
constraints: {accuracy_drop: 1.0, latency: 0.5x, size: 2 MB}
space: joint
granularity: block
budget: {trials: 7, minutes: 20, epochs: 3}
sampler: nsga2
workers: 1
seed: 5
"""
KEYWORDS: dict[str, Any] = {
    "model": "resnet18",
    "data": "glyphs",
    "device": {"name": "onnxruntime-cpu", "threads": 2},
    "objectives": ["accuracy", "latency", "size"],
    "constraints": {"accuracy_drop": 1, "latency": "0.5x", "size": "2 MB"},
    "space": "joint",
    "granularity": "block",
    "budget": {"trials": 7, "minutes": 20, "epochs": 3},
    "sampler": "nsga2",
    "workers": 1,
    "seed": 5,
}
SHORT: dict[str, Any] = {
    **{key: value for key, value in KEYWORDS.items() if key not in ("device", "constraints", "budget")},
    "threads": 2,
    "accuracy_drop": 1.0,
    "latency": "0.5x",
    "size": "2 MB",
    "trials": 7,
    "minutes": 20.0,
    "epochs": 3,
}
FLAGS: dict[str, Any] = {**SHORT, "objectives": "accuracy, latency,size", "name": None, "cost_model": None}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(FILE)
    return path


def test_file_keywords_and_flags_give_the_same_job(file: Path) -> None:
    from_file = load_job(file)
    assert load_job(settings=KEYWORDS) == from_file
    assert load_job(settings=SHORT) == from_file
    assert load_job(settings=options.settings(FLAGS, None), flags=True) == from_file
    assert Job(**KEYWORDS) == from_file
    assert load_job(settings={**SHORT, "seed": 6}) != from_file


def test_a_job_has_the_written_values(file: Path) -> None:
    job = load_job(file)
    assert job.constraints.bounds() == {
        "latency": Bound(value=0.5, relative=True),
        "size": Bound(value=2e6, relative=False),
    }
    assert job.data == DataConfig(train="glyphs", val="glyphs", test="glyphs")
    assert (job.name, job.folder) == ("resnet18-glyphs", Path("results/resnet18-glyphs"))


def test_flags_override_the_file(file: Path) -> None:
    job = load_job(file, {"latency": "4 ms", "trials": 9, "device": "other", "minutes": None}, flags=True)
    assert job.constraints.latency == Bound(value=4.0, relative=False)
    assert job.constraints.accuracy_drop == 1.0
    assert (job.budget.trials, job.budget.minutes) == (9, 20)
    assert job.device == DeviceConfig(name="other", threads=2)


def test_a_flag_sets_the_threads_of_a_device_named_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: resnet18\ndata: digits\ndevice: some-device\n")
    assert load_job(path, {"threads": 3}, flags=True).device == DeviceConfig(name="some-device", threads=3)


def test_a_flag_changes_one_split_of_data_given_as_one_word(file: Path) -> None:
    assert load_job(file, {"data.test": "digits"}, flags=True).data == DataConfig(
        train="glyphs", val="glyphs", test="digits"
    )
    assert load_job(file, {"data": "digits"}, flags=True).data.test == "digits"


def test_a_named_space_is_not_silently_replaced_by_one_limit(file: Path) -> None:
    with pytest.raises(UserError, match=r"--set space\.recover\.epochs cannot narrow the space 'joint' further"):
        load_job(file, {"space.recover.epochs": 1}, flags=True)
    limits = limits_of(load_job(settings={"model": "resnet18", "data": "digits", "space.recover.epochs": 1}))
    assert limits.values == {"recover.epochs": 1}


def test_assignments_work_for_every_key() -> None:
    given = options.settings({"model": "resnet18"}, ["data.train=digits", "baseline.lr=1e-3", "space={bits: none}"])
    job = load_job(settings=given, flags=True)
    assert job.data == DataConfig(train="digits")
    assert job.baseline.lr == 1e-3
    assert job.space == {"bits": "none"}
    with pytest.raises(UserError, match="--set workers has no value"):
        options.settings({}, ["workers"])


def test_the_dump_is_read_back_as_the_same_job(file: Path, tmp_path: Path) -> None:
    job = load_job(file)
    again = tmp_path / "again.yaml"
    again.write_text(job.to_yaml({"torch": "2.9"}))
    assert again.read_text().startswith("# torch 2.9\n")
    assert load_job(again) == resolved(job)


def test_the_dump_has_the_limits_of_its_space(tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text(
        "methods: [quantize]\nspace:\n  bits:\n    weight: [none, 'quantize:8']\n  recover.lr: {low: 1e-4}\n"
    )
    job = load_job(settings={"model": "resnet18", "data": "digits", "space": str(space)})
    text = job.to_yaml()
    space.unlink()
    path = tmp_path / "job.yaml"
    path.write_text(text)
    again = load_job(path)
    assert again.methods == ("quantize",)
    assert limits_of(again).values == {"bits.weight": ["none", "quantize:8"], "recover.lr": {"low": 1e-4}}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("digits", DataConfig(train="digits", val="digits", test="digits")),
        ({"train": "folder:a", "val": "folder:b"}, DataConfig(train="folder:a", val="folder:b")),
    ],
)
def test_forms_of_data(data: Any, expected: DataConfig) -> None:
    assert load_job(settings={"model": "resnet18", "data": data}).data == expected


def test_a_job_without_data_needs_weights() -> None:
    for nothing in (None, "none"):
        assert load_job(settings={"model": "resnet18", "data": nothing, "pretrained": True}).data == DataConfig()
    with pytest.raises(UserError, match="no labelled images to train the baseline on"):
        load_job(settings={"model": "resnet18", "data": "none"})


def test_default_names_are_valid_folder_names() -> None:
    job = load_job(settings={"model": "hf-hub:timm/resnet18.a1_in1k", "data": {"train": "folder:/data/my images/"}})
    assert job.name == "hf-hub-timm-resnet18.a1_in1k-my-images"


@pytest.mark.parametrize(
    ("quantity", "text", "value", "relative"),
    [
        ("latency", "0.5x", 0.5, True),
        ("latency", "4 ms", 4.0, False),
        ("latency", "250us", 0.25, False),
        ("latency", "1.5e-3 s", 1.5, False),
        ("size", "2 MB", 2e6, False),
        ("size", "2MiB", 2.0**21, False),
        ("size", "700 kB", 7e5, False),
        ("energy", "1.5 mJ", 1500.0, False),
        ("macs", "20 M", 2e7, False),
        ("macs", 1000, 1000.0, False),
        ("params", "300k", 3e5, False),
    ],
)
def test_amounts(quantity: str, text: Any, value: float, relative: bool) -> None:
    bound = parse_bound(quantity, text)
    assert (bound.value, bound.relative) == (pytest.approx(value), relative)


@pytest.mark.parametrize(
    "text", ["", "x", "fast", "-0.5x", "0x", "0.5", 0.5, "1..2 ms", "4 MB", "1e999 ms", True, "nan ms"]
)
def test_invalid_amounts(text: Any) -> None:
    with pytest.raises(HintedError):
        parse_bound("latency", text)


@given(st.sampled_from(sorted(name for name in BY_NAME if BY_NAME[name].units)), st.floats(1e-12, 1e15), st.booleans())
def test_a_bound_is_read_back_from_its_spelling(quantity: str, value: float, relative: bool) -> None:
    bound = Bound(value=value, relative=relative)
    assert parse_bound(quantity, spell_bound(quantity, bound)) == bound


def test_a_bound_that_saves_nothing_gives_a_warning() -> None:
    job = load_job(settings={"model": "resnet18", "data": "digits", "latency": "1.5x"})
    (warning,) = warnings(job)
    assert "'constraints.latency' of 1.5x saves nothing" in warning


def test_a_seed_that_cannot_repeat_the_search_gives_a_warning(file: Path) -> None:
    assert any("a seed repeats this search only with sampler 'random'" in text for text in warnings(load_job(file)))
    assert warnings(load_job(file, {"sampler": "random"})) == []
    assert warnings(load_job(settings={"model": "resnet18", "data": "digits"})) == []


def test_reading_a_job_needs_neither_torch_nor_timm() -> None:
    code = "import sys, autocompress.job, autocompress.cli; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_workers_of_the_cluster_section_are_those_of_the_job(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("model: resnet18\ndata: digits\ncluster: {address: head:6379, workers: 8, memory: 4 GB}\n")
    job = load_job(file)
    assert (job.workers, job.cluster.address, job.cluster.memory_bytes) == (8, "head:6379", 4_000_000_000)
    assert load_job(file, {"workers": 3, "address": "auto"}, flags=True).workers == 3, "a flag overrides the file"
    file.write_text(job.to_yaml())
    assert load_job(file) == job
    assert load_job(model="resnet18", data="digits").cluster.is_local


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ({"address": "head"}, "'cluster.address' cannot be 'head' (write local, auto, or HOST:PORT"),
        ({"address": "head:70000"}, "'cluster.address' cannot be 'head:70000'"),
        ({"address": "ray://head:10001"}, "start the search on a node of the cluster"),
        ({"memory": "0.5x"}, "'cluster.memory' cannot be a ratio (write an amount such as 4 GB)"),
        ({"cpus": -1}, "'cluster.cpus' must be at least 0, not -1"),
        ({"workers": 3}, "'cluster.workers' is 3, but 'workers' is 2 (give one of them)"),
    ],
)
def test_an_invalid_cluster_gives_one_sentence(cluster: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        load_job(model="resnet18", data="digits", cluster=cluster, workers=2)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
