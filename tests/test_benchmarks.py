"""Each benchmark runs at a small size and writes its table. Its figures are not judged here."""

from __future__ import annotations

import json
import logging
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import small_networks  # noqa: F401
import torch

from autocompress.data.digits import Digits
from autocompress.data.provider import Source

FOLDER = Path(__file__).parent.parent / "benchmarks"
JOB = (
    "{model: test_resnet, data: digits, methods: [quantize], device: 'cost-model:bitops', baseline: {epochs: 1}, "
    "budget: {trials: 1, epochs: 1}, workers: 2}\n"
)
TABLE = ["--data", "digits", "--seeds", "0", "--baseline-epochs", "1", "--images", "64"]
# In this process the network is ``two_blocks``. Other processes only know timm's own names.
SMALL = {
    "adder": [
        *("--sizes", "32", "--batch", "2", "--layers", "1", "--rounds", "2", "--integer-rounds", "2", "--threads", "1"),
        *("--depth", "8", "--cost-rounds", "2", "--cost-batch", "16"),
        *("--whole-model", "two_blocks", "--whole-size", "32", "--whole-rounds", "2"),
    ],
    "data": ["--pictures", "40", "--rounds", "1", "--entries", "1000", "--workers", "1"],
    "data_free": [
        *("--threads", "1", "--teachers", "digits=two_blocks", "digits=lenet5"),
        *("--ways", "deepinversion", "noise", "--epochs", "1"),
        *("--images", "16", "--iterations", "2", "--steps", "2", "--model", "two_blocks", "--data", "digits"),
        *("--uses", "calibrate", "train4", "prune", "--use-images", "32", "--use-epochs", "1", "--seeds", "0"),
        *("--speed-model", "two_blocks", "--speed-images", "8", "--speed-iterations", "2", "--rounds", "2"),
    ],
    "breadth": ["--check", "--models", "test_convnext", "--methods", "magnitude", "quantize"],
    "cluster": ["--parts", "speed", "--trials", "3", "--most-nodes", "1"],
    "cluster_simulation": ["--workers", "20", "--trials", "60", "--every", "30", "--folder", "simulated"],
    "demo": ["--job", "job.yaml"],
    "conformance": ["--methods", "magnitude"],
    "compute": ["--models", "two_blocks:32", "--rounds", "2"],
    "few_bits": ["--rows", "1", "4", "--shapes", "64x32", "--seconds", "0.1"],
    "front_without_search": [
        *("--model", "two_blocks", "--data", "digits", "--baseline-epochs", "1", "--count", "1", "--check", "2"),
        *("--table-seconds", "0.1", "--profile-seconds", "0.05", "--probes", "3", "--held-out", "1"),
    ],
    "repair": [
        *("--parts", "uniform", "--model", "two_blocks", "--data", "digits", "--epochs", "1", "--threads", "1"),
        *("--cuts", "group:0.5"),
    ],
    "search_quality": [
        *("--model", "test_resnet", "--data", "digits", "--epochs", "1", "--seconds", "12", "--times", "1"),
    ],
    "gpu": [
        *("--device", "cpu", "--model", "two_blocks", "--size", "32", "--batch", "8", "--images", "32"),
        *("--rounds", "2", "--workers", "0"),
    ],
    "glyphs": ["--model", "two_blocks", "--epochs", "1", "--images", "256"],
    "int8": ["--models", "two_blocks", "--sizes", "32", "64", "--seconds", "0.3"],
    "intervals": [
        *("--models", "two_blocks", "--sizes", "32", "--rounds", "3", "--later", "2", "--seconds", "0.1"),
        *("--busy", "0", "1"),
    ],
    "newcomer": [
        *("--source", "digits", "--model", "two_blocks", "--baseline-epochs", "1", "--trials", "1"),
        *("--minutes", "0.3", "--methods", "magnitude", "quantize"),
    ],
    "papers_adder": [
        *("--data", "digits", "--epochs", "1", "--recovery-epochs", "1", "--seeds", "0"),
        *("--ways", "convolution, float32", "adder, float32", "adder, int8"),
    ],
    "papers_quantize": [
        "--models",
        "resnet10t-half",
        "--rows",
        "W8A8 sym per channel",
        "W4A8",
        "W4A8, trained",
        *TABLE,
    ],
    "papers_scop": ["--rows", "gaussian, rate 0.35", "gaussian, rate 0.5", "random, rate 0.5", *TABLE],
    "papers_slb": ["--rows", "W2A32", "W1A32", "linear", *TABLE],
    "placement": ["--models", "two_blocks", "--size", "32", "--seconds", "0.1", "--devices", "onnxruntime-cpu"],
    "pruning": [
        *("--counts-models", "cifar-resnet56", "--models", "two_blocks", "--data", "digits", "--epochs", "1"),
        *("--recovery-epochs", "1", "--images", "64", "--seeds", "0", "--latency-model", "two_blocks"),
        *("--size", "64", "--seconds", "0.1", "--cost-model", "two_blocks", "--cost-images", "64", "--rounds", "2"),
    ],
    "quantization": [
        *("--parts", "size", "rivals", "accuracy", "granularity", "slb-cost", "--no-nncf", "--data", "digits"),
        *("--model", "two_blocks", "--size-model", "two_blocks", "--size", "64", "--rival-models", "two_blocks"),
        *("--mobilenet", "two_blocks", "--epochs", "1", "--qat-epochs", "1", "--repair-epochs", "1"),
        *("--images", "64", "--seeds", "0", "--rounds", "2", "--seconds", "0.1", "--widths", "slb:2"),
    ],
    "rounding": [
        *("--model", "two_blocks", "--data", "digits", "--epochs", "1", "--images", "64"),
        *("--widths", "quantize:3", "slb:1"),
    ],
    "removal_table": ["--models", "two_blocks", "--size", "32"],
    "trial_overhead": ["--model", "two_blocks", "--methods", "quantize", "--trials", "2", "--driver-rows", "200"],
}

WITHOUT = {"efficientnet_lite0"}
"""Its network and its 224 pixels are fixed, so even the smallest run takes minutes."""


@pytest.fixture
def _this_process_stays_as_it_is() -> Iterator[None]:
    """Restores settings of this process: benchmarks set threads and logging."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    logging.disable(logging.NOTSET)


@pytest.fixture
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses a quarter of the digits, because results of trainings are not judged."""
    load = Digits.load

    def few(self: Digits, spec: str) -> Source:
        whole = load(self, spec)
        parts = {"train": 256, "val": 96, "test": 96}
        return replace(whole, **{part: getattr(whole, part).subset(count) for part, count in parts.items()})

    monkeypatch.setattr(Digits, "load", few)


@pytest.mark.slow
@pytest.mark.usefixtures("search_here", "_this_process_stays_as_it_is", "_few_digits")
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_small_run_writes_its_figures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.json"
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [str(FOLDER / f"{name}.py"), *SMALL[name], "--out", str(out)])
    runpy.run_path(sys.argv[0], run_name="__main__")
    written = out.read_text()
    assert json.loads(written)
    assert '"fault"' not in written  # a row of breadth that ended in a traceback


def test_every_benchmark_has_a_small_run() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} - WITHOUT == set(SMALL)
