"""Networks for tests whose claims do not depend on the size of the network.

Importing this module adds ``two_blocks`` to timm's models in this process.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import ResNet, test_resnet

TWO_BLOCKS: dict[str, Any] = {"layers": [1, 1, 0, 0], "channels": [16, 24, 24, 24]}
"""Arguments of ``test_resnet`` that leave two of its four blocks, and make them narrow."""
NARROW: dict[str, Any] = {"channels": [32, 48, 64, 96]}
"""Arguments of ``resnet10t`` with all layers and a twentieth of the parameters."""


@register_model
def two_blocks(pretrained: bool = False, **options: Any) -> ResNet:
    """The first half of timm's test_resnet at half its width. A step takes a third of the time."""
    return test_resnet(pretrained, **{**TWO_BLOCKS, **options})
