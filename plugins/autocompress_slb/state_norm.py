"""State batch normalisation: a batch norm has statistics for continuous and for discrete weights.

Training uses continuous weights W_c, so the input of a norm is ``y_c = conv(W_c, x)``. The deployed
network has discrete weights W_q, so the input is ``y_q = conv(W_q, x)``, with other means and
variances. Each of these two states has its own statistics. gamma and beta are shared, and only the
continuous state trains them:

    s_c = gamma (y_c - mu_c) / sqrt(var_c + eps) + beta
    s_q = gamma (y_q - mu_q) / sqrt(var_q + eps) + beta

The paper gets ``mu_q`` and ``var_q`` from a second forward pass of every batch, with discrete
weights (``two_statistics``). The released recipe gets them from occasional passes over calibration
images (``calibrate``). In both ways, all searched layers are discrete at once, so that a norm has
the same inputs as after deployment.

All layers behind a discrete weight have other inputs. So all norms behind the first searched layer
need two sets of statistics, not only those directly behind searched layers (``norms_behind``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import fx, nn

from autocompress.compat.torch import BatchNormBase

State = Literal["continuous", "discrete"]


class _StateBatchNorm(BatchNormBase):
    """A batch norm with two sets of statistics that share one gamma and one beta.

    Its running statistics are those of the discrete state, which eval mode uses. The running
    statistics of the continuous state are not in the state dict, because no forward pass uses them:
    training uses those of the batch.

    In training, ``state`` says which statistics the batch belongs to: "continuous" or "discrete". A
    discrete batch has no gradient if the caller runs it under ``torch.no_grad``. In the hard tail,
    both states are the same, and discrete batches train gamma and beta.
    """

    continuous_mean: torch.Tensor
    continuous_var: torch.Tensor

    @classmethod
    def of(cls, norm: BatchNormBase) -> _StateBatchNorm:
        """Returns a state batch norm that shares the parameters and statistics of ``norm``."""
        twin = cls.__new__(cls)
        twin.__dict__ = {key: value.copy() if isinstance(value, dict) else value for key, value in vars(norm).items()}
        twin.register_buffer("continuous_mean", cast(torch.Tensor, norm.running_mean).clone(), persistent=False)
        twin.register_buffer("continuous_var", cast(torch.Tensor, norm.running_var).clone(), persistent=False)
        return twin

    state: State = "continuous"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.state == "discrete":
            return super().forward(x)
        self._check_input_dim(x)
        momentum = 0.1 if self.momentum is None else self.momentum
        return nn.functional.batch_norm(
            x, self.continuous_mean, self.continuous_var, self.weight, self.bias, True, momentum, self.eps
        )


class StateBatchNorm1d(_StateBatchNorm, nn.BatchNorm1d):
    """A state batch norm for inputs of shape ``(N, C)`` or ``(N, C, L)``."""


class StateBatchNorm2d(_StateBatchNorm, nn.BatchNorm2d):
    """A state batch norm for inputs of shape ``(N, C, H, W)``."""


def state_batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> _StateBatchNorm:
    """Returns the state batch norm that replaces ``norm`` and shares its tensors."""
    return (StateBatchNorm1d if isinstance(norm, nn.BatchNorm1d) else StateBatchNorm2d).of(norm)


def norms_behind(model: nn.Module, layers: Collection[str]) -> list[str]:
    """Returns the names of the batch norms whose inputs depend on weights of ``layers``.

    These are the norms directly behind ``layers`` and all that follow. They are found in the graph
    of a traced network. For other networks, all batch norms are returned.
    """
    norms = [name for name, module in model.named_modules() if isinstance(module, BatchNormBase)]
    if not isinstance(model, fx.GraphModule):
        return norms
    reached: set[fx.Node] = set()
    touched: list[str] = []
    for node in model.graph.nodes:
        if node.target in layers or any(source in reached for source in node.all_input_nodes):
            reached.add(node)
            touched += [str(node.target)] if node.op == "call_module" else []
    return [name for name in norms if any(name == target or name.startswith(f"{target}.") for target in touched)]


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def calibrate(model: nn.Module, norms: Iterable[BatchNormBase], batches: Iterable[torch.Tensor]) -> None:
    """Sets the statistics of ``norms`` to those of ``batches``, images ``(N, C, H, W)``.

    The rest of ``model`` is in eval mode, so weights are discrete. Statistics are averages of means
    and variances over batches. Parameters are not changed.
    """
    norms, batches = list(norms), iter(batches)
    first = next(batches, None)
    if first is None or not norms:
        return
    momenta = [norm.momentum for norm in norms]
    states = [getattr(norm, "state", None) for norm in norms]
    with _restored(model):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all batches, each with equal weight
            norm.training = True
            if isinstance(norm, _StateBatchNorm):
                norm.state = "discrete"
        try:
            model(first)
            for images in batches:
                model(images)
        finally:
            for norm, momentum, state in zip(norms, momenta, states, strict=True):
                norm.momentum = momentum
                if isinstance(norm, _StateBatchNorm):
                    norm.state = cast(State, state)
