"""What a plugin author reads and imports: hooks, the three kinds of method, and what the engine gives them."""

from autocompress.contract.callback import Callback
from autocompress.contract.context import Context, TransferSet
from autocompress.contract.device import Deployable, Device, Measurement, OperatorCount
from autocompress.contract.hookspecs import hookimpl
from autocompress.contract.layers import LayerSpec
from autocompress.contract.manager import Manager, manager
from autocompress.contract.methods import DataSource, Method, Params, Plan, Quantizer, Stage, Transform
from autocompress.contract.space import Parameter, Space, Value
from autocompress.contract.tensors import FakeQuantizer, Grid, Hardened, TensorSpec

__all__ = [
    "Callback",
    "Context",
    "DataSource",
    "Deployable",
    "Device",
    "FakeQuantizer",
    "Grid",
    "Hardened",
    "LayerSpec",
    "Manager",
    "Measurement",
    "Method",
    "OperatorCount",
    "Parameter",
    "Params",
    "Plan",
    "Quantizer",
    "Space",
    "Stage",
    "TensorSpec",
    "TransferSet",
    "Transform",
    "Value",
    "hookimpl",
    "manager",
]
