"""Jobs without training data: their keys, where images come from, and how candidates are judged."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from noise_source import IMAGES, Blobs, Specks, free_job, notes, open_free, plugins
from torch import nn

from autocompress import data, watchdog
from autocompress.compression.sources import HELD_OUT, Sources
from autocompress.contract import Context, DataSource, Params, TransferSet, manager
from autocompress.data import Sealed, TensorSplit
from autocompress.errors import UserError
from autocompress.job import DataConfig, Limits, load_job, validate
from autocompress.opened.applicable import applicable
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy, Replay
from autocompress.recipes.jobspace import JobSpace
from autocompress.store import Store
from autocompress.training import recover


@pytest.fixture(scope="module")
def free(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedJob:
    opened = open_free(free_job(teacher, tmp_path_factory.mktemp("results")))
    assert isinstance(opened, OpenedJob)
    return opened


def sources_of(opened: OpenedJob, folder: Path) -> Sources:
    """The sources of the opened job, with an empty store."""
    assert opened.pipeline.sources is not None
    old = opened.pipeline.sources
    return Sources(old.teacher, old.teacher_key, old.methods, dict(old.defaults), Store(folder), 0, old.compute)


# --- the job --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{"train": "none"}, {"train": None}, {}, "none", None, {"train": "none", "val": "none", "test": "none"}]
)
def test_every_spelling_of_no_data(given: object) -> None:
    job = load_job(settings={"model": "test_resnet", "data": given, "pretrained": True})
    assert job.data == DataConfig()
    assert job.data.is_free
    assert load_job(settings={"model": "test_resnet", "data": {"train": "none", "test": "digits"}, "pretrained": True})


def test_without_weights_the_job_is_refused(tmp_path: Path) -> None:
    for given in ("none", {"train": "none", "test": "digits"}):
        with pytest.raises(
            UserError, match=r"has no labelled images to train the baseline on.*set 'pretrained' or 'checkpoint'"
        ):
            load_job(settings={"model": "test_resnet", "data": given})
    path = tmp_path / "job.yaml"
    path.write_text("model: resnet18\npretrained: true\ndata: {train: none, test: digits}\n")
    job = load_job(path)
    validate(job, manager())
    (tmp_path / "again.yaml").write_text(job.to_yaml())
    assert load_job(tmp_path / "again.yaml") == job


def test_test_images_are_not_used_for_anything_else() -> None:
    splits = data.load(DataConfig(test="digits"))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [0, 0, 360]
    halves = data.load(DataConfig(val="digits"))
    assert [len(part) for part in (halves.train, halves.val, halves.test)] == [0, 180, 180]


# --- the space ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recipe_names_its_source_first(free: OpenedJob) -> None:
    parameters = free.parameters()
    assert next(iter(parameters)) == "source"
    assert parameters["source"].choices == ("blobs", "specks")
    assert {"blobs.kind", "specks.kind"} <= set(parameters), "conditional parameters are found"
    assert parameters["blobs.images"].choices == (IMAGES,), "a parameter that is not searched is in the recipe"
    recipe = free.compose(Replay({"source": "specks", "specks.kind": "hard"}))
    assert recipe.source == ("specks", {"kind": "hard", "images": IMAGES})
    assert "blobs.kind" not in recipe.values
    assert not {"source", "specks.kind"} & set(recipe.structural)
    assert free.compose(Policy({})).source == ("blobs", {"kind": "soft", "images": IMAGES})


def test_the_source_does_not_decide_the_widths_of_a_pruner(free: OpenedJob) -> None:
    """It decides the order of channels, but not how many are removed.

    So recipes of all sources share one latency.
    """
    methods = [*[m for m in free.methods if isinstance(m, DataSource)], manager().method("scop")]
    space = JobSpace(free.model, methods, Limits(), "model", 1)
    values = space.policy({"prune": "default", "recover": "default"})
    assert values is not None
    recipe = space.compose(Replay(values))
    assert recipe.prune is not None
    assert any(name.startswith("prune.keep.") for name in recipe.structural)
    assert not {"source", "blobs.kind", "prune.method", "scop.mixing"} & set(recipe.structural)


def test_limits_restrict_the_sources(free: OpenedJob) -> None:
    space = JobSpace(free.model, free.methods, Limits({"source": ["specks"], "specks.kind": "hard"}), "model", 1)
    assert space.sources() == {"specks": {"kind": "hard", "images": IMAGES}}
    space = JobSpace(free.model, free.methods, Limits({"source": ["specks", "blobs"], "blobs.images": 8}), "model", 1)
    assert list(space.sources()) == ["blobs", "specks"]
    assert space.sources()["blobs"]["images"] == 8
    with pytest.raises(UserError, match=r"'space.source' cannot be 'dreams': it takes blobs \| specks"):
        JobSpace(free.model, free.methods, Limits({"source": "dreams"}), "model", 1).sources()


def test_a_job_with_data_ignores_limits_of_sources(free: OpenedJob) -> None:
    quantize = manager().method("quantize")
    space = JobSpace(free.model, [quantize], Limits({"source": "blobs", "blobs.kind": "hard"}), "model", 1)
    space.check_limits(plugins().methods())


def test_sources_apply_unless_methods_name_others(free: OpenedJob) -> None:
    installed = [Blobs(), Specks(), manager().method("quantize")]
    for wanted, fit in (
        (None, ["blobs", "specks", "quantize"]),
        (["quantize"], ["blobs", "specks", "quantize"]),
        (["quantize", "specks"], ["specks", "quantize"]),
    ):
        found, _ = applicable(installed, free.model, free.job, wanted, has_images=False)
        assert [method.name for method in found] == fit


# --- the images -----------------------------------------------------------------------------------


def test_candidates_are_judged_by_predictions_of_the_baseline(free: OpenedJob) -> None:
    splits = free.splits
    assert splits.by_agreement
    assert splits.synthetic == {"blobs": IMAGES, "specks": IMAGES}
    assert isinstance(splits.val, TensorSplit)
    assert len(splits.val) > 0.99 * 2 * min(IMAGES, HELD_OUT // 2)
    assert free.baseline.accuracy == 100.0
    assert bool(free.baseline.correct.all())
    with torch.no_grad():
        answers = torch.cat([free.model(images).argmax(1) for images, _ in splits.val.loader(64)])
    assert torch.equal(answers, splits.val.labels())
    held_out = {image.numpy().tobytes() for image in splits.val.images}
    for name in ("blobs", "specks"):
        transfer = free.pipeline.transfer_set(free.compose(Replay({"source": name})))
        assert transfer is not None
        assert not transfer.labelled
        assert isinstance(transfer.train, TensorSplit)
        assert held_out.isdisjoint(image.numpy().tobytes() for image in transfer.train.images), (
            "no held-out image is trained on"
        )
    told = splits.describe()
    assert "no training data, but synthetic images: 48 by blobs, 48 by specks" in told
    assert "to compare with the predictions of the baseline" in told


def test_validation_images_of_the_user_judge_by_labels(teacher: Path, tmp_path: Path) -> None:
    opened = open_free(free_job(teacher, tmp_path, data={"train": "none", "val": "digits"}))
    assert isinstance(opened, OpenedJob)
    assert not opened.splits.by_agreement
    assert opened.baseline.accuracy < 100
    assert len(opened.splits.val) == 180
    assert isinstance(opened.splits.test, Sealed)
    assert opened.pipeline.transfer is not None
    assert len(opened.pipeline.transfer.train) == IMAGES


def test_without_data_the_checkpoint_and_the_job_describe_the_images(teacher: Path, tmp_path: Path) -> None:
    args = {"in_chans": 1, "mean": [0.3], "std": [0.25]}
    opened = open_free(free_job(teacher, tmp_path, data="none", model_args=args))
    assert isinstance(opened, OpenedJob)
    info = opened.splits.info
    assert (info.num_classes, info.input_size, info.mean, info.std) == (10, (1, 32, 32), (0.3,), (0.25,))
    assert info.class_names == tuple(str(number) for number in range(10))
    assert len(opened.splits.test) == 0
    assert opened.splits.describe().endswith("none to test")


def test_a_set_is_made_once_and_shared(free: OpenedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISE_CALLS", str(tmp_path / "calls"))
    first = sources_of(free, tmp_path / "store")
    one = first.transfer_set("blobs", first.defaults["blobs"])
    again = first.transfer_set("blobs", first.defaults["blobs"])
    other = sources_of(free, tmp_path / "store").transfer_set("blobs", first.defaults["blobs"])
    assert notes() == ["blobs soft alone"], "made once, then read"
    assert one is again
    assert one.digest == other.digest
    assert isinstance(one.train, TensorSplit)
    assert isinstance(other.train, TensorSplit)
    assert torch.equal(one.train.images, other.train.images), "exact, float32"
    assert one.train.info == other.train.info
    third = first.transfer_set("blobs", {**first.defaults["blobs"], "images": 8})
    assert third.digest != one.digest
    changed = sources_of(free, tmp_path / "store")
    changed.teacher_key = "another"
    changed.transfer_set("blobs", first.defaults["blobs"])
    assert len(notes()) == 3


def test_two_processes_do_not_make_the_same_set(tmp_path: Path) -> None:
    store, waited = Store(tmp_path), threading.Event()
    with store.making("key"):

        def other() -> None:
            with Store(tmp_path).making("key", waited.set):
                store.put("mine", {}, {})

        thread = threading.Thread(target=other)
        thread.start()
        assert waited.wait(60), "a waiting process gives way to measurements"
        assert not store.has("mine")
    thread.join(60)
    assert store.has("mine")
    with store.making("another"), Store(tmp_path).making("third"):
        pass


@pytest.mark.slow
def test_keys_of_stages_contain_the_images_of_the_recipe(free: OpenedJob) -> None:
    bits = {"bits.weight.model": "quantize:8", "bits.activation.model": 8, "qat.epochs": 0}
    digests, keys = set(), set()
    for values in ({"source": "blobs"}, {"source": "specks"}, {"source": "blobs", "blobs.kind": "hard"}):
        recipe = free.compose(Replay({**bits, **values}))
        transfer = free.pipeline.transfer_set(recipe)
        assert transfer is not None
        digests.add(transfer.digest)
        keys.add(free.pipeline.keys.of_quantize(recipe))
        candidate = free.candidate(recipe)
        assert candidate.plan["quantization"] is not None
    assert len(digests) == 2, "the hard ones begin with the same images as the soft ones"
    assert len(keys) == 3, "but they adapt to the student"


def test_a_source_that_cannot_make_images_is_left_out(free: OpenedJob, tmp_path: Path) -> None:
    class Breaks(Blobs):
        name = "breaks"

        def apply(self, *_: object, **__: object) -> TransferSet:
            raise ValueError("no statistics")

    class Repeats(Blobs):
        name = "repeats"

        def apply(
            self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
        ) -> TransferSet:
            return super().apply(teacher, params, replace(context, seed=0))

    class NotANumber(Blobs):
        name = "nan"

        def apply(
            self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
        ) -> TransferSet:
            made = super().apply(teacher, params, context)
            assert isinstance(made.train, TensorSplit)
            made.train.images[0, 0, 0, 0] = float("nan")
            return made

    sources = sources_of(free, tmp_path)
    own = {method.name: method for method in (Breaks(), Repeats(), NotANumber(), Blobs())}
    defaults = dict.fromkeys(own, sources.defaults["blobs"])
    broken = Sources(sources.teacher, sources.teacher_key, own, defaults, Store(tmp_path), 0, sources.compute)
    failed = broken.prepare()
    assert list(broken.methods) == list(broken.defaults) == ["blobs"]
    assert failed["breaks"] == "it could not make images: ValueError: no statistics"
    assert "the same images for every seed" in failed["repeats"]
    assert "not finite numbers" in failed["nan"]


def test_if_no_source_applies_the_reasons_and_other_methods_are_named(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Blobs, "check", lambda *_: ["the model has no batch norm"])
    with pytest.raises(UserError) as error:
        open_free(free_job(teacher, tmp_path, data="none"))
    assert "no data source can make images from test_resnet (" in str(error.value)
    assert "blobs: the model has no batch norm" in str(error.value)
    assert "specks: the model has no batch norm" in str(error.value)
    assert "labelled images with data: {val: ...}, which is enough for ghost, " in str(error.value)
    opened = open_free(free_job(teacher, tmp_path, data={"train": "none", "val": "digits"}))
    assert isinstance(opened, OpenedJob)
    assert opened.refused["blobs"] == ["the model has no batch norm"]
    assert "images for calibration" in opened.refused["quantize"][0]
    assert opened.compose(Policy({"ghost": "cheapest", "recover": "default"})).recover["epochs"] == 0


def test_a_source_that_adapts_is_called_again_half_way(
    free: OpenedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISE_CALLS", str(tmp_path / "calls"))
    sources = sources_of(free, tmp_path / "store")
    params = {"kind": "hard", "images": IMAGES}
    assert sources.adapter(("blobs", {**params, "kind": "soft"})) is None
    again = sources.adapter(("blobs", params))
    assert again is not None
    seen: list[TransferSet] = []

    def asked(student: nn.Module) -> TransferSet:
        assert student.training, "between epochs"
        seen.append(again(student))
        assert student.training, "the mode of the student in training does not change"
        return seen[-1]

    transfer = sources.transfer_set("blobs", params)
    context = Context(input_size=(1, 32, 32), transfer=transfer, teacher=copy.deepcopy(free.model))
    settings = {"epochs": 2, "lr": 1e-3, "distill": 0.5}
    student = recover(copy.deepcopy(free.model), settings, context, [], again=asked)
    assert not student.training
    assert len(seen) == 1
    assert len(seen[0].train) == IMAGES // 4
    assert notes() == ["blobs hard alone", "blobs hard student"]
    plain = recover(copy.deepcopy(free.model), settings, context, [])
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert not torch.equal(student(images), plain(images)), "the new images count"
    recover(copy.deepcopy(free.model), settings | {"epochs": 1}, context, [], again=asked)
    assert len(seen) == 1, "a single epoch has no second half"


# --- time, and what is not asked ------------------------------------------------------------------


def test_the_time_limit_of_a_trial_is_paused_while_a_set_is_made(
    free: OpenedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    sources = sources_of(free, tmp_path / "store")

    @contextmanager
    def paused() -> Iterator[Callable[[], None]]:
        heard.append("stopped")
        yield lambda: heard.append("alive")
        heard.append("goes on")

    @contextmanager
    def waits(_: Store, key: str, pause: Callable[[], None] | None = None) -> Iterator[None]:
        assert pause is not None
        pause()
        heard.append("waited")
        yield

    monkeypatch.setattr(watchdog, "paused", paused)
    monkeypatch.setattr(Store, "making", waits)
    sources.transfer_set("blobs", sources.defaults["blobs"])
    assert heard[:3] == ["stopped", "alive", "waited"]
    assert heard.count("alive") == 3, "the clock is paused while the set is made, at the start and half-way"
    assert heard[-1] == "goes on"
    heard.clear()
    sources_of(free, tmp_path / "store").transfer_set("blobs", sources.defaults["blobs"])
    assert heard == [], "an existing set is only read"


def test_parameters_that_differ_only_with_a_student_share_a_set(
    free: OpenedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shares(Blobs):
        def without_student(self, params: Params) -> Params:
            return {**params, "kind": "soft"}

    monkeypatch.setenv("NOISE_CALLS", str(tmp_path / "calls"))
    sources = sources_of(free, tmp_path / "store")
    sources.methods = {**sources.methods, "blobs": Shares()}
    hard = {**sources.defaults["blobs"], "kind": "hard"}
    assert sources.transfer_set("blobs", hard) is sources.transfer_set("blobs", sources.defaults["blobs"])
    again = sources.adapter(("blobs", hard))
    assert again is not None
    again(copy.deepcopy(free.model))
    assert notes() == ["blobs soft alone", "blobs hard student"], "with a student, parameters are used unchanged"


def test_without_labels_there_is_no_weight_between_labels_and_teacher(free: OpenedJob) -> None:
    assert not [name for name in free.parameters() if name.endswith(".distill")]
    trained = {"ghost": "cheapest", "recover": "default", "bits": "default", "qat": "default"}
    recipe = free.compose(Replay({**(free.policy(trained) or {}), "qat.epochs": 1}))
    assert recipe.recover["distill"] == recipe.qat["distill"] == 1.0
    labelled = [method for method in free.methods if not isinstance(method, DataSource)]
    asked = JobSpace(free.model, labelled, Limits(), "model", 1).parameters()
    assert {"recover.distill", "qat.distill"} <= set(asked)
    limits = Limits({"recover.distill": 0.5, "qat.distill": [0.0, 0.5]})  # of a space that is for jobs with data too
    JobSpace(free.model, free.methods, limits, "model", 1).check_limits([])
