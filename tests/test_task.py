"""Tasks: the built-in ones, those of users, and errors of wrong ones before a search."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_run import write_run
from sklearn.metrics import average_precision_score
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

from autocompress import models
from autocompress.data import DataInfo, TensorSplit
from autocompress.errors import TrialFailed, UserError
from autocompress.job import load_job
from autocompress.objectives.intervals import paired_difference
from autocompress.opened.job import OpenedJob
from autocompress.report.page import render
from autocompress.results import read
from autocompress.task import Classification, Multilabel, Task, TaskRef, check_task, load_task
from autocompress.task.jackknife import paired_interval
from autocompress.task.multilabel import average_precision
from autocompress.training import Training, TrainSettings, evaluate

OWN = """
import torch
from autocompress.contract import Task

class Regression(Task):
    metric_name = "closeness"
    def __init__(self, power=2):
        self.power = power
    def loss(self, outputs, targets):
        return (outputs[:, 0] - targets).abs().pow(self.power).mean()
    def marks(self, outputs, targets):
        return 1 / (1 + (outputs[:, 0] - targets).abs())
    def divergences(self, reference, outputs):
        return (reference - outputs).square().mean(1)
    def prediction(self, outputs):
        return outputs[:, 0].round().long()

class Unfinished(Task):
    def marks(self, outputs, targets):
        return targets

Nothing = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


# --- multilabel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = np.round(draw.normal(size=30), 1)  # with ties, because scores are integers
    wanted = draw.random(30) < 0.3
    wanted[0] = True
    assert average_precision(scores, wanted) == pytest.approx(average_precision_score(wanted, scores), abs=1e-12)


def test_labels_that_no_image_has_are_ignored() -> None:
    targets = torch.tensor([[1.0, 0], [0, 0], [1, 0]])
    task, outputs = Multilabel(), torch.tensor([[2.0, 1], [1, 1], [0, 1]])
    found = task.metric(task.marks(outputs, targets).numpy())
    assert found == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert math.isnan(task.metric(task.marks(outputs, torch.zeros(3, 2)).numpy()))


def test_divergence_of_labels_is_the_mean_of_bernoulli_divergences() -> None:
    one, other = torch.randn(5, 4), torch.randn(5, 4)
    expected = kl_divergence(Bernoulli(logits=one), Bernoulli(logits=other)).mean(1)
    assert torch.allclose(Multilabel().divergences(one, other), expected, atol=1e-6)
    task, student = Multilabel(), other.clone().requires_grad_()
    task.distillation(student, task.answers(one, 4.0), 4.0).backward()
    assert student.grad is not None
    assert bool(student.grad.abs().sum() > 0)
    assert float(task.distillation(one, task.answers(one, 4.0), 4.0)) == pytest.approx(0, abs=1e-5)


def test_the_jackknife_covers_the_true_difference() -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(200):
        ours, theirs = draw.random(300) < 0.8, draw.random(300) < 0.9
        found = paired_interval(lambda marks: 100 * float(marks.mean()), ours, theirs)
        assert found.estimate == pytest.approx(paired_difference(ours, theirs).estimate)
        covered += found.low <= -10 <= found.high
    assert 180 <= covered <= 199  # 190 expected


# --- tasks of users -------------------------------------------------------------------------------


def test_a_file_and_a_module_of_the_working_folder_name_the_same_task(own: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(own.parent)
    job = load_job(model="test_resnet", data="digits", task="own:Regression")
    assert job.task.anchored.name == f"{own}:Regression"
    assert load_job(model="test_resnet", data="digits", task={"name": f"{own}:Regression"}).task.anchored.name == (
        job.task.anchored.name
    )
    task = load_task(TaskRef.of(job.task.anchored.name, {"power": 1}))
    assert float(task.loss(torch.tensor([[3.0]]), torch.tensor([1.0]))) == 2.0


def test_a_module_of_a_package_in_the_working_folder(own: Path, monkeypatch: Any) -> None:
    package = own.with_name("mytasks")
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(OWN)
    (package / "depth.py").write_text("from .base import Regression\nclass Depth(Regression):\n    pass\n")
    monkeypatch.chdir(own.parent)
    name = load_job(model="test_resnet", data="digits", task="mytasks.depth:Depth").task.anchored.name
    assert name == f"{package / 'depth.py'}:Depth"
    assert load_task(TaskRef(name)).metric_name == "closeness"


def test_a_task_of_a_user_trains_with_a_teacher(own: Path) -> None:
    task = TaskRef.of(f"{own}:Regression")
    info = DataInfo(1, 1, (4, 4), (0.5,), (0.5,), ("value",), task=task)
    images = torch.randint(0, 255, (64, 1, 4, 4), dtype=torch.uint8)
    split = TensorSplit(images, images.float().mean((1, 2, 3)) / 255, info)
    model, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(16, 1)) for _ in range(2))
    before = evaluate(model, split)[0]
    settings = TrainSettings(epochs=20, batch_size=16, lr=0.02, augment=False)
    Training(teacher, split, settings).run()
    assert evaluate(teacher, split)[0] > max(before, 80)
    Training(model, split, replace(settings, distill=1.0), teacher=teacher).run()
    assert evaluate(model, split)[0] > 80  # labels were not used, because the weight of the teacher is 1


def test_keys_contain_the_class_its_options_and_its_source(own: Path) -> None:
    other = own.with_name("other.py")
    other.write_text(OWN.replace("abs()", "square().sqrt()"))
    refs = [TaskRef.of(f"{file}:Regression", options) for file in (own, other) for options in ({}, {"power": 1})]
    keys = {ref.key for ref in refs}
    assert len(keys) == 4
    info = DataInfo(10, 1, (8, 8), (0.5,), (0.5,), tuple("0123456789"))
    images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.rand(4)
    tasks = [TaskRef(), TaskRef("multilabel"), *refs]
    splits = [TensorSplit(images, labels, DataInfo(**{**vars(info), "task": ref})) for ref in tasks]
    assert len({split.digest for split in splits}) == len(tasks)


def test_a_network_is_rebuilt_from_its_description_with_its_task() -> None:
    job = load_job(model="test_resnet", data="digits", task="multilabel")
    info = DataInfo(3, 1, (32, 32), (0.5,), (0.5,), ("a", "b", "c"), task=TaskRef("multilabel"))
    model = models.create(job, info)
    told = models.architecture(model)
    assert told["task"]["name"] == "multilabel"
    assert models.data_info(models.from_architecture(told)).task == TaskRef("multilabel")
    assert models.needs_training(job, info)
    plain = models.create(load_job(model="test_resnet", data="digits"), DataInfo(**{**vars(info), "task": TaskRef()}))
    assert "task" not in models.architecture(plain)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("{file}:Regresion", {}, "the module of the task 'own.py:Regresion' has no 'Regresion'"),
        ("{file}:Unfinished", {}, "the task 'own.py:Unfinished' lacks 'divergences' and 'loss' and 'prediction'"),
        ("{file}:Nothing", {}, "'own.py:Nothing' is not a task: it is not a class"),
        ("json:JSONDecoder", {}, "'json:JSONDecoder' is not a task: it is not derived from autocompress.contract.Task"),
        ("{file}:Regression", {"size": 3}, "cannot be made with the options {'size': 3}"),
        ("multilabel", {"threshold": 2}, "cannot be made with the options {'threshold': 2}: threshold must be"),
        ("{folder}/broken.py:A", {}, "cannot be imported: NameError: name 'x' is not defined"),
        ("nowhere_at_all:A", {}, "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_wrong_task_gives_one_sentence(own: Path, name: str, options: dict[str, Any], message: str) -> None:
    (own.parent / "broken.py").write_text("x\n")
    with pytest.raises(UserError) as caught:
        load_task(TaskRef.of(name.format(file=own, folder=own.parent), options))
    assert message in str(caught.value)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("multilable", "names no task: 'multilable'"),
        ("own.py", "names no task"),
        ("missing.py:A", "names no file"),
        ("nowhere_at_all:A", "names no module: 'nowhere_at_all'"),
    ],
)
def test_a_job_refuses_an_unknown_task(task: str, message: str) -> None:
    from autocompress.job import check_names

    with pytest.raises(UserError, match="task") as caught:
        check_names(load_job(model="test_resnet", data="digits", task=task))
    assert message in str(caught.value)


def test_a_task_needs_labels() -> None:
    with pytest.raises(UserError, match="'multilabel' needs images with labels"):
        load_job(model="test_resnet", pretrained=True, data={"train": "unlabelled:x"}, task="multilabel")
    with pytest.raises(UserError, match="'multilabel' needs images with labels"):
        load_job(model="test_resnet", pretrained=True, data="none", task="multilabel")
    with pytest.raises(UserError, match="'multilabel' cannot mix labels"):
        load_job(model="test_resnet", data="digits", augment={"mixup": 0.2}, task="multilabel")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("metric_name", "metrc_name"), ("divergences", "divergance"), ("metric_name", "metric_nmae")],
)
def test_a_misspelt_member_is_named(own: Path, right: str, wrong: str) -> None:
    own.write_text(OWN.replace(right, wrong))
    with pytest.raises(UserError) as caught:
        load_task(TaskRef.of(f"{own}:Regression"))
    assert f"the task 'own.py:Regression' has '{wrong}', which is no member of a task" in caught.value.message
    assert f"did you mean '{right}'?" in caught.value.hint


def test_names_of_the_author_are_not_misspelt_members(own: Path) -> None:
    names = "    def losses(self): pass\n    _metrc_name = 1\n    def divergence(self): pass\n    scale = 1\n"
    names += "    answer = arguments = intervals = networks = masks = metrics = scaled_loss = output_size = 1\n"
    own.write_text(OWN.replace('    metric_name = "closeness"\n', f'    metric_name = "closeness"\n{names}'))
    assert load_task(TaskRef.of(f"{own}:Regression")).metric_name == "closeness"


@pytest.mark.parametrize("name", ["output_size", "augment", "metrc"])
def test_attributes_that_a_task_sets_are_its_own(own: Path, name: str) -> None:
    own.write_text(OWN.replace("self.power", f"self.{name}"))
    assert getattr(load_task(TaskRef.of(f"{own}:Regression")), name) == 2


# --- members that fail ----------------------------------------------------------------------------


class Good(Multilabel):
    """A task that works on random images. Tests replace its members."""


def _wrong(**members: Any) -> str:
    """The error of a task with these members, on random images."""
    kind = type("Wrong", (Good,), members)
    globals()["Wrong"] = kind
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    targets = (torch.rand(8, 3) < 0.5).float()
    ref = TaskRef.of(f"{__name__}:Wrong", {"threshold": 0.4 + 0.01 * (len(_tried) + 1)})
    _tried.append(ref)
    load_task.cache_clear()
    try:
        check_task(ref, model, torch.randn(8, 1, 4, 4), targets, 3)
    except UserError as error:
        return error.message
    return ""


_tried: list[TaskRef] = []


def _raises(self: Task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    raise KeyError("masks")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, ""),
        ({"metric": lambda self, marks: float("nan")}, "its metric is nan on 8 validation images"),
        ({"metric": lambda self, marks: [1]}, "'metric' must give one number, not a list"),
        ({"loss": lambda self, o, t: o.mean() * float("nan")}, "its loss is nan on the first images"),
        ({"loss": lambda self, o, t: o.mean(1)}, "'loss' must give one number as a tensor, not a tensor of shape (8,)"),
        ({"loss": lambda self, o, t: o.detach().mean()}, "'loss' must have a gradient to the outputs"),
        ({"loss": _raises}, "'loss' raised KeyError for targets of torch.float32 (8, 3) and outputs (8, 3): 'masks'"),
        ({"marks": lambda self, o, t: o.mean()}, "'marks' must give a tensor with a row for each of 8 images"),
        ({"divergences": lambda self, a, b: (a - b).mean()}, "'divergences' must give one number for each of 8 images"),
        ({"divergences": lambda self, a, b: a.mean(1).abs() + 1}, "'divergences' must be 0 for equal outputs"),
        ({"prediction": lambda self, o: o}, "'prediction' must give integers"),
        ({"agreement": lambda self, a, b: (a == b).float()}, "'agreement' must give one number for each of 8 images"),
        ({"augmented": lambda self, i, t, g: i}, "'augmented' must give images and targets"),
        ({"check_targets": lambda self, t, c: "needs boxes"}, "the task 'test_task:Wrong' needs boxes"),
    ],
)
def test_a_member_that_fails_is_named(members: dict[str, Any], message: str) -> None:
    found = _wrong(**members)
    assert message in found
    assert "\n" not in found
    assert bool(message) == bool(found)


def test_unsuitable_labels_end_a_job_before_training() -> None:
    settings: dict[str, Any] = {"methods": ["obs"], "device": "cost-model:bitops", "name": "task"}
    with pytest.raises(UserError, match=r"'multilabel' needs 0 or 1 for each of 10 labels.*one class for each image"):
        OpenedJob.dry(load_job(model="test_resnet", data="digits", task="multilabel", **settings))


def test_nan_outputs_end_a_trial() -> None:
    info = DataInfo(3, 1, (4, 4), (0.5,), (0.5,), ("a", "b", "c"), task=TaskRef("multilabel"))
    split = TensorSplit(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.eye(4)[:, :3], info)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    assert math.isfinite(evaluate(model, split)[0])
    nn.init.constant_(model[1].weight, math.inf)
    with pytest.raises(TrialFailed, match="not finite"):
        evaluate(model, split)


def test_a_report_names_the_metric(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert "validation accuracy" in render(read(folder))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "metric": "mean IoU"}))
    page = render(read(folder))
    assert "validation mean IoU" in page
    assert "validation accuracy" not in page


def test_classification_is_the_default() -> None:
    assert isinstance(load_task(TaskRef()), Classification)
    assert load_job(model="test_resnet", data="digits").model_dump(mode="json")["task"] == "classification"
