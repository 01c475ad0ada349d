"""Quantizers of other tools, each in its own environment, without training.

All get the same float file and the same images.
"""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from autocompress.export import INPUT
from autocompress.files import cache_folder

PACKAGES = ("nncf", "onnx", "onnxruntime")
PRESETS = ("performance", "mixed")
PROGRAM = Path(__file__).parent / "in_nncf.py"


class Unavailable(Exception):
    """A rival cannot be run here. The message is the reason."""


class Images(CalibrationDataReader):
    """Calibration images ``(N, C, H, W)``, one at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = iter([{INPUT: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next image; None at the end."""
        return next(self._images, None)


def by_quantize_static(
    source: Path, images: np.ndarray, out: Path, ranges: CalibrationMethod = CalibrationMethod.MinMax
) -> None:
    """Quantizes with ONNX Runtime.

    Uint8 activations, int8 weights per channel, QDQ, and its default ranges unless given.
    """
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        Images(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=ranges,
    )


@dataclass(frozen=True)
class Nncf:
    """NNCF in a virtual environment of its own.

    Attributes:
        python: the interpreter of the environment.
    """

    python: Path

    @classmethod
    def installed(cls, folder: Path | None = None) -> Nncf:
        """Makes the environment (by default in the cache folder), unless it is there.

        Raises:
            Unavailable: where it cannot be installed.
        """
        folder = folder or cache_folder() / "nncf-environment"
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        if _run([python, "-c", "import nncf"], 300).returncode:
            done = _run([python, "-m", "pip", "install", "--quiet", *PACKAGES], 1800)
            if done.returncode:
                raise Unavailable(f"pip cannot install {', '.join(PACKAGES)}: {_last_line(done.stderr)}")
        return cls(python)

    def quantize(self, source: Path, images: np.ndarray, out: Path, preset: str) -> str:
        """Writes the quantized file and gives NNCF's version.

        Raises:
            Unavailable: where NNCF fails on this model.
        """
        archive = out.with_suffix(".npz")
        np.savez(archive, images=images)
        done = _run([self.python, PROGRAM, source, archive, out, preset], 1800)
        if done.returncode:
            raise Unavailable(f"NNCF ({preset}) failed: {_last_line(done.stderr)}")
        return done.stdout.split()[-1]


def _run(command: Sequence[str | Path], seconds: float) -> subprocess.CompletedProcess[str]:
    # NNCF reports its use over the network, unless it runs in a test.
    environment = {**os.environ, "NNCF_CI": "1", "PYTHONPATH": ""}
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess([], 1, "", f"{type(error).__name__}: {error}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
