"""The interface for plugins: hooks, kinds of methods, and the objects that they get."""

from autocompress.contract.callback import Callback
from autocompress.contract.command import Command
from autocompress.contract.context import Context, TransferSet
from autocompress.contract.coupling import Coupling
from autocompress.contract.device import FORMATS, Deployable, Device, LayerTimes, Measurement, OperatorCount
from autocompress.contract.hookspecs import hookimpl
from autocompress.contract.layers import LayerSpec
from autocompress.contract.manager import Manager, manager, manager_for
from autocompress.contract.methods import (
    DataSource,
    Method,
    Params,
    Plan,
    Preparing,
    Pruner,
    Quantizer,
    Stage,
    Transform,
)
from autocompress.contract.placement import PlacementTable
from autocompress.contract.sampler import Sampler
from autocompress.contract.scores import coupling_scores
from autocompress.contract.space import Parameter, Space, Value
from autocompress.contract.tensors import FakeQuantizer, Grid, Hardened, TensorSpec
from autocompress.task import Task

__all__ = [
    "FORMATS",
    "Callback",
    "Command",
    "Context",
    "Coupling",
    "DataSource",
    "Deployable",
    "Device",
    "FakeQuantizer",
    "Grid",
    "Hardened",
    "LayerSpec",
    "LayerTimes",
    "Manager",
    "Measurement",
    "Method",
    "OperatorCount",
    "Parameter",
    "Params",
    "PlacementTable",
    "Plan",
    "Preparing",
    "Pruner",
    "Quantizer",
    "Sampler",
    "Space",
    "Stage",
    "Task",
    "TensorSpec",
    "TransferSet",
    "Transform",
    "Value",
    "coupling_scores",
    "hookimpl",
    "manager",
    "manager_for",
]
