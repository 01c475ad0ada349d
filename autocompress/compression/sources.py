"""Images for recipes in jobs without training data. Each transfer set is made once and stored."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autocompress import models, watchdog
from autocompress.compression.answers import answered
from autocompress.compression.bounding import (
    IMAGES,
    UNLIMITED_SECONDS,
    bounded,
    in_words,
    pass_seconds,
    shared_out,
)
from autocompress.compute import Compute
from autocompress.contract import Context, DataSource, Params, TransferSet
from autocompress.data import DataInfo, Split, TensorSplit
from autocompress.errors import TrialFailed, UserError
from autocompress.files import digest
from autocompress.store import Store, pack, unpack
from autocompress.training import computed_with
from autocompress.training.joining import images_of

VERSION = "1"
HELD_OUT = 512
"""Number of synthetic images on which candidates are compared with the baseline."""
HELD_OUT_SEED = 104_729
"""Added to the job's seed, so that no recipe trains on held-out images."""
ADAPTED_SHARE = 0.25
"""Number of images that are made for the student in training, as a share of the first set.

They are made again in each training.
"""
MOST_IN_MEMORY = 2
"""Transfer sets that a process keeps in memory; others are read from the store again."""
Progress = Callable[[float, str], None]
log = logging.getLogger("autocompress.compression")


@dataclass
class Sources:
    """The data sources of a job, and the images that they make from its baseline.

    Attributes:
        teacher: the float baseline, eval, on the CPU; never changed.
        teacher_key: content key of its weights and architecture.
        methods: the active sources, by name.
        defaults: their parameters in the default recipe; the first source is the default one.
        store: the store for sets.
        seed: random seed of the job.
        compute: where and how torch computes.
        seconds: maximum seconds for making the images of all sources.
        most_seconds: maximum seconds for the images of one source; more is an error.
        stated: sources whose amounts the job sets; these are not reduced.
        notes: notes for the user about sets that were reduced.
    """

    teacher: nn.Module
    teacher_key: str
    methods: Mapping[str, DataSource]
    defaults: dict[str, Params]
    store: Store
    seed: int
    compute: Compute
    seconds: float = UNLIMITED_SECONDS
    most_seconds: float = math.inf
    stated: Collection[str] = ()
    notes: list[str] = field(default_factory=list)
    _times: Mapping[str, float] = field(default_factory=dict)
    _held_out: dict[str, int] = field(default_factory=dict)
    _each: float = 0.0
    _sets: dict[str, TransferSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Sources that fail later are included, so that the shares and keys of the others stay the
        # same.
        self._share = HELD_OUT // max(1, len(self.defaults))

    def transfer_set(
        self,
        name: str,
        params: Params,
        progress: Progress | None = None,
        pause: Callable[[], None] | None = None,
        *,
        images: int | None = None,
        seed: int | None = None,
    ) -> TransferSet:
        """The transfer set that source ``name`` makes with ``params``.

        It is made once for each baseline, source, version, parameters and seed, and is
        shared by trials, workers and runs. The time limit of a trial does not count while
        the trial makes the set or waits for it.

        Args:
            name: name of the source.
            params: parameters of the source.
            progress: called with the finished fraction.
            pause: called while it is made, and while another process makes it.
            images: number of images that suffices; None for the number in ``params``.
            seed: None for the seed of the job.

        Raises:
            TrialFailed: if the result of the source is unusable.
        """
        seed = self.seed if seed is None else seed
        params, seconds = self.methods[name].without_student(params), self._times.get(name, math.inf)
        params = bounded(self.methods[name], params, self._share, seconds, self._each).params
        about = [name, self.methods[name].version, params, images, seed]
        key = digest("transfer set", VERSION, self.teacher_key, about, computed_with(self.compute))
        if (known := self._sets.pop(key, None)) is None:
            if (found := self._found(key)) is None:
                found = self._kept(
                    key, pause, lambda breathe: self._made(name, params, progress, breathe, images, seed)
                )
            known = _unpacked(*found)
        self._sets[key] = known  # sorted by last use
        for old in list(self._sets)[:-MOST_IN_MEMORY]:
            del self._sets[old]
        return known

    def _found(self, key: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        return self.store.get(key) if self.store.has(key) else None

    def _kept(
        self, key: str, pause: Callable[[], None] | None, make: Callable[[Callable[[], None]], TransferSet]
    ) -> tuple[dict[str, torch.Tensor], Any]:
        """The set ``key``, made by ``make`` or by another process that is already making it."""
        with watchdog.paused() as alive:

            def breathe() -> None:
                alive()
                if pause is not None:
                    pause()

            with self.store.making(key, breathe):
                if (found := self._found(key)) is None:
                    self.store.misses += 1
                    found = _packed(make(breathe))
                    self.store.put(key, *found)
        return found

    def adapting(self, source: tuple[str, Params]) -> list[Any]:
        """The part of RECOVER's key that an adapting source adds; empty for other sources."""
        name, params = source
        method = self.methods[name]
        return [name, method.version, params] if method.adapts(params) else []

    def adapter(
        self, source: tuple[str, Params], pause: Callable[[], None] | None = None
    ) -> Callable[[nn.Module], TransferSet] | None:
        """A function that makes images for a student; None if the source does not adapt to it.

        These images are not kept.
        """
        name, params = source
        if not self.adapting(source):
            return None

        def again(student: nn.Module) -> TransferSet:
            # A copy, so that the source cannot change the student or its mode.
            twin = copy.deepcopy(student).eval()
            images = max(1, round(ADAPTED_SHARE * len(self.transfer_set(name, params, pause=pause).train)))
            return self._made(name, params, None, pause, images, self.seed, twin)

        return again

    def prepare(self, progress: Progress | None = None, pause: Callable[[], None] | None = None) -> dict[str, str]:
        """Makes the images of each source with its default parameters, and its held-out images.

        Images in the store are not made again. The cheapest source comes first. A source that takes
        longer than its part of the time, even with few images, is left out if there is another one.

        Returns:
            By source, the reason why it failed. These sources are no longer part of this object.
        """
        order, failed = self._shared_out(pause)
        for name in order:
            try:
                held_out = self._held_out_of(name, progress, pause)
                own = self.transfer_set(name, self.defaults[name], progress, pause)
                if _same_images(held_out.train, own.train):
                    raise TrialFailed("it gives the same images for every seed, so none can be held out")
            except Exception as error:  # a plugin's fault must not end the search
                text = str(error) if isinstance(error, TrialFailed) else f"{type(error).__name__}: {error}"
                log.warning("the data source '%s' is left out: %s", name, text)
                failed[name] = f"it could not make images: {text}"
        for name in failed:
            del self.defaults[name]
        self.methods = {name: method for name, method in self.methods.items() if name in self.defaults}
        return failed

    def _shared_out(self, pause: Callable[[], None] | None) -> tuple[list[str], dict[str, str]]:
        """Gives each source its time.

        The speed of the teacher is measured once and kept, because all processes of this search and
        of later ones must make the same sets.

        Returns:
            The sources that are used, the cheapest first; and by source, the reason why the others
            are not.

        Raises:
            UserError: if even the smallest set takes longer than the search.
        """
        asked = {name: (self.methods[name], params) for name, params in self.defaults.items()}
        if any(method.passes(params) for method, params in asked.values()):
            key = digest("seconds of a pass", VERSION, self.teacher_key, computed_with(self.compute))
            self._each = float(self.store.made(key, self._measured_pass, pause))
        sharing = shared_out(asked, self._share, self.seconds, self._each, self.stated)
        self._times = sharing.seconds
        for name, own in sharing.sets.items():
            if own.seconds > self.most_seconds and name not in self.stated:
                raise UserError(
                    f"making images from the model would take {in_words(own.seconds)}, "
                    f"and the search has {in_words(self.most_seconds)}",
                    "give more minutes, or pictures: data: {train: unlabelled:FOLDER}",
                )
            self._held_out[name] = own.held_out
            if own.params != self.defaults[name]:
                wanted = bounded(*asked[name], self._share, math.inf, self._each).seconds
                text = f"{name} makes {own.params[IMAGES]} images in {in_words(own.seconds)}; with its own settings"
                self.notes.append(f"{text} it would take {in_words(wanted)}")
        return list(sharing.sets), dict(sharing.left_out)

    def _measured_pass(self) -> float:
        teacher = copy.deepcopy(self.teacher).to(self.compute.device).eval().requires_grad_(False)
        return pass_seconds(teacher, models.input_size(self.teacher))

    def counts(self) -> dict[str, int]:
        """The number of images that each source makes with its default parameters."""
        return {name: len(self.transfer_set(name, params).train) for name, params in self.defaults.items()}

    def held_out(self, info: DataInfo, pause: Callable[[], None] | None = None) -> TensorSplit:
        """The images on which all candidates are compared with the baseline.

        Each source gives an equal share, whatever source a recipe has. No recipe trains on these
        images. Labels are the baseline's predictions.

        Args:
            info: description of the job's data.
            pause: called between batches.
        """
        parts = [self._held_out_of(name, None, pause).train for name in self.defaults]
        share = min(self._share, *(len(part) for part in parts))
        images = torch.cat([images_of(part.subset(share, self.seed)) for part in parts])
        unlabelled = TensorSplit(images, torch.zeros(len(images), dtype=torch.int64), info)
        return answered(self.teacher, self.teacher_key, unlabelled, self.store, self.compute, pause)

    def _held_out_of(
        self, name: str, progress: Progress | None = None, pause: Callable[[], None] | None = None
    ) -> TransferSet:
        seed = self.seed + HELD_OUT_SEED
        images = self._held_out.get(name, self._share)
        return self.transfer_set(name, self.defaults[name], progress, pause, images=images, seed=seed)

    def _made(
        self,
        name: str,
        params: Params,
        progress: Progress | None,
        pause: Callable[[], None] | None,
        images: int | None,
        seed: int,
        student: nn.Module | None = None,
    ) -> TransferSet:
        def told(fraction: float, _: str = "") -> None:
            if pause is not None:
                pause()
            if progress is not None:
                progress(fraction, f"making images: {name}")

        told(0.0)
        teacher = copy.deepcopy(self.teacher).to(self.compute.device).eval().requires_grad_(False)
        context = Context(
            input_size=models.input_size(self.teacher),
            teacher=teacher,
            compute=self.compute,
            seed=seed,
            images=images,
            progress=told,
        )
        with torch.random.fork_rng(devices=self.compute.random_devices):
            torch.manual_seed(seed)
            made = self.methods[name].apply(teacher, params, context, student)
        _check(made, context.input_size)
        return replace(made, labelled=False, synthetic=True)  # labels are the targets of the source, and may be wrong


def _check(made: TransferSet, input_size: tuple[int, int, int]) -> None:
    """Refuses a transfer set that cannot be trained on."""
    if not isinstance(made, TransferSet):
        raise TrialFailed(f"a data source must give a TransferSet, not a {type(made).__name__}")
    for split in (made.train, made.calibration):
        if not len(split):
            raise TrialFailed("the data source gave no images")
        images = images_of(split)
        if tuple(images.shape[1:]) != input_size:
            raise TrialFailed(f"the images are {tuple(images.shape[1:])}, the model takes {input_size}")
        if not bool(images.isfinite().all()):
            raise TrialFailed("the images are not finite numbers")
    if made.soft_targets is not None and len(made.soft_targets) != len(made.train):
        raise TrialFailed(f"there are {len(made.soft_targets)} soft targets for {len(made.train)} images")


def _same_images(one: Split, other: Split) -> bool:
    """Whether the first images of both are the same."""
    (first, _), (second, _) = next(iter(one.loader(8))), next(iter(other.loader(8)))
    count = min(len(first), len(second))
    return torch.equal(first[:count], second[:count])


def _packed(made: TransferSet) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and JSON of a transfer set; images stay as they are, float32."""
    own = made.calibration is not made.train and made.calibration.digest != made.train.digest
    state = {
        "train": _split_state(made.train),
        "calibration": _split_state(made.calibration) if own else None,
        "soft_targets": None if made.soft_targets is None else made.soft_targets.detach().float(),
        "temperature": made.temperature,
        "demands": sorted(made.demands),
    }
    tensors, record = pack(state)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    # A digest of the content, because images from another machine may differ in their last bits.
    content = digest(record, *(tensor.numpy().tobytes() for _, tensor in sorted(tensors.items())))
    return tensors, {"transfer": record, "digest": content}


def _split_state(split: Split) -> dict[str, Any]:
    info = asdict(split.info)
    info.pop("task")  # sources make images for classification alone
    return {"images": images_of(split), "labels": split.labels(), "info": info}


def _unpacked(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> TransferSet:
    state = unpack(tensors, record["transfer"])
    train = _split_of(state["train"])
    return TransferSet(
        train=train,
        calibration=train if state["calibration"] is None else _split_of(state["calibration"]),
        digest=record["digest"],
        soft_targets=state["soft_targets"],
        temperature=state["temperature"],
        labelled=False,
        synthetic=True,
        demands=frozenset(state["demands"]),
    )


def _split_of(state: Mapping[str, Any]) -> TensorSplit:
    info: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in state["info"].items()
    }
    return TensorSplit(state["images"], state["labels"], DataInfo(**info))
