"""timm backbones: creating them, describing them, and dividing them into groups."""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
from autocompress.models.architecture import (
    architecture,
    data_info,
    from_architecture,
    input_size,
    reparameterise,
    stamp,
    task_ref,
)
from autocompress.models.checkpoints import Checkpoint, read_checkpoint
from autocompress.models.creation import create, needs_training
from autocompress.models.forward import trains_on_one_image
from autocompress.models.groups import Group, fixed_groups, group_of, groups
from autocompress.models.health import faulty_tensor
from autocompress.models.parts import classifier, device_of, eligible_convolutions, first_inner_layer, stem
from autocompress.models.preprocessing import preprocessing
from autocompress.models.residuals import silence_residual_branches

__all__ = [
    "Checkpoint",
    "Group",
    "architecture",
    "classifier",
    "create",
    "data_info",
    "device_of",
    "eligible_convolutions",
    "faulty_tensor",
    "first_inner_layer",
    "fixed_groups",
    "from_architecture",
    "group_of",
    "groups",
    "input_size",
    "needs_training",
    "preprocessing",
    "read_checkpoint",
    "reparameterise",
    "silence_residual_branches",
    "stamp",
    "stem",
    "task_ref",
    "trains_on_one_image",
]
