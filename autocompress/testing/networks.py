"""Rules for the networks that a plugin gets, and for those that it returns."""

from __future__ import annotations

import copy

import torch
from torch import nn

from autocompress.testing.rules import ContractViolation, Report, require

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
OTHERWISE_IN_TRAINING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
SAME_DIRECTION = 1 - 1e-6
"""Two weights with a cosine of at least this are multiples of each other."""
LEAST_MOVED = 4
"""The smallest number of weights by which a layer is found again under another name."""
RESCALED = 1e-3
"""A larger relative change of the norm of a weight counts as rescaling."""


def check_untouched(network: nn.Module, original: nn.Module, rule: str) -> None:
    """Checks modes, gradients and hooks of a network that a plugin may only read."""
    is_kept = {
        "it is left in training mode": not any(module.training for module in network.modules()),
        "hooks are left on it; remove each one that you register": _hooks(network) == _hooks(original),
        "requires_grad of a parameter was changed": _trainable(network) == _trainable(original),
        "gradients are left on it: call zero_grad(), or use torch.autograd.grad": _gradients(network)
        <= _gradients(original),
    }
    if broken := [f"{rule}: {text}" for text, holds in is_kept.items() if not holds]:
        raise ContractViolation(*broken)


def check_mode(network: nn.Module, given: nn.Module, rule: str) -> None:
    """Checks that no module is in training mode, if that changes a result.

    It looks at the modules of ``given``, and at new layers that compute differently in training. A
    new convolution may be in training mode.
    """
    types = {name: type(module) for name, module in given.named_modules()}
    training = [
        name or "the model itself"
        for name, module in network.named_modules()
        if module.training and (types.get(name) is type(module) or isinstance(module, OTHERWISE_IN_TRAINING))
    ]
    require(not training, f"{rule}; {', '.join(training[:3])} is in training mode: call eval()")


def check_result(result: nn.Module, model: nn.Module, teacher: nn.Module) -> None:
    """Checks modes, names, gradients, hooks and sharing of a network that a transform returns.

    Args:
        result: as the transform returned it.
        model: the network that was given, as it was before.
        teacher: teacher of the context.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    report = Report()
    report.check(check_mode, result, model, "apply must return a model in eval mode")
    for rule in (_check_gradients, _check_names, _check_scales):
        report.check(rule, result, model)
    report.check(_check_sharing, result, model, teacher)
    report.end()


def _check_gradients(result: nn.Module, model: nn.Module) -> None:
    require(_hooks(result) <= _hooks(model), "apply must not leave hooks on the model that it returns")
    own, given = _trainable(result), _trainable(model)
    # A new bias may be frozen, because a norm behind the layer removes any constant.
    may_be = {name for name, parameter in result.named_parameters() if name not in given and parameter.ndim < 2}
    frozen = [name for name, is_own in own.items() if not is_own and given.get(name, True) and name not in may_be]
    require(
        not frozen,
        f"apply must not freeze parameters; requires_grad is False for {', '.join(frozen[:3])} (constants of a layer "
        "are buffers)",
    )


def _check_names(result: nn.Module, model: nn.Module) -> None:
    """Checks the names of modules: the groups of a recipe are found by them."""
    there = dict(result.named_modules())
    missing = [name for name, module in model.named_modules() if name and any(module.children()) and name not in there]
    require(
        not missing,
        f"apply must keep the names of blocks and stages; {', '.join(missing[:3])} is gone (replace a layer in place, "
        "with model.set_submodule)",
    )
    moved = _moved(result, model)
    require(
        not moved,
        f"apply must keep the names of layers; {', '.join(moved[:3])} (replace a layer in place, with "
        "model.set_submodule, and put no module around a block or a stage)",
    )
    require(type(result) is type(model), "apply must return the model that it was given, changed inside, not a wrapper")


def _moved(result: nn.Module, model: nn.Module) -> list[str]:
    """Layers whose name is gone while another layer has their weight: texts for a message.

    A layer inside of the one that replaced it keeps its name as a prefix.
    """
    there, weights = dict(result.named_modules()), dict(result.named_parameters())
    known = {name for name, _ in model.named_parameters()}
    found = []
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if name in there or not isinstance(weight, torch.Tensor) or weight.numel() < LEAST_MOVED:
            continue
        for other, tensor in weights.items():
            if other in known:
                continue  # this layer kept its name, and may have an equal weight
            if tensor.shape == weight.shape and torch.equal(tensor, weight):
                found.append(f"{name} is now {other.rpartition('.')[0]}")
                break
    return found


def _check_sharing(result: nn.Module, model: nn.Module, teacher: nn.Module) -> None:
    mine = _places(result)
    theirs = set(_places(teacher).values())
    shared = [name for name, place in mine.items() if place in theirs]
    require(
        not shared, f"the result must not share tensors with context.teacher; {', '.join(shared[:3])} does: clone it"
    )
    seen: dict[int, str] = {}
    tied = []
    known = _ties(model)
    for name, place in mine.items():
        if place in seen and (seen[place], name) not in known:
            tied.append(f"{seen[place]} and {name}")
        seen.setdefault(place, name)
    require(not tied, f"two parameters must not share one tensor: {', '.join(tied[:3])}")


def _check_scales(result: nn.Module, model: nn.Module) -> None:
    """Checks that layers which stay in place keep the scale of their weights.

    The norms behind them, and the moments of a later stage, rely on this scale.
    """
    given, layers = dict(model.named_parameters()), dict(model.named_modules())
    rescaled = []
    for name, parameter in result.named_parameters():
        before, layer = given.get(name), name.rpartition(".")[0]
        if before is None or before.shape != parameter.shape or parameter.numel() < 16:
            continue
        if type(result.get_submodule(layer)) is not type(layers.get(layer)):
            continue  # another layer in its place
        one, other = before.detach().double().flatten(), parameter.detach().double().flatten()
        lengths = one.norm(), other.norm()
        if min(lengths) == 0 or torch.equal(one, other):
            continue
        if one @ other / (lengths[0] * lengths[1]) > SAME_DIRECTION and abs(lengths[1] / lengths[0] - 1) > RESCALED:
            rescaled.append(name)
    require(
        not rescaled, f"apply must not rescale weights of layers that it leaves in place: {', '.join(rescaled[:3])}"
    )


def _hooks(network: nn.Module) -> int:
    return sum(len(getattr(module, kind, ())) for module in network.modules() for kind in HOOKS)


def _gradients(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.grad is not None}


def _trainable(network: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in network.named_parameters()}


def _places(network: nn.Module) -> dict[str, int]:
    """The memory address of each tensor of a network, by all names of the tensor."""
    named = network.named_parameters(remove_duplicate=False)
    return {name: parameter.data_ptr() for name, parameter in named if parameter.numel()}


def _ties(model: nn.Module) -> set[tuple[str, str]]:
    """Pairs of names that belong to one tensor."""
    by_place: dict[int, list[str]] = {}
    for name, place in _places(model).items():
        by_place.setdefault(place, []).append(name)
    return {(names[0], other) for names in by_place.values() for other in names[1:]}


def other_weights(model: nn.Module, seed: int = 3) -> nn.Module:
    """A copy of ``model`` with other values in all weights, and other scales of the channels."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1 + 0.5 * torch.randn(parameter.shape, generator=generator))
            scales = torch.randn(parameter.shape[:1], generator=generator).exp()
            parameter.mul_(scales.reshape(-1, *[1] * (parameter.ndim - 1)) if parameter.ndim > 1 else 1)
        for module in changed.modules():
            if isinstance(mean := getattr(module, "running_mean", None), torch.Tensor):
                mean.add_(0.1 * torch.randn(mean.shape, generator=generator))
    return changed
