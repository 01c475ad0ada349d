"""Files are loaded in another process before OpenVINO loads them in the one that measures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from patience import patient
from timm.models.ghostnet import GhostModule
from torch import nn

from autocompress.contract import Deployable
from autocompress.devices import OpenVinoCpu, measure
from autocompress.devices.openvino_apart import Apart
from autocompress.errors import TrialFailed
from autocompress.export import INPUT, export, open_session
from autocompress.job import DeviceConfig
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer

CONFIG = DeviceConfig(name="openvino-cpu")
PRETENDED = """
import json, os, signal, sys, time
print("7.0", flush=True)
for line in sys.stdin:
    with open(json.loads(line)["file"]) as opened:
        wish = opened.read()
    if wish == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if wish == "hang":
        time.sleep(3600)
    print(json.dumps("it is strange" if wish == "strange" else ""), flush=True)
"""
"""A program that does what the file says."""


@pytest.fixture
def start() -> Iterator[Callable[..., Apart]]:
    started: list[Apart] = []

    def make(program: str = PRETENDED, most_seconds: float | None = None) -> Apart:
        started.append(Apart((sys.executable, "-c", program), most_seconds or patient(60)))
        return started[-1]

    yield make
    for apart in started:
        apart.end()


def load(apart: Apart, wish: str) -> None:
    apart.load(wish.encode(), (1, 3, 8, 8), {})


def test_a_crash_is_named_and_other_files_are_loaded_after_it(start: Callable[..., Apart]) -> None:
    apart = start()
    load(apart, "fine")
    with pytest.raises(TrialFailed, match=r"OpenVINO 7\.0 cannot load a file: its process crashed \(SIGSEGV\)"):
        load(apart, "crash")
    load(apart, "fine")
    with pytest.raises(TrialFailed, match=r"cannot load a file: it is strange"):
        load(apart, "strange")


def test_a_file_without_an_answer_is_named(start: Callable[..., Apart], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.devices.openvino_apart.ENDING_SECONDS", 0.01)
    apart = start()
    load(apart, "fine")
    apart._most_seconds = 0.01
    with pytest.raises(TrialFailed, match=r"it did not answer within 0\.01 seconds"):
        load(apart, "hang")
    apart._most_seconds = patient(60)
    load(apart, "fine")


def test_a_process_that_does_not_start_is_named(start: Callable[..., Apart]) -> None:
    with pytest.raises(TrialFailed, match=r"cannot be started in a process of its own: .* exit code 3"):
        load(start("raise SystemExit(3)"), "fine")


def test_a_crash_ends_neither_the_process_that_measures_nor_what_it_asks_next(
    start: Callable[..., Apart], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is loaded apart once, however often it is measured."""
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    file = tmp_path / "plain.onnx"
    export(nn.Conv2d(3, 4, 3).eval(), file, (3, 8, 8))
    deployable, device = Deployable(file, (3, 8, 8)), OpenVinoCpu()
    asked: list[bytes] = []

    def crash(model: bytes, *others: object) -> None:
        asked.append(model)
        load(start(), "crash")

    monkeypatch.setattr(device._apart, "load", crash)
    for _ in range(2):
        with pytest.raises(TrialFailed, match="crashed"):
            measure(device, deployable, deployable, CONFIG, seconds=0.05)
    assert len(asked) == 1


def transformer() -> nn.Module:
    """OpenVINO refuses it where the batch axis is free."""
    return timm.create_model("test_vit", num_classes=10, img_size=32)


def ghosts() -> nn.Module:
    """Concatenations whose tensors have no zero point of zero."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), GhostModule(8, 8, act_layer=nn.Identity), GhostModule(8, 8, act_layer=nn.Identity)
    )


@pytest.mark.parametrize("make", [transformer, ghosts])
def test_it_loads_and_computes_files_that_once_failed(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    torch.manual_seed(0)
    model, size, file = make().eval(), (3, 32, 32), tmp_path / "model.onnx"
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    config = {name: LayerBits("quantize") for name in layers}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=size)
    images = torch.randn(4, *size)
    calibrate(network, [images])
    export(harden(network), file, size)
    device, some = OpenVinoCpu(), images.numpy()
    device.prepare(Deployable(file, size), some, CONFIG)
    run = device.open(Deployable(file, size), some, CONFIG)
    run()
    theirs = run.request.get_output_tensor().data  # type: ignore[attr-defined]
    ours = open_session(file).run(None, {INPUT: some})[0]
    assert np.abs(theirs - ours).max() <= 0.05 * np.abs(ours).max(), "within a few steps of the last grid"
