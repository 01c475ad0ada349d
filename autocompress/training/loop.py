"""Training: the training loop, with the callbacks of all methods that were applied."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from autocompress.compat.torch import BatchNormBase
from autocompress.compute import Compute, give_memory_back
from autocompress.contract import Callback
from autocompress.data import Loader, Split
from autocompress.errors import TooLittleMemory, TrialFailed
from autocompress.memory import is_out_of_memory
from autocompress.models import device_of
from autocompress.training.checkpoint import Checkpoint
from autocompress.training.distilling import Answers, SoftTargets, answers_of, distillation
from autocompress.training.layout import laid_out_as_parameters, to_memory_format
from autocompress.training.mixing import Mixing
from autocompress.training.optimizing import (
    clipped_parameters,
    make_optimizer,
    moving_average,
    parameter_groups,
    schedule,
)
from autocompress.training.settings import Progress, TrainResult, TrainSettings
from autocompress.training.taps import Features, tapped

CHECKED_EVERY = 50
"""Steps between two checks of the loss on CUDA."""
log = logging.getLogger("autocompress")


class Training:
    """A training that can stop after any epoch and continue later with the same result.

    The schedules of the learning rate and of all callbacks cover ``settings.epochs``, even if the
    training is interrupted.

    Args:
        model: trained in place; moved to the device of ``compute``.
        split: the training images.
        settings: settings of the training.
        teacher: gives targets if ``settings.distill`` > 0, and features to callbacks.
        callbacks: callbacks of all methods that were applied.
        compute: where and how torch computes; if it is None, ``device`` is used.
        device: where torch computes if ``compute`` is None; None for the device of the model.
        seed: random seed of order, augmentation and dropout.
        progress: called with the finished fraction and a text.
        pause: called between batches; may wait for a measurement on this machine.
        freeze_batch_norm: running statistics are not changed.
        soft_targets: stored targets, which replace those of the teacher.
        labelled: False: the labels have no meaning, so only teacher or stored targets are used.
        checkpoint: checkpoint of the training. If its file exists, the first run continues from it.
            The caller deletes it when the result is stored.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        settings: TrainSettings,
        *,
        teacher: nn.Module | None = None,
        callbacks: Sequence[Callback] = (),
        compute: Compute | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        pause: Callable[[], None] | None = None,
        freeze_batch_norm: bool = False,
        soft_targets: SoftTargets | None = None,
        labelled: bool = True,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        if not labelled and teacher is None and soft_targets is None:
            raise ValueError("without labels, a teacher or soft targets are needed")
        self.compute = compute or Compute.on(device_of(model) if device is None else device)
        self.device = self.compute.device
        self.model = model.to(self.device)
        self.split, self.settings, self.callbacks, self.seed = split, settings, list(callbacks), seed
        self._taps = list(dict.fromkeys(name for callback in self.callbacks for name in callback.taps()))
        self.teacher = teacher.to(self.device).eval() if teacher is not None else None
        self.progress, self.pause, self.freeze_batch_norm = progress, pause, freeze_batch_norm
        self.soft_targets, self.labelled = soft_targets, labelled
        self._are_probabilities = soft_targets is not None and soft_targets.are_probabilities
        if self.compute.channels_last:
            to_memory_format(model, torch.channels_last)
        self.steps_per_epoch = max(len(self._loader(0)), 1)
        wanted = max(round(settings.epochs * self.steps_per_epoch), settings.least_steps, int(settings.epochs > 0))
        self.total_steps = wanted if len(split) else 0
        self.step = 0
        self.loss = float("nan")
        self._ended = False
        for callback in self.callbacks:
            callback.on_start(model, self.total_steps)
        groups = parameter_groups(model, self.callbacks, settings.lr, settings.weight_decay)
        self.optimizer = make_optimizer(settings.optimizer, groups, settings.lr)
        self._lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._factor = schedule(settings.schedule, self.total_steps)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model) if self.compute.compile else model
        scales = self.compute.half is torch.float16
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
        self._parts = settings.accumulate
        self._average = moving_average(model, settings.ema) if settings.ema else None
        self._checkpoint = checkpoint
        self._losses: list[torch.Tensor] = []
        self._random: list[torch.Tensor] | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps were made."""
        return self.step >= self.total_steps

    @property
    def epoch(self) -> int:
        """The next epoch, from 0."""
        return self.step // self.steps_per_epoch

    def run(self, until: int | None = None) -> TrainResult:
        """Trains until epoch ``until`` (None: to the end).

        Raises:
            TrialFailed: if the loss is not a finite number.
        """
        if self._checkpoint is not None and not self.step:
            self._checkpoint.restore(self)
        started, first = time.monotonic(), self.step
        while not self.finished and (until is None or self.epoch < until):
            self._run_epoch(self.epoch)
        if self.finished and not self._ended:
            self._ended = True
            if self._average is not None:
                self.model.load_state_dict(self._average.module.state_dict())
            for callback in self.callbacks:
                callback.on_end(self.model)
            if self.compute.channels_last:  # later stages get the same network, with or without channels_last
                to_memory_format(self.model, torch.contiguous_format)
        return TrainResult(self.step - first, self.loss, time.monotonic() - started)

    def draw_from(self, split: Split, soft_targets: SoftTargets | None) -> None:
        """Trains on ``split`` and its ``soft_targets`` from the next epoch on.

        An epoch keeps its number of steps, so that schedules do not change. With a larger split,
        each epoch uses another random part of it.
        """
        self.split, self.soft_targets = split, soft_targets
        self._are_probabilities = soft_targets is not None and soft_targets.are_probabilities

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for :meth:`load_state_dict`, without the state of the model."""
        average = {} if self._average is None else {"average": self._average.state_dict()}
        return {
            **average,
            "step": self.step,
            "parts": self._parts,
            "loss": self.loss,
            "ended": self._ended,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the result of :meth:`state_dict`."""
        self.step, self.loss, self._ended = state["step"], state["loss"], state["ended"]
        self._parts = state["parts"]
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        laid_out_as_parameters(self.optimizer)
        self._scaler.load_state_dict(state["scaler"])
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(own)

    def checkpoint(self) -> dict[str, Any]:
        """All values for continuing between two steps.

        These are :meth:`state_dict`, the state of the model, random numbers, and the losses of the
        epoch.
        """
        losses = torch.stack(self._losses) if self._losses else torch.zeros(0)
        random = self._random_state()
        return {**self.state_dict(), "model": self.model.state_dict(), "losses": losses, "random": random}

    def load_checkpoint(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`checkpoint`.

        Raises:
            KeyError, ValueError, RuntimeError: if it is of another training. Nothing is changed
                then.
        """
        before = copy.deepcopy((self.model.state_dict(), self.state_dict()))
        try:
            self.model.load_state_dict(state["model"])
            self.load_state_dict(state)
            self._losses = list(state["losses"].to(self.device))
            self._random = list(state["random"]) if self.step % self.steps_per_epoch else None
        except Exception:
            self.model.load_state_dict(before[0])
            self.load_state_dict(before[1])
            raise

    def _random_state(self) -> list[torch.Tensor]:
        own = [torch.get_rng_state()]
        return [*own, torch.cuda.get_rng_state(self.device)] if self.compute.is_cuda else own

    def _take_up_random(self) -> None:
        """Restores the states of random generators from a checkpoint."""
        state, self._random = self._random, None
        if state is not None:
            torch.set_rng_state(state[0])
            if self.compute.is_cuda:
                torch.cuda.set_rng_state(state[1], self.device)

    def _loader(self, epoch: int) -> Loader[Split]:
        # Labels are replaced by positions, by which soft targets are found.
        numbered = self.split.relabelled(torch.arange(len(self.split)))
        size = min(self.settings.batch_size * self.settings.accumulate, max(len(self.split), 1))
        seed = (self.seed * 1_000_003 + epoch) % 2**63
        augment = self.settings.augment and self.split.task.augments
        return numbered.loader(size, shuffle=True, seed=seed, augment=augment, drop_last=True)

    def _run_epoch(self, epoch: int) -> None:
        self.model.train()
        if self.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, BatchNormBase):
                    module.eval()
        labels = self.split.labels()
        done = self.step % self.steps_per_epoch  # more than 0 if a checkpoint within this epoch was loaded
        mixes = self.labelled and self.soft_targets is None and self.settings.augment
        mixing = Mixing.of(self.split, self.seed) if mixes else None
        random = torch.random.fork_rng(devices=self.compute.random_devices)
        with random, tapped(self.model, self.teacher, self._taps) as features:
            torch.manual_seed((self.seed * 7_919 + epoch) % 2**63)
            for images, positions in islice(self._loader(epoch).on(self.device, done), self.steps_per_epoch - done):
                if self.finished:
                    break
                self._take_up_random()
                wanted = labels[positions]
                if mixing is not None:
                    images, wanted = mixing(images, wanted, self.step)
                elif self.labelled and self.settings.augment:
                    images, wanted = self._augmented(images, wanted)
                self._losses.append(self._run_step(images, positions, wanted, features))
                if self.progress is not None:
                    self.progress(self.step / self.total_steps, f"epoch {epoch + 1}")
                if self._checkpoint is not None and self.step % self.steps_per_epoch:
                    self._checkpoint.offer(self)
                if self.pause is not None:
                    self.pause()
        self.loss = float(torch.stack(self._losses).mean())
        self._losses = []
        _check_finite(self.loss, self.step)
        for callback in self.callbacks:
            callback.on_epoch_end(self.model, epoch)
        if self._checkpoint is not None and not self.finished:
            self._checkpoint.offer(self)

    def _augmented(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels, changed together by the task."""
        generator = torch.Generator().manual_seed((self.seed * 104_729 + self.step) % 2**63)
        return self.split.task.augmented(images, labels, generator)

    def _run_step(
        self, images: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, features: Features
    ) -> torch.Tensor:
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr * self._factor(self.step)
        for callback in self.callbacks:
            callback.before_step(self.model, self.step)
        loss = self._add_up_gradients(images, positions, labels, features)
        # On CUDA, reading the loss waits for all pending kernels.
        if not self.compute.is_cuda or self.step % CHECKED_EVERY == CHECKED_EVERY - 1:
            _check_finite(float(loss), self.step)
        self._scaler.unscale_(self.optimizer)
        for callback in self.callbacks:
            callback.after_backward(self.model, self.optimizer, self.step)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(clipped_parameters(self.model, self.optimizer), self.settings.clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.model)
        self.step += 1
        return loss

    def _add_up_gradients(
        self, images: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, features: Features
    ) -> torch.Tensor:
        """Adds up the gradients of a batch, in smaller parts if memory does not suffice.

        Returns:
            The mean loss of the batch.

        Raises:
            TooLittleMemory: if the smallest part is too large.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = torch.zeros((), device=self.device)
                for some in _parts(self._parts_of(len(images)), images, positions, labels):
                    share = len(some[0]) / len(images)
                    part = self._loss(*some, features)
                    self._scaler.scale(part * share).backward()
                    loss += part.detach() * share
                return loss
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                fault = str(error).partition("\n")[0]
            # Outside the handler, because a traceback would keep the tensors of the failed part in
            # memory.
            self._halve(len(images), fault)

    def _parts_of(self, count: int) -> int:
        """Number of parts for a batch of ``count`` images, none smaller than allowed."""
        return min(self._parts, max(count // self._least_of_a_part, 1))

    @property
    def _least_of_a_part(self) -> int:
        """Minimum number of images of a part: batch norm needs more than one value."""
        return 2 if any(isinstance(module, BatchNormBase) for module in self.model.modules()) else 1

    def _halve(self, count: int, fault: str) -> None:
        """Computes a batch of ``count`` images in twice as many parts from now on."""
        give_memory_back()
        least, parts = self._least_of_a_part, 2 * self._parts_of(count)
        if count // parts < least:
            images = f"{least} images" if least > 1 else "one image"
            raise TooLittleMemory(f"there is too little memory to train on {images} at a time: {fault}")
        self._parts = parts
        log.warning("too little memory for %d images at a time; batches are computed in %d parts", count, self._parts)

    def _loss(
        self, images: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, features: Features
    ) -> torch.Tensor:
        """The loss of some images, scalar, with that of all callbacks."""
        form = torch.channels_last if self.compute.channels_last else torch.preserve_format
        images = images.to(self.device, non_blocking=True, memory_format=form)
        with self.compute.autocast():
            answers = self._answers(images, positions)
            outputs = self._forward(images)
        hard = labels.to(self.device) if self.labelled else None
        weight, smoothing = self.settings.distill, self.settings.label_smoothing
        loss = distillation(outputs.float(), hard, answers, weight, smoothing, self.split.task)
        for callback in self.callbacks:
            extra = callback.loss(features.student, features.teacher)
            loss = loss if extra is None else loss + extra
        return loss

    @torch.no_grad()
    def _answers(self, images: torch.Tensor, positions: torch.Tensor) -> Answers | None:
        """The targets besides the labels; runs the teacher if its outputs are needed."""
        temperature = self.settings.temperature
        wanted = self.settings.distill > 0 or not self.labelled
        found: torch.Tensor | None = None
        if self.teacher is not None and (self._taps or (wanted and self.soft_targets is None)):
            found = self.teacher(images)
        if not wanted:
            return None
        if self.soft_targets is not None:
            found = self.soft_targets.values[positions].to(self.device).float()
            if self._are_probabilities:
                return Answers(found.clamp_min(1e-8).log(), self.soft_targets.temperature)
        return None if found is None else answers_of(found, temperature, self.split.task)


def _parts(
    count: int, images: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """A batch in ``count`` parts of about equal length."""
    return zip(*(tensor.tensor_split(count) for tensor in (images, positions, labels)), strict=True)


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrialFailed(f"the training loss is {loss} at step {step}")
