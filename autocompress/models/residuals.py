"""Initialisation for training from random weights: residual branches start with output zero."""

from __future__ import annotations

import torch
from torch import fx, nn

from autocompress.graph.kinds import kind, module_of
from autocompress.graph.trace import UntraceableModel, trace


def silence_residual_branches(model: nn.Module) -> list[str]:
    """Zeroes the last batch norm's gamma of each residual branch, in place.

    Every block then starts as its shortcut (Goyal et al., "Accurate, Large Minibatch SGD",
    2017, section 5.1). timm does this for its ResNets. Without it, a MobileNetV2 on small images
    stays at chance for many epochs.

    Returns:
        Names of the norms that were changed; none where the model cannot be traced.
    """
    try:
        nodes = list(trace(model).graph.nodes)
    except UntraceableModel:
        return []
    changed = []
    for node in nodes:
        if kind(node) != "add" or len(node.all_input_nodes) != 2:
            continue
        ends = [end for source in node.all_input_nodes if (end := _ending_norm(source)) is not None]
        # With a projected shortcut both are norms. The model computes the branch first.
        norm = module_of(min(ends, key=nodes.index)) if ends else None
        gamma = getattr(norm, "weight", None)
        if isinstance(gamma, nn.Parameter) and bool(gamma.any()):
            with torch.no_grad():
                gamma.zero_()
            changed.append(str(min(ends, key=nodes.index).target))
    return changed


def _ending_norm(node: fx.Node) -> fx.Node | None:
    """The norm, without an activation in it, that only an addition reads."""
    while kind(node) in ("identity", "dropout") and len(node.users) == 1:
        node = node.all_input_nodes[0]
    if kind(node) != "norm" or len(node.users) != 1:
        return None
    return node if isinstance(getattr(module_of(node), "act", nn.Identity()), nn.Identity) else None
