"""Files are loaded in another process before OpenVINO loads them in the one that measures."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
import threading
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
from autocompress.devices import OpenVinoCpu
from autocompress.devices.openvino_apart import PROGRAM, Apart
from autocompress.errors import NoAnswer, TrialFailed
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
    if wish == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if wish == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if wish == "hang":
        time.sleep(3600)
    print(json.dumps("it is strange" if wish == "strange" else ""), flush=True)
"""
"""A program that does what the file says."""
STAND_IN = """
import time
print("hello")
__version__ = "7.0"

class Core:
    def read_model(self, file):
        with open(file) as opened:
            wish = opened.read()
        if wish == "memory":
            raise MemoryError
        if wish == "hang":
            time.sleep(3600)
        return self

    def compile_model(self, *_):
        return self

    def create_infer_request(self):
        return self

    def reshape(self, shape): ...
    def infer(self, batch): ...
"""
"""A module ``openvino`` that prints a line when it is imported."""


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
    with pytest.raises(NoAnswer, match=r"it did not answer within 0\.01 seconds"):
        load(apart, "hang")
    apart._most_seconds = patient(60)
    load(apart, "fine")


def test_a_process_that_does_not_start_is_named(start: Callable[..., Apart]) -> None:
    with pytest.raises(NoAnswer, match=r"cannot be started in a process of its own: .* exit code 3"):
        load(start("raise SystemExit(3)"), "fine")


def test_an_answer_that_nobody_read_is_not_that_of_the_next_file(
    start: Callable[..., Apart], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    apart = start()
    load(apart, "fine")
    with monkeypatch.context() as patched:
        patched.setattr(selectors.DefaultSelector, "select", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(apart, "strange")
    load(apart, "fine")


def test_a_machine_without_room_or_processes_is_named(
    start: Callable[..., Apart], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    apart = start()
    for place, name in ((Path, "write_bytes"), (subprocess, "Popen")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, refuse)
            with pytest.raises(NoAnswer, match=r"OpenVINO cannot be asked in a process of its own: .* No space left"):
                load(apart, "fine")
    load(apart, "fine")


def test_printed_lines_and_a_lack_of_memory_are_no_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    apart = Apart(most_seconds=patient(60))
    try:
        load(apart, "fine")
        assert apart._version == "7.0"
        with pytest.raises(NoAnswer, match="exit code 1"):
            load(apart, "memory")
    finally:
        apart.end()


@pytest.mark.parametrize("module", ["import time; time.sleep(3600)", STAND_IN], ids=["import", "file"])
def test_a_process_that_hangs_ends_without_the_one_that_asked(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text(module)
    (tmp_path / "model").write_text("hang")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[1]}")
    asked = json.dumps({"file": str(tmp_path / "model"), "shape": [1], "settings": {}})
    with subprocess.Popen([*PROGRAM, "2"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(asked + "\n")
            process.stdin.flush()
            assert process.wait(patient(60)) == -signal.SIGALRM
        finally:
            process.kill()


@pytest.fixture
def deployable(tmp_path: Path) -> Deployable:
    file = tmp_path / "plain.onnx"
    export(nn.Conv2d(3, 4, 3).eval(), file, (3, 8, 8))
    return Deployable(file, (3, 8, 8))


@pytest.mark.parametrize(("wish", "is_asked_again"), [("crash", False), ("strange", False), ("killed", True)])
def test_a_file_is_loaded_again_only_if_that_may_help(
    wish: str,
    is_asked_again: bool,
    deployable: Deployable,
    start: Callable[..., Apart],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first time, the process does ``wish``; OpenVINO itself is not needed."""
    device, apart, wishes = OpenVinoCpu(), start(), iter([wish, "fine", "fine"])
    monkeypatch.setattr(device._apart, "load", lambda *_: load(apart, next(wishes)))
    some = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(TrialFailed):
        device.prepare(deployable, some, CONFIG)
    if is_asked_again:
        device.prepare(deployable, some, CONFIG)
    else:
        with pytest.raises(TrialFailed):
            device.prepare(deployable, some, CONFIG)
    assert len(list(wishes)) == (1 if is_asked_again else 2)


def test_a_file_without_an_answer_is_loaded_once_more_only(
    deployable: Deployable, start: Callable[..., Apart], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, apart, wishes = OpenVinoCpu(), start(), iter(["killed", "killed", "fine"])
    monkeypatch.setattr(device._apart, "load", lambda *_: load(apart, next(wishes)))
    for _ in range(3):
        with pytest.raises(TrialFailed, match="SIGKILL"):
            device.prepare(deployable, np.zeros((1, 3, 8, 8), np.float32), CONFIG)
    assert list(wishes) == ["fine"]


def test_each_thread_gets_the_answers_to_its_own_files(start: Callable[..., Apart]) -> None:
    apart, wrong = start(), list[str]()

    def ask(wish: str) -> None:
        for _ in range(50):
            try:
                load(apart, wish)
                found = "fine"
            except TrialFailed as failed:
                found = "strange" if "it is strange" in str(failed) else str(failed)
            if found != wish:
                wrong.append(f"{wish}: {found}")

    threads = [threading.Thread(target=ask, args=(wish,)) for wish in ("fine", "strange")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


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
    # Kernels of processors without VNNI saturate some sums, so a grid's step would be too strict.
    between_images = np.linalg.norm(np.roll(ours, 1, axis=0) - ours)
    assert np.linalg.norm(theirs - ours) <= 0.3 * between_images
