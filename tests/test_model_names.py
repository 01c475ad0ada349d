"""Wrong names in a job are reported before slow imports.

Names of models are read from timm's source.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
from patience import patient
from timm.models import _registry

from autocompress.contract import Manager
from autocompress.errors import UserError
from autocompress.job import check_model_name, check_names, load_job
from autocompress.job.modelnames import model_names


def test_the_names_in_the_source_are_those_that_timm_registers() -> None:
    names = model_names()
    assert names is not None
    # Plugins that were imported before may have registered networks in timm.
    own = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")}
    assert set(names.architectures) == own
    assert names.deprecated == set(_registry._deprecated_models)
    tagged = {name for name in timm.list_pretrained() if "." in name}
    known = {name.partition(".")[0] for name in names.weights}
    assert {name for name in tagged if name.partition(".")[0] in known} <= set(names.weights)
    assert len(tagged & set(names.weights)) > 0.9 * len(tagged)


def told(model: str) -> str:
    """The error of a new process for ``model``, before timm is imported; empty if there is none."""
    code = (
        "import sys\n"
        "from autocompress.errors import UserError\n"
        "from autocompress.job import check_model_name, load_job\n"
        "try:\n"
        f"    check_model_name(load_job(model={model!r}, data='digits'))\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "assert not {'timm', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=patient(120), check=True
    )
    return done.stdout.strip()


def test_a_wrong_name_or_tag_is_reported_without_importing_timm() -> None:
    assert told("resnt18") == "'model' names no timm model: 'resnt18' (did you mean 'resnet18' or 'resnet18d'?)"
    assert told("resnet18.a1_in1").startswith(
        "'model' names unknown weights: 'resnet18.a1_in1' (did you mean 'resnet18.a1"
    )
    assert "write hf-hub:timm/resnet18" in told("timm/resnet18")


@pytest.mark.parametrize(
    "model", ["resnet18", "resnet18.a1_in1k", "tf_efficientnet_b0_ns", "hf-hub:timm/x", "local-dir:here"]
)
def test_names_that_only_timm_can_check_are_left_to_timm(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "timm")
    check_model_name(load_job(model=model, data="digits"))


def test_a_model_registered_by_the_user_is_accepted() -> None:
    # timm is imported in this process, so its registry is used from now on.
    check_model_name(load_job(model="my_own_network", data="digits"))


def test_commands_report_a_wrong_model_before_torch_is_imported() -> None:
    for command in (["search", "--data", "digits"], ["plugins"], ["synthesize", "--pretrained", "--out", "x"]):
        arguments = ["-X", "importtime", "-m", "autocompress.cli", *command, "--model", "resnt18"]
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=patient(120), check=False
        )
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith("error: --model names no timm model: 'resnt18' (did you mean 'resnet18'")
        assert "| torch\n" not in done.stderr


def test_the_function_reports_a_wrong_model_before_ray_is_imported() -> None:
    code = (
        "import sys, autocompress\n"
        "try:\n"
        "    autocompress.search(model='resnt18', data='digits')\n"
        "except autocompress.UserError as error:\n"
        "    print(error)\n"
        "assert not {'ray', 'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=patient(120), check=True
    )
    assert "did you mean 'resnet18'" in done.stdout


def test_in_a_process_that_has_timm_the_search_refuses_a_wrong_name() -> None:
    from autocompress.contract import Manager
    from autocompress.job import validate

    with pytest.raises(UserError, match="names no timm model: 'resnt18'"):
        validate(load_job(model="resnt18", data="digits"), Manager(entry_points=False))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--methods", "gost"], "--methods names no installed method: 'gost' (did you mean 'ghost'?)"),
        (["--methods", "builtin"], "--methods names no installed method: 'builtin'"),
        (["--device", "onnxruntime"], "--device names no device: 'onnxruntime' (did you mean 'onnxruntime-cpu'?)"),
        (["--device", "cost-model:none.yaml"], "none.yaml"),
        (["--cost-model", "45n"], "--cost-model names no cost model: '45n' (did you mean '45nm'?)"),
        (["--space", "nowhere.yaml"], "--space cannot be found: there is no space 'nowhere.yaml'"),
        (["--checkpoint", "none.pt"], "--checkpoint names no file: none.pt"),
    ],
)
def test_other_wrong_names_are_reported_without_importing_torch(flags: list[str], sentence: str) -> None:
    code = (
        "import sys\n"
        "from autocompress.cli import main\n"
        f"sys.argv = ['autocompress', 'search', '--model', 'resnet18', '--data', 'digits', *{flags!r}]\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert not {'timm', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patient(120))
    assert done.returncode == 2
    assert sentence in done.stderr


def test_the_names_known_without_imports_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = Manager()  # the manager of the process may have plugins of other tests
    methods, devices = [method.name for method in installed.methods()], installed.devices()
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delitem(sys.modules, "timm")
    for device in devices:
        if "latency" in device.measures:
            check_names(load_job(model="resnet18", data="digits", methods=methods, device=device.name))
