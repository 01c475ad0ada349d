"""Errors in a job or a space: one sentence with file, line and key, and a hint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autocompress.contract.device import NoOptions
from autocompress.errors import UserError
from autocompress.job import Job, limits_of, load_job, reject_unmatched, resolved, validate

HEAD = "model: resnet18\ndata: glyphs\n"


def error_of(text: str, tmp_path: Path, **flags: Any) -> str:
    """The error message for the job file ``text``, without its folder."""
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        limits_of(load_job(path, flags, flags=True))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("budget:\n  trails: 3\n", "job.yaml:4: 'budget.trails' is no key of budget (did you mean 'trials'?)"),
        ("budgets: {}\n", "job.yaml:3: 'budgets' is no key of a job (did you mean 'budget'?)"),
        ("latency: 0.5x\n", "job.yaml:3: 'latency' is no key of a job (in a file it belongs under 'constraints:')"),
        ("recover: {epochs: 2}\n", "job.yaml:3: 'recover' is no key of a job (in a file it belongs under 'space:')"),
        ("lr: 0.1\n", "job.yaml:3: 'lr' is no key of a job (in a file it belongs under 'baseline:')"),
        ("budget: {trials: '3'}\n", "job.yaml:3: 'budget.trials' must be a whole number, not '3'"),
        ("budget: {trials: yes}\n", "job.yaml:3: 'budget.trials' must be a whole number, not true"),
        ("budget:\n\n  trials: -3\n", "job.yaml:5: 'budget.trials' must be at least 1, not -3"),
        ("model_args: {mean: .inf}\n", "job.yaml:3: 'model_args.mean' must be a finite number, not inf"),
        ("model_args: {mean: [0.5, .nan]}\n", "job.yaml:3: 'model_args.mean' must be a finite number, not nan"),
        ("model_args: {list: {int: [.nan]}}\n", "'model_args.list.int' must be a finite number, not nan"),
        ("budget: {minutes: .inf}\n", "job.yaml:3: 'budget.minutes' must be a finite number, not inf"),
        ("budget: 3\n", "job.yaml:3: 'budget' must be a mapping, not 3"),
        ("seed: -1\nworkers: 0\n", "job.yaml:3: 'seed' must be at least 0, not -1 (also wrong: 'workers')"),
        ("name: 2024\n", "job.yaml:3: 'name' must be text, not 2024 (put it in quotes)"),
        ("name: a/b\n", "job.yaml:3: 'name' cannot be 'a/b' (it names a folder: use letters, digits, '.', '_', '-')"),
        ("objectives: [acuracy]\n", "job.yaml:3: 'objectives' cannot be 'acuracy' (did you mean 'accuracy'?)"),
        ("objectives: [size, size]\n", "job.yaml:3: 'objectives' names 'size' twice"),
        ("objectives: []\n", "job.yaml:3: 'objectives' must not be empty"),
        ("objectives: accuracy\n", "job.yaml:3: 'objectives' must be a list, not 'accuracy'"),
        (
            "constraints: {latency: 0.5}\n",
            "job.yaml:3: 'constraints.latency' has no unit: 0.5 (write a ratio such as 0.5x or an amount such as 4 ms)",
        ),
        ("constraints: {size: 2 mb}\n", "'constraints.size' has an unknown unit 'mb' (did you mean 'MB' or 'MiB'?)"),
        ("constraints: {latency: 0x}\n", "job.yaml:3: 'constraints.latency' must be more than 0, not 0x"),
        ("constraints: {accuracy_drop: lots}\n", "'constraints.accuracy_drop' must be a number, not 'lots'"),
        ("constraints: {accuracy_drop: -1}\n", "'constraints.accuracy_drop' must be at least 0, not -1"),
        (
            "constraints:\n  accuracy_drop: 1\n  latency: 0.5x\n  accuracy_drop: 2\n",
            "job.yaml:6: 'constraints.accuracy_drop' is given twice, first on line 4 (drop one)",
        ),
        (
            "pretrained: true\ncheckpoint: a.pt\n",
            "job.yaml:4: 'checkpoint' cannot be combined with 'pretrained' (leave one of them out)",
        ),
        ("model: resnet34\n", "job.yaml:3: 'model' is given twice, first on line 1 (drop one)"),
        ("a: [1\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("a: &loop [*loop]\n", "job.yaml:3: a value cannot contain itself"),
        ("name: 2024-13-45\n", "a value cannot be read"),
        ("1: 2\n", "a key that is not text: 1 (put it in quotes)"),
        ("space: jiont\n", "job.yaml:3: 'space' cannot be found: there is no space 'jiont' (did you mean 'joint'"),
        ("space: there/is.yaml\n", "job.yaml:3: 'space' cannot be found: there is no space 'there/is.yaml'"),
        (
            "space:\n  bits:\n    weight: null\n",
            "job.yaml:5: 'space.bits.weight' cannot be nothing (for no change, write \"none\")",
        ),
        ("space:\n  a: {low: x}\n", "job.yaml:4: 'space.a.low' must be a number, not 'x'"),
        ("space:\n  a.b: 1\n  a: {b: 2}\n", "job.yaml:4: 'space.a.b' is given twice (drop one)"),
    ],
)  # fmt: skip
def test_a_job_file_error_names_file_line_and_key(lines: str, message: str, tmp_path: Path) -> None:
    assert message in error_of(HEAD + lines, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "job.yaml: the job file is empty"),
        ("- a\n", "job.yaml: the job file holds a list"),
        ("model: resnet18\n", "job.yaml: 'data' is missing"),
        ("model: resnet18\ndata: none\n", "job.yaml:2: 'data' has no labelled images to train the baseline on"),
    ],
)
def test_a_file_that_is_no_job(text: str, message: str, tmp_path: Path) -> None:
    assert message in error_of(text, tmp_path)


def test_a_wrong_flag_is_named_as_a_flag(tmp_path: Path) -> None:
    assert error_of(HEAD, tmp_path, trials=0) == "--trials must be at least 1, not 0"
    assert error_of(HEAD, tmp_path, latency="4").startswith("--latency has no unit: 4")
    assert error_of(HEAD, tmp_path, **{"baseline.lr": 0}) == "--set baseline.lr must be more than 0, not 0"


def test_a_keyword_given_under_two_names_is_refused() -> None:
    with pytest.raises(UserError, match=r"'budget.trials' is set twice, by 'budget' and by 'trials'"):
        load_job(settings={"model": "resnet18", "data": "digits", "budget": {"trials": 1}, "trials": 2})


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(HEAD)
    with pytest.raises(UserError, match=r"there is no job file .*demmo.yaml \(did you mean '.*demo.yaml'\?\)"):
        load_job(tmp_path / "demmo.yaml")
    with pytest.raises(UserError, match=r"there is no job file [^()]*photos.yaml$"):
        load_job(tmp_path / "photos.yaml")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "job.yaml").write_text(HEAD)
    with pytest.raises(UserError, match=r"is a folder, not a job file \(to continue the run: autocompress resume "):
        load_job(tmp_path / "run")
    (tmp_path / "latin.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        load_job(tmp_path / "latin.yaml")


def test_nested_aliases_are_refused_at_once(tmp_path: Path) -> None:
    levels = [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(30)]
    assert "is no key of a job" in error_of(HEAD + "a0: &a0 [x]\n" + "\n".join(levels), tmp_path)


FUZZ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
SECTION = st.dictionaries(
    st.sampled_from(["trials", "name", "latency", "train", "epochs", "value", "low"]), JUNK, max_size=3
)


@FUZZ
@given(st.text(st.sampled_from("model:data budget{}[],&*!|>-#'\"\n\t 1x.~<?"), max_size=60))
def test_any_text_gives_a_job_or_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with suppress(UserError):
        load_job(tmp_path / "job.yaml")


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(Job.model_fields)), JUNK | SECTION))
def test_any_values_give_a_job_or_one_sentence(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"model": "resnet18", "data": "digits", **values}))
    with suppress(UserError):
        job = load_job(tmp_path / "job.yaml")
        limits_of(job)
        (tmp_path / "job.yaml").write_text(job.to_yaml())
        assert load_job(tmp_path / "job.yaml") == resolved(job)


# --- spaces ---------------------------------------------------------------------------------------

KNOWN = ["ghost.ratio.layer1", "ghost.ratio.layer2", "ghost.kernel", "bits.weight.layer1", "recover.epochs"]


def space_error(text: str, tmp_path: Path, matched: Sequence[str] = (), inactive: Sequence[str] = ()) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    job = load_job(settings={"model": "resnet18", "data": "digits", "space": str(path)})
    with pytest.raises(UserError) as caught:
        reject_unmatched(limits_of(job), matched, KNOWN, inactive)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "space:\n  ghost:\n    ratoi: 2\n",
            "space.yaml:3: 'space.ghost.ratoi' matches no parameter of the space (did you mean 'ghost.ratio'",
        ),
        ("space:\n  ghost.ratio:\n    layr2: 2\n", "space.yaml:3: 'space.ghost.ratio.layr2' matches no parameter"),
        ("spaces: {}\n", "space.yaml:1: 'spaces' is no key of a space"),
        ("methods: ghost\n", "space.yaml:1: 'methods' must be a list of method names"),
        ("space: [1]\n", "space.yaml:1: 'space' must be a mapping of limits"),
    ],
)
def test_a_space_error_names_file_line_and_key(text: str, message: str, tmp_path: Path) -> None:
    assert message in space_error(text, tmp_path)


def test_limits_on_known_parameters_and_inactive_methods_pass(tmp_path: Path) -> None:
    text = "space:\n  ghost.ratio: 2\n  slb.epochs: 3\n  bits.wight: none\n"
    message = space_error(text, tmp_path, matched=["ghost.ratio"], inactive=["slb"])
    assert message.startswith("space.yaml:4: 'space.bits.wight'")


def test_an_error_about_a_parameter_names_the_line_of_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(HEAD + "space:\n  ghost:\n    ratio: 9\n")
    limits = limits_of(load_job(path))
    message = str(limits.error("ghost.ratio.layer3", "cannot be 9"))
    assert message == f"{path}:5: 'space.ghost.ratio' cannot be 9"


def test_a_resolved_job_still_names_the_file_of_its_space(tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("# a comment\nmethods: [ghots]\nspace:\n  ghost.ratio: 9\n")
    job = resolved(load_job(settings={"model": "resnet18", "data": "digits", "space": str(space)}))
    assert (
        str(limits_of(job).error("ghost.ratio.layer3", "cannot be 9")) == f"{space}:4: 'space.ghost.ratio' cannot be 9"
    )
    with pytest.raises(UserError, match=r"mine.yaml:2: 'methods' names no installed method: 'ghots'"):
        validate(job, plugins())


def test_a_space_is_found_beside_its_job_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("methods: [quantize]\nspace: {bits.weight: none}\n")
    (tmp_path / "job.yaml").write_text(HEAD + "space: mine.yaml\n")
    limits = limits_of(load_job(tmp_path / "job.yaml"))
    assert (limits.methods, limits.values) == (("quantize",), {"bits.weight": "none"})


def test_methods_of_a_job_precede_those_of_its_space() -> None:
    job = load_job(settings={"model": "resnet18", "data": "digits", "space": "bits", "methods": ["ghost"]})
    assert limits_of(job).methods == ("ghost",)


# --- what is installed ----------------------------------------------------------------------------


def plugins(measures: Sequence[str] = ("latency",), reasons: Sequence[str] = ()) -> Any:
    """A manager with one method, one device, one data set and one sampler."""

    def stand_in(name: str, measures: frozenset[str], reasons: list[str]) -> Any:
        device = SimpleNamespace(name=name, measures=measures, check=lambda _: reasons, Options=NoOptions)
        device.named = lambda wanted: device if wanted == name else None
        return device

    device = stand_in("onnxruntime-cpu", frozenset(measures), list(reasons))
    model = stand_in("cost-model:45nm", frozenset({"energy"}), [])
    data = SimpleNamespace(name="digits", claims=lambda spec: spec == "digits")
    return SimpleNamespace(
        methods=lambda: [SimpleNamespace(name="ghost")],
        devices=lambda: [device, model],
        datasets=lambda: [data],
        samplers=lambda: [SimpleNamespace(name="tpe", check=lambda _: [], make=lambda *_: None)],
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model": "resnet81"}, "'model' names no timm model: 'resnet81' (did you mean 'resnet18'"),
        ({"model": "resnet18.nobody"}, "'model' names unknown weights: 'resnet18.nobody'"),
        ({"model": "test_resnet", "checkpoint": "no.pt"}, "'checkpoint' names no file: no.pt"),
        ({"data": "digts"}, "'data' names no data set: 'digts' (did you mean 'digits'?)"),
        ({"data": {"train": "digits", "test": "tset"}}, "'data.test' names no data set: 'tset'"),
        ({"methods": ["ghots"]}, "'methods' names no installed method: 'ghots' (did you mean 'ghost'?)"),
        ({"space": "bits"}, "'methods' names no installed method: 'quantize'"),
        ({"device": "onnxruntime"}, "'device' names no device: 'onnxruntime' (did you mean 'onnxruntime-cpu'?)"),
        ({"cost_model": "45n"}, "'cost_model' names no cost model: '45n' (did you mean '45nm'?)"),
        (
            {"energy": "0.5x"},
            "'constraints.energy' bounds energy, which no device here measures (set 'cost_model'",
        ),
        ({"objectives": ["accuracy", "energy"]}, "'objectives' ask for energy, which no device here measures"),
    ],
)
def test_unknown_names(setting: dict[str, Any], message: str) -> None:
    job = load_job(settings={"model": "resnet18", "data": "digits"} | setting)
    with pytest.raises(UserError) as caught:
        validate(job, plugins())
    assert message in str(caught.value)


def test_energy_from_a_cost_model_or_a_device_is_accepted() -> None:
    wish = {"model": "resnet18", "data": "digits", "energy": "0.5x"}
    validate(load_job(settings={**wish, "cost_model": "45nm"}), plugins())
    validate(load_job(settings=wish), plugins(measures=["latency", "energy"]))


def test_a_device_that_cannot_be_used_gives_a_reason() -> None:
    job = load_job(settings={"model": "resnet18", "data": "digits"})
    with pytest.raises(UserError, match="'device' cannot be used here: it is unplugged"):
        validate(job, plugins(reasons=["it is unplugged"]))
