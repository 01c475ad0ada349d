"""The conformance suite: functions for the tests of plugins.

Example::

    from autocompress.testing import check_method

    def test_conforms() -> None:
        check_method(MyTransform())

Each check raises :class:`ContractViolation` with the broken rule as its message.
"""

from autocompress.testing.commands import check_command
from autocompress.testing.datasets import check_dataset
from autocompress.testing.devices import check_device
from autocompress.testing.example import example_context, example_job, example_model
from autocompress.testing.gpu import check_gpu
from autocompress.testing.observers import check_observer
from autocompress.testing.plugins import check_plugin
from autocompress.testing.pretended import DeviceMismatch, is_on_gpu, pretended_gpu
from autocompress.testing.pruners import check_pruner
from autocompress.testing.quantizers import check_quantizer
from autocompress.testing.rules import ContractViolation
from autocompress.testing.samplers import check_sampler
from autocompress.testing.sources import check_source
from autocompress.testing.suite import check_method
from autocompress.testing.tasks import check_task
from autocompress.testing.transforms import check_transform

__all__ = [
    "ContractViolation",
    "DeviceMismatch",
    "check_command",
    "check_dataset",
    "check_device",
    "check_gpu",
    "check_method",
    "check_observer",
    "check_plugin",
    "check_pruner",
    "check_quantizer",
    "check_sampler",
    "check_source",
    "check_task",
    "check_transform",
    "example_context",
    "example_job",
    "example_model",
    "is_on_gpu",
    "pretended_gpu",
]
