"""Content keys contain everything that decides a result: equal keys, equal content."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from autocompress import runtime
from autocompress.compute import Compute
from autocompress.contract import manager
from autocompress.data import DataInfo, Splits, TensorSplit
from autocompress.devices import OnnxRuntimeCpu
from autocompress.files import digest
from autocompress.job import DeviceConfig, Job
from autocompress.opened import keys
from autocompress.opened.baseline import measure_baseline, weights_key
from autocompress.opened.keys import measured_with, scored_with
from autocompress.scoring import Scorer
from autocompress.scoring import scorer as scorer_module
from autocompress.store import Store
from autocompress.testing import example_model
from autocompress.training import computed_with, versions

MACHINE = keys.machine()
CUDA = torch.device("cuda")


def test_the_kind_of_device_and_its_precision_are_in_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    new = computed_with(Compute.on(CUDA))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    old = computed_with(Compute.on(CUDA))
    assert len({digest(found) for found in (computed_with(Compute()), new, old)}) == 3
    assert (computed_with(Compute())["precision"], new["precision"]) == ("float32", "torch.bfloat16 mixed")


def test_our_own_version_is_in_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = computed_with(Compute())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == "autocompress" else "1")
    assert digest(computed_with(Compute())) != digest(before)
    assert set(versions()) >= {"autocompress", "torch", "torchvision", "timm", "numpy"}


@pytest.mark.parametrize("changed", ["runtime", "option", "processor", "features", "threads"])
def test_everything_that_a_runtime_depends_on_is_in_its_keys(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device, config, scorer = OnnxRuntimeCpu(), DeviceConfig(), Scorer()
    before = digest(measured_with(device, config)), digest(scored_with(scorer))
    if changed == "runtime":
        monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    elif changed == "option":
        monkeypatch.setattr(keys, "session_config", lambda: runtime.EXACT)
    elif changed == "threads":
        config, scorer = DeviceConfig(threads=2), Scorer(threads=2)
    else:
        monkeypatch.setattr(keys, "machine", lambda: {**MACHINE, changed: "another"})
    after = digest(measured_with(device, config)), digest(scored_with(scorer))
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_figures_of_a_cost_model_do_not_depend_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    device, config = manager().device("cost-model:bitops"), DeviceConfig(name="cost-model:bitops")
    before = measured_with(device, config)
    monkeypatch.setattr(keys, "machine", lambda: {**MACHINE, "processor": "another"})
    assert measured_with(device, config) == before


def test_a_baseline_is_scored_again_with_another_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, store, scored = example_model(), Store(tmp_path / "store"), []
    predict = Scorer.predict
    info = DataInfo(10, 3, (32, 32), (0.5,) * 3, (0.5,) * 3, tuple("abcdefghij"))
    split = TensorSplit(torch.randn(8, 3, 32, 32), torch.arange(8), info)
    splits = Splits(split, split, split, info)

    def counting(self: Scorer, *arguments: Any) -> Any:
        scored.append(1)
        return predict(self, *arguments)

    def measured(threads: int = 1) -> int:
        measure_baseline(model, splits, Scorer(threads), store, tmp_path)
        return len(scored)

    monkeypatch.setattr(Scorer, "predict", counting)

    assert (measured(), measured()) == (1, 1)
    assert measured(threads=2) == 2
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    assert measured() == 3


def test_scoring_does_not_use_the_threads_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "usable_processors", lambda: 12)
    asked = {"model": "resnet10t", "data": "digits", "device": {"threads": 3}}
    assert [Scorer.of(Job(workers=workers, **asked)).threads for workers in (1, 2, 5, 40)] == [12, 6, 2, 1]


def test_shape_and_type_of_a_weight_are_in_its_key() -> None:
    def named(weight: torch.Tensor) -> nn.Module:
        model = example_model()
        model.register_buffer("extra", weight)
        return model

    one = torch.arange(6, dtype=torch.float32)
    others = one.reshape(2, 3), one.reshape(3, 2), one.view(torch.int32)
    assert len({weights_key(named(weight)) for weight in (one, *others)}) == 4
    weights_key(named(one.bfloat16()))
