"""Artifacts: writes the files of a candidate, and makes a torch module from them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from autocompress import models
from autocompress.compression.candidate import Candidate
from autocompress.compression.layertypes import layer_specs
from autocompress.compression.rebuilding import rebuild
from autocompress.contract import Deployable, Manager, manager
from autocompress.data.preprocessing import steps_of
from autocompress.errors import UserError
from autocompress.export import TapCrop, cropped
from autocompress.files import atomic_folder
from autocompress.quantization import hardening
from autocompress.results import MODEL_FILE as MODEL_FILE
from autocompress.runtime import EXACT, EXACT_WHEN
from autocompress.store import save_tensors

WEIGHTS_FILE = "model.safetensors"
RECIPE_FILE, PLAN_FILE, METRICS_FILE = "recipe.json", "plan.json", "metrics.json"


def metadata(model: nn.Module) -> dict[str, str]:
    """The metadata of the ONNX file: JSON texts by name.

    input_size, mean, std, crop_pct, crop_mode and interpolation are those of timm's evaluation
    transform. ``exif`` is true if pictures are turned upright before that by their EXIF
    orientation. ``preprocessing`` has all steps as a list. The others are ``class_names``;
    ``session_config``, the session options with which the file's integers are exact on every
    processor; and ``session_config_when``, the processors that need these options.
    ``task`` has the name and the options of the task, unless it is classification.
    """
    facts = models.architecture(model)
    names = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "exif")
    told = {name: facts[name] for name in names}
    told |= {"preprocessing": steps_of(models.data_info(model)), "class_names": facts["class_names"]}
    if "task" in facts:
        told["task"] = {
            "name": facts["task"]["name"].rpartition("/")[2],
            "options": json.loads(facts["task"]["options"]),
        }
    told |= {"session_config": EXACT, "session_config_when": EXACT_WHEN}
    return {name: json.dumps(value) for name, value in told.items()}


def save(candidate: Candidate, deployable: Deployable, folder: Path, metrics: dict[str, Any]) -> None:
    """Writes the artifact's five files to ``folder``: all, or none after an error."""
    with atomic_folder(folder) as temporary:
        (temporary / MODEL_FILE).write_bytes(deployable.file.read_bytes())
        save_tensors(candidate.model.state_dict(), temporary / WEIGHTS_FILE)
        for name, value in (
            (RECIPE_FILE, dict(candidate.recipe.values)),
            (PLAN_FILE, candidate.plan),
            (METRICS_FILE, metrics),
        ):
            (temporary / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def load_deployed(folder: str | Path, plugins: Manager | None = None) -> nn.Module:
    """As :func:`load`, but without the kernel taps that the file leaves out.

    The module then only takes images of the size of the file.
    """
    folder = Path(folder)
    model = load(folder, plugins)
    plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    return cropped(model, TapCrop.of(plan.get("tap_crop", {})))


def load(folder: str | Path, plugins: Manager | None = None) -> nn.Module:
    """The torch module of an artifact, in eval mode on the CPU.

    It takes float images ``(N, C, H, W)`` and gives logits.

    Args:
        folder: ``results/<name>/artifacts/<trial>``.
        plugins: where the plan's methods are looked up; the installed plugins by default.

    Raises:
        UserError: if files are missing or damaged, or a method of the plan is not installed.
    """
    folder = Path(folder)
    try:
        plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
        state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        is_file = isinstance(error, NotADirectoryError)
        why = "it is not a folder" if is_file else f"{Path(error.filename or PLAN_FILE).name} is missing"
        raise UserError(
            f"{folder} is not an artifact: {why}", "an artifact is a folder results/<name>/artifacts/<trial>"
        ) from None
    except OSError as error:
        raise UserError(f"the artifact {folder} cannot be read: {error.strerror or error}") from None
    except (ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"the artifact {folder} is damaged: {error}") from None
    methods = {method.name: method for method in (plugins or manager()).methods()}
    needed = {
        step["method"] for step in plan["transforms"] if "stage" not in step
    }  # stages of the engine need no method
    if missing := sorted(needed - set(methods)):
        raise UserError(
            f"the artifact {folder} needs the method '{missing[0]}', which is not installed",
            "install its plugin, or add its file: autocompress.contract.manager().add_file(path)",
        )
    model = rebuild(models.from_architecture(plan["architecture"]), plan["transforms"], methods)
    if plan["quantization"] is not None:
        model = hardening.rebuild(model, plan["quantization"], layer_specs(list(methods.values())))
    model.load_state_dict(state)
    return model.eval()
