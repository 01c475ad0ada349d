"""The last layer of a classifier, whose rows represent its classes."""

from __future__ import annotations

import torch
from torch import nn

from autocompress import models


def head_weight(model: nn.Module) -> torch.Tensor:
    """Rows w_k of the layer of logits, ``(K, d)``: a linear layer, or a flattened 1x1 convolution.

    If there are several heads (distilled transformers), it is the first one.

    Raises:
        ValueError: if there is no such layer, with the reason.
    """
    names = models.classifier(model)
    if not names:
        raise ValueError("it has no classifier: its output is features")
    layer = model.get_submodule(names[0])
    if isinstance(layer, nn.Conv2d) and (layer.kernel_size != (1, 1) or layer.groups != 1):
        raise ValueError(f"its last layer '{names[0]}' is a convolution over places or groups")
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ValueError(f"its last layer '{names[0]}' is not linear but a {type(layer).__name__}")
    weight = layer.weight.detach().flatten(1)
    classes = int(models.architecture(model)["num_classes"])
    if classes < 2:
        raise ValueError("it has fewer than two classes, and soft labels need classes that differ")
    if len(weight) != classes:
        raise ValueError(f"its last layer '{names[0]}' has {len(weight)} rows, not one for each of {classes} classes")
    if not torch.isfinite(weight).all():
        raise ValueError(f"the weights of its last layer '{names[0]}' are not finite numbers")
    return weight
