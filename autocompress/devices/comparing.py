"""Compares ONNX files of image classifiers on a device, without a job or a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.contract import Deployable, Device, Manager, Measurement, manager
from autocompress.devices.measuring import measure
from autocompress.devices.sessions import load
from autocompress.devices.trying import told
from autocompress.errors import TrialFailed, UserError
from autocompress.job import DeviceConfig

SECONDS = 3.0
"""Seconds of measuring, for each pair of files."""
_FLOAT, _AXES = "tensor(float)", 4
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Compared:
    """A file compared with the reference.

    Attributes:
        file: the file.
        measurement: its latency, and the ratio to that of the reference.
    """

    file: Path
    measurement: Measurement


def compare_files(
    reference: str | Path,
    *others: str | Path,
    device: str = "onnxruntime-cpu",
    threads: int = 1,
    batch: int = 1,
    input_size: int | None = None,
    seconds: float = SECONDS,
) -> list[Compared]:
    """Latency of ONNX files, each measured in alternation with ``reference``.

    The files may come from any exporter. Each takes one float32 input ``(N, C, H, W)``.

    Args:
        reference: the file with which the others are compared.
        *others: at least one other file.
        device: name of a device that runs ONNX files.
        threads: number of threads on the device.
        batch: images a run.
        input_size: height and width in pixels, for files that leave it open.
        seconds: seconds for measuring each of ``others``.

    Returns:
        One entry for each of ``others``, in their order.

    Raises:
        UserError: if a file cannot be loaded or takes another input, or the device cannot run it.
    """
    if not others:
        raise UserError("one file alone cannot be compared", "give two files or more")
    config = DeviceConfig(name=device, threads=threads, batch=batch, input_size=input_size)
    runs_on = running_device(config)
    base = deployable(Path(reference), config)
    candidates = [deployable(Path(file), config) for file in others]  # all are checked before any is measured
    return [Compared(one.file, measured(runs_on, one, base, config, seconds)) for one in candidates]


def measured(
    device: Device, candidate: Deployable, reference: Deployable, config: DeviceConfig, seconds: float
) -> Measurement:
    """As :func:`measure`, with failures of the device as errors for the user.

    Raises:
        UserError: if it cannot run one of the files.
    """
    with told(device):
        return measure(device, candidate, reference, config, seconds=seconds)


def running_device(config: DeviceConfig, plugins: Manager | None = None) -> Device:
    """The device that ``config`` names.

    Raises:
        UserError: if there is no such device, or it cannot run ONNX files here.
    """
    device = (plugins or manager()).device(config.name)
    if device.deterministic or "onnx" not in device.formats:
        raise UserError(f"the device '{device.name}' runs no ONNX files", "take onnxruntime-cpu")
    if reasons := device.check(config):
        raise UserError(f"the device '{device.name}' cannot be used here: {reasons[0]}")
    return device


def deployable(file: Path, config: DeviceConfig) -> Deployable:
    """The file as a ``Deployable`` for a device.

    Raises:
        UserError: if it cannot be loaded, or does not take images as ``config`` gives them.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}", "give the path of an ONNX file")
    if _is_pointer(file):
        raise UserError(f"{file} is a pointer of Git LFS, and the file itself is not here", "run 'git lfs pull'")
    try:
        loaded = load(file, 1)
    except TrialFailed as failed:
        raise UserError(str(failed), "it must be an ONNX file with the operators of ONNX itself") from None
    inputs = loaded.get_inputs()
    if len(inputs) != 1 or inputs[0].type != _FLOAT or len(inputs[0].shape) != _AXES:
        found = ", ".join(f"{one.name} {one.type} {list(one.shape)}" for one in inputs)
        raise UserError(f"{file} takes no images: its input is {found or 'empty'}", "one float input (N, C, H, W)")
    batch, *size = inputs[0].shape
    if isinstance(batch, int) and batch != config.batch:
        raise UserError(f"{file} runs {batch} image{'s' * (batch != 1)} at a time", f"give --batch {batch}")
    return Deployable(file, _image_size(file, size, _own_size(loaded), config.input_size))


def _is_pointer(file: Path) -> bool:
    """Whether Git LFS left a few lines of text in place of the file."""
    with file.open("rb") as opened:
        return opened.read(len(_LFS)) == _LFS


def _image_size(
    file: Path, declared: Sequence[Any], own: Sequence[int] | None, wanted: int | None
) -> tuple[int, int, int]:
    """(channels, height, width) from the file, else from the arguments, else from the metadata."""
    fallback = [own[0] if own else None, *([wanted] * 2 if wanted else own[1:] if own else [None] * 2)]
    sizes = [axis if isinstance(axis, int) else other for axis, other in zip(declared, fallback, strict=True)]
    if sizes[0] is None:
        raise UserError(f"{file} does not say how many channels it takes", "export it with a fixed number")
    if None in sizes:
        raise UserError(f"{file} takes images of any size", "give --input-size PIXELS")
    if wanted is not None and sizes[1:] != [wanted, wanted]:
        raise UserError(f"{file} takes images of {sizes[1]} x {sizes[2]} pixels only", "leave --input-size out")
    return sizes[0], sizes[1], sizes[2]


def _own_size(loaded: Any) -> list[int] | None:
    """The input size in the metadata of a file of this package; None for other files."""
    told = loaded.get_modelmeta().custom_metadata_map.get("input_size")
    try:
        found = json.loads(told) if told else None
    except ValueError:
        return None
    is_size = isinstance(found, list) and len(found) == _AXES - 1 and all(isinstance(one, int) for one in found)
    return found if is_size else None
