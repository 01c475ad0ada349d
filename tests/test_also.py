"""``also``: the front on further devices, and devices that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autocompress.contract import Deployable, Device, Manager, Measurement, hookimpl
from autocompress.errors import TrialFailed, UserError
from autocompress.job import DeviceConfig, check_names, load_job, validate
from autocompress.report.page import render
from autocompress.results.run import read
from autocompress.searching import run
from autocompress.searching.elsewhere import measured_also

FILES = {1: Path("one.onnx"), 2: Path("two.onnx")}


class Other(Device):
    """A model of costs, which are equal for all files; it refuses the second file."""

    name, deterministic = "other", True
    reasons: Sequence[str] = ()

    def check(self, config: DeviceConfig) -> list[str]:
        return list(self.reasons)

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        if candidate.file == FILES[2]:
            raise TrialFailed("'other' cannot load two.onnx")
        return Measurement(3.0, 1.0, 0.9, 1.1, 3.0)


class Gone(Other):
    name = "gone"
    reasons = ("its host does not answer",)


class Plugin:
    @hookimpl
    def autocompress_devices(self) -> Sequence[Device]:
        return [Other(), Gone()]


def plugins() -> Manager:
    found = Manager()
    found.register(Plugin(), "others")
    return found


def job(also: list[Any], **settings: Any) -> Any:
    return load_job(settings={"model": "test_resnet", "data": "digits", "also": also, **settings})


def test_a_device_that_fails_is_reported_in_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.searching.elsewhere.SECONDS", 0.05)
    rows = [{"trial": 1}, {"trial": 2}]
    deployables = {trial: Deployable(file, (3, 8, 8)) for trial, file in FILES.items()}
    asked = job(["other", {"name": "gone", "threads": 2}])
    told = measured_also(asked, rows, lambda row: deployables[row["trial"]], deployables[1], plugins())
    assert [each["device"] for each in told] == ["other", "gone"]
    first, second = told[0]["models"]
    assert (first["latency_ratio"], first["ratio_low"], first["ratio_high"]) == (1.0, 0.9, 1.1)
    assert second == {"trial": 2, "reason": "'other' cannot load two.onnx"}
    assert told[1] == {"device": "gone", "environment": {}, "models": [], "reason": "its host does not answer"}


def test_names_and_devices_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"also.*names no device: 'othr'.*other"):
        validate(job(["othr"]), plugins())
    with pytest.raises(UserError, match=r"also.*cannot have 'gone' here: its host does not answer"):
        validate(job(["gone"]), plugins())
    with pytest.raises(UserError, match=r"also\.options\.speed.*is not an option of the device"):
        validate(job([{"name": "other", "options": {"speed": 1}}]), plugins())
    validate(job(["other", "onnxruntime-cpu"]), plugins())
    check_names(job(["onnxruntime-cpu", "openvino-cpu", "ssh:board"]))


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_a_run_has_its_front_on_the_other_device_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.searching.elsewhere.SECONDS", 0.1)
    asked = job(
        ["onnxruntime-cpu"],
        device="cost-model:bitops",
        methods=["quantize"],
        baseline={"epochs": 1},
        budget={"trials": 2, "epochs": 0},
        workers=1,
        results=str(tmp_path),
        name="two",
    )
    found = run.search(asked)
    (told,) = read(found.folder).summary["also"]
    assert told["device"] == "onnxruntime-cpu"
    assert [model["trial"] for model in told["models"]] == list(found.models["trial"])
    assert all(model["latency_ms"] > 0 for model in told["models"])
    assert "On other devices" in (found.folder / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_figures_and_reasons(tmp_path: Path) -> None:
    figures = {"latency_ms": 1.0, "latency_ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6, "baseline_ms": 2.0}
    models = [{"trial": 1, "noisy": True, **figures}, {"trial": 2, "reason": "cannot load it"}]
    told = [
        {"device": "other", "environment": {}, "models": models, "reason": ""},
        {"device": "gone", "environment": {}, "models": [], "reason": "its host does not answer"},
    ]
    layer = {"group": "stem", "operator": "conv", "float_us": 2.0, "integer_us": 1.0}
    placement = [{"layer": "a", "computes": "integers", **layer}, {"layer": "b", "computes": "float", **layer}]
    (tmp_path / "job.yaml").write_text("{model: test_resnet, data: digits}\n")
    summary = {"also": told, "placement": placement}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = render(read(tmp_path))
    for text in ("0.40–0.60 (noisy)", "cannot load it", "its host does not answer", "1 of 2 layers in float"):
        assert text in page
