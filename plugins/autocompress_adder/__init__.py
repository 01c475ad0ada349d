"""AdderNet as a plugin: convolutions that subtract and add instead of multiplying.

Chen et al., CVPR 2020, arXiv 1912.13200.

- ``layer``: the adder convolution; ``exporting``: its form in a file; ``integers``: its integer
  forms.
- ``spec``: the description of these layers for the engine and other methods.
- ``ops`` and ``kernels``: the operator and its kernels.
- ``convert``: chooses convolutions and replaces them.
- ``initialise``: weights from the trained convolutions.
- ``schedule``: by which layers become adders in training.
- ``training``: scaled gradients, schedule and features in training.
- ``method``: the transform with its space.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_adder.layer import AdderConv2d
from autocompress_adder.method import Adder

__all__ = ["Adder", "AdderConv2d"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The transform ``adder``."""
    return [Adder()]
