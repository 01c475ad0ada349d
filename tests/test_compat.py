"""The private names of libraries that autocompress.compat uses exist and work."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState

from autocompress.compat import datasets as compat_datasets
from autocompress.compat import onnxscript as compat_onnxscript
from autocompress.compat import optuna as compat_optuna
from autocompress.compat import torch as compat_torch
from autocompress.compat import torch_pruning as compat_pruning

ROOT = Path(__file__).parents[1]
LIBRARIES = ("onnxscript", "optuna", "ray", "timm", "torch", "torch-pruning", "torchvision")
NAMES = [
    ("onnxscript.rewriter", "_DEFAULT_REWRITE_RULES"),
    ("ray.experimental.internal_kv", "_internal_kv_get"),
    ("ray._private.services", "find_bootstrap_address"),
    ("ray._private.state", "available_resources_per_node"),
    ("ray._private.state", "state.get_draining_nodes"),
    ("ray._private.ray_constants", "ENABLE_RAY_CLUSTER"),
    ("ray._private.ray_constants", "ENABLE_RAY_CLUSTERS_ENV_VAR"),
    ("ray._raylet", "AuthenticationTokenLoader.instance"),
    ("ray._raylet", "Config.initialize"),
    ("ray._raylet", "GcsClient"),
    ("optuna.distributions", "BaseDistribution._contains"),
    ("optuna.samplers", "TPESampler._get_internal_repr"),
    ("timm.models._hub", "load_model_config_from_hf"),
    ("timm.models._hub", "load_model_config_from_path"),
    ("torch", "Tensor._version"),
    ("torch", "_disable_dynamo"),
    ("torch._dynamo.utils", "is_compile_supported"),
    ("torch._higher_order_ops.scan", "scan"),
    ("torch.fx.config", "do_not_emit_stack_traces"),
    ("torch.nn.modules.batchnorm", "_BatchNorm"),
    ("torch.onnx._internal._lazy_import", "onnxscript_apis.convert_version"),
    ("torch.onnx._internal.exporter._core", "_exported_program_to_onnx_program"),
    ("torch.onnx._internal.exporter._ir_passes", "rename_inputs"),
    ("torch.onnx._internal.exporter._ir_passes", "rename_outputs"),
    ("torch.onnx._internal.exporter._registration", "ONNXRegistry.from_torchlib"),
    ("torch_pruning.dependency.index_mapping", "_FlattenIndexMapping"),
    ("torch_pruning.dependency.index_mapping", "_SplitIndexMapping"),
    ("torch_pruning._helpers", "_HybridIndex"),
]


def pinned() -> dict[str, str]:
    """Versions by library, as constraints.txt has them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_has_the_version_that_is_pinned(library: str) -> None:
    """Local versions such as ``2.15.0+cpu`` count as the version before the plus sign."""
    installed = importlib.metadata.version(library).split("+")[0]
    assert installed == pinned()[library], (
        f"{library} {installed} is installed and constraints.txt pins {pinned()[library]}: "
        f"check the private names in autocompress/compat/, then pin the new version"
    )


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_private_name_exists(module: str, name: str) -> None:
    """compat imports some names on the first call only.

    Without this test, users would notice first.
    """
    found = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{module} has no {name} any more: see autocompress/compat/"
        found = getattr(found, part)


def test_enqueued_values_of_a_trial() -> None:
    """Before a value was asked for too, and for a frozen trial that waits."""
    study = optuna.create_study()
    study.enqueue_trial({"x": 3})
    waiting = study.get_trials(states=(TrialState.WAITING,))[0]
    assert compat_optuna.frozen_enqueued_values(waiting) == {"x": 3}
    assert compat_optuna.enqueued_values(study.ask()) == {"x": 3}
    assert compat_optuna.enqueued_values(study.ask()) == {}


def test_a_waiting_trial_can_fail_without_being_asked() -> None:
    """The next asked trial is a new one."""
    study = optuna.create_study()
    study.enqueue_trial({"x": 3})
    compat_optuna.fail_waiting(study, study.trials[0])
    assert study.trials[0].state == TrialState.FAIL
    assert study.ask().number == 1


def test_a_running_trial_can_be_written_to() -> None:
    """Its attributes are written to the study."""
    study = optuna.create_study()
    study.ask()
    compat_optuna.running_trial(study, study.trials[0]).set_user_attr("seen", 1)
    assert study.trials[0].user_attrs == {"seen": 1}


def test_gradients_are_computed_by_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    engine = getattr(*compat_torch.BACKWARD_ENGINE)
    monkeypatch.setattr(
        *compat_torch.BACKWARD_ENGINE, lambda *args, **more: (calls.append(1), engine(*args, **more))[1]
    )
    x = torch.ones(2, requires_grad=True)
    x.sum().backward()
    torch.autograd.grad(x.sum(), x)
    assert len(calls) == 2


def test_torch_says_whether_bfloat16_is_native() -> None:
    assert compat_torch.has_native_bfloat16() in (True, False)


def test_the_version_of_a_tensor_counts_in_place_changes() -> None:
    """A new result has version 0."""
    tensor = torch.zeros(2)
    before = compat_torch.version_of(tensor)
    tensor.add_(1)
    assert compat_torch.version_of(tensor) == before + 1
    assert compat_torch.version_of(tensor + 1) == 0


WITHOUT_COMPILER = """
import sys
import torch
from autocompress.compat import torch_compiler
import autocompress.searching.run

assert "ray" not in sys.modules, "a local search imports Ray when its workers start"
import autocompress.searching.trainable, torchvision

assert "torch._dynamo" not in sys.modules, "the compiler was loaded"
assert torch.compiler.disable is not torch_compiler._disable
boxes, images = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.ones(1, 1, 8, 8)
assert torchvision.ops.roi_align(images, [boxes], 2).eq(1).all()
import torch._dynamo

assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
"""


@pytest.mark.slow
def test_timm_is_imported_without_the_compiler_which_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_room_that_imports_timm_imports_it_without_the_compiler() -> None:
    """The order of imports does not matter."""
    package = ROOT / "autocompress"
    rooms = {
        file.parent
        for file in package.glob("*/*.py")
        if re.search(r"^(from|import) (timm|torchvision)\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    } - {package / "compat"}
    assert rooms
    for room in rooms:
        first = re.search(r"^(?:from|import) (?!__future__)(\S+)", (room / "__init__.py").read_text(), re.MULTILINE)
        assert first is not None, room
        assert first[1] == "autocompress.compat.torch_compiler", room


def test_rewrite_rules_tell_their_operator() -> None:
    """Most of them end in one operator of the default domain."""
    operators = [compat_onnxscript.operator_of(rule) for rule in compat_onnxscript.rewrite_rules()]
    assert ("", "Transpose") in operators
    assert sum(operator is not None for operator in operators) > len(operators) / 2


def test_a_channel_map_through_a_flatten() -> None:
    """A channel becomes as many columns as it has positions.

    The inverse map gives one channel for each.
    """
    flatten = importlib.import_module("torch_pruning.dependency.index_mapping")._FlattenIndexMapping
    channels = compat_pruning.channel_indices(2)
    grown = flatten(stride=4, reverse=False)
    shrunk = flatten(stride=4, reverse=True)
    counts = {compat_pruning.growth_of(mapping): len(mapping(channels)) for mapping in (grown, shrunk)}
    assert set(counts) == {1, 4}
    assert counts[4] == 8
    assert compat_pruning.growth_of(None) == 1


def test_only_data_sets_with_a_fingerprint_have_one() -> None:
    """``datasets`` may be missing, so an object with its attribute stands in for a data set."""
    assert compat_datasets.fingerprint_of(SimpleNamespace(_fingerprint="a1")) == "a1"
    assert compat_datasets.fingerprint_of(SimpleNamespace()) is None
    assert compat_datasets.fingerprint_of(None) is None
