"""Accuracy of 8-bit models without training, compared with quantize_static and NNCF.

All use the same model, data and calibration images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from autocompress.contract import Deployable, Quantizer, Value
from autocompress.objectives.intervals import paired_difference
from autocompress.opened.job import OpenedJob
from shared import rivals
from shared.trained import job_of, recipe_of

TARGET = -0.2
"""Target: minimum points relative to the better rival."""
SPLITS = ("val", "test")


def run(
    models: Sequence[str], data: str, epochs: int, *, with_nncf: bool = True, values: dict[str, Value] | None = None
) -> dict[str, Any]:
    """One row a model.

    Args:
        models: backbones, which are trained first.
        data: name of a data set.
        epochs: epochs of that training.
        with_nncf: whether NNCF is compared; the table says if it is not.
        values: values of our recipe that differ from the defaults.
    """
    nncf: rivals.Nncf | None = None
    reason = "not asked for"
    if with_nncf:
        try:
            nncf = rivals.Nncf.installed()
        except rivals.Unavailable as error:
            reason = str(error)
    rows = [_row(name, data, epochs, nncf, values) for name in models]
    head = {"target": TARGET, "data": data, "epochs": epochs, "onnxruntime": ort.__version__}
    head |= {} if nncf else {"nncf_skipped": reason}
    return {**head, "rows": rows, "met": all(row["met"] for row in rows)}


def _row(
    name: str, data: str, epochs: int, nncf: rivals.Nncf | None, values: dict[str, Value] | None
) -> dict[str, Any]:
    opened = OpenedJob.open(job_of(name, data, epochs))
    recipe = recipe_of(opened, "quantize:8", 8, values)
    images = calibration_images(opened, recipe.quantizers["quantize"])
    row: dict[str, Any] = {"model": name, "recipe": dict(recipe.values), "calibration_images": len(images)}
    source = opened.baseline.deployable.file
    with tempfile.TemporaryDirectory() as folder:
        files = {"ours": opened.export(opened.candidate(recipe), Path(folder) / "ours.onnx").file}
        files["quantize_static"] = Path(folder) / "static.onnx"
        rivals.by_quantize_static(source, images, files["quantize_static"])
        for preset in rivals.PRESETS if nncf is not None else ():
            assert nncf is not None
            out = Path(folder) / f"nncf-{preset}.onnx"
            try:
                row["nncf_version"] = nncf.quantize(source, images, out, preset)
                files[f"nncf-{preset}"] = out
            except rivals.Unavailable as error:
                row[f"nncf-{preset}_failed"] = str(error)
        correct = {split: {kind: _score(opened, file, split) for kind, file in files.items()} for split in SPLITS}
    for split in SPLITS:
        row[split] = _compared(correct[split], opened.baseline.correct if split == "val" else _float_test(opened))
    row["met"] = all(row[split]["difference"]["points"] >= TARGET for split in SPLITS)
    print(name, {split: row[split] for split in SPLITS}, flush=True)
    return row


def calibration_images(opened: OpenedJob, params: dict[str, Any]) -> np.ndarray:
    """The calibration images of QUANTIZE, prepared for the model, float32 ``(N, C, H, W)``."""
    method = next(method for method in opened.methods if method.name == "quantize")
    assert isinstance(method, Quantizer)
    transfer = opened.pipeline.transfer
    assert transfer is not None
    split = transfer.calibration
    chosen = split.subset(min(method.calibration_images(params), len(split)), opened.pipeline.seed)
    return torch.cat([images for images, _ in chosen.loader(64)]).numpy()


def _score(opened: OpenedJob, file: Path, split: Any) -> np.ndarray:
    return opened.accuracy(Deployable(file, opened.baseline.deployable.input_size), split)[1]


def _float_test(opened: OpenedJob) -> np.ndarray:
    return opened.accuracy(opened.baseline.deployable, "test")[1]


def _compared(correct: dict[str, np.ndarray], baseline: np.ndarray) -> dict[str, Any]:
    accuracies = {kind: 100.0 * float(flags.mean()) for kind, flags in correct.items()}
    better = max((kind for kind in correct if kind != "ours"), key=lambda kind: accuracies[kind])
    found = paired_difference(correct["ours"], correct[better])
    return {
        "images": len(baseline),
        "float": 100.0 * float(baseline.mean()),
        **accuracies,
        "better_rival": better,
        "difference": {"points": found.estimate, "low": found.low, "high": found.high},
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    shown = [f"NNCF left out: {part['nncf_skipped']}"] if "nncf_skipped" in part else []
    for row in part["rows"]:
        for split in SPLITS:
            found = row[split]
            shown.append(
                f"{row['model']:<18} {split:<5} float {found['float']:.2f}  ours {found['ours']:.2f}  "
                f"{found['better_rival']} {found[found['better_rival']]:.2f}  difference "
                "{points:+.2f} ({low:+.2f}..{high:+.2f})".format(**found["difference"])
                + f"  target {TARGET:+.1f}  {'yes' if found['difference']['points'] >= TARGET else 'no'}"
            )
    return shown
