"""The job: what the user asked for, from YAML, keyword arguments or flags.

Imports neither torch nor timm.
"""

from autocompress.job.cluster import AUTO, LOCAL, ClusterConfig
from autocompress.job.constraints import Constraints
from autocompress.job.early import check_names
from autocompress.job.images import AugmentConfig, DataConfig
from autocompress.job.load import SHORTCUTS, load_job
from autocompress.job.modelnames import check_model_name
from autocompress.job.paths import absolute, anchored, below
from autocompress.job.schema import Granularity, Job, Objective, folder_of
from autocompress.job.sections import BaselineConfig, Budget, ComputeConfig, DeviceConfig
from autocompress.job.source import Source
from autocompress.job.spaces import Limits, find_space, limits_of, reject_unmatched, resolved, space_names
from autocompress.job.task import TaskConfig
from autocompress.job.validate import validate, warnings
from autocompress.objectives.spelling import Bound

__all__ = [
    "AUTO",
    "LOCAL",
    "SHORTCUTS",
    "AugmentConfig",
    "BaselineConfig",
    "Bound",
    "Budget",
    "ClusterConfig",
    "ComputeConfig",
    "Constraints",
    "DataConfig",
    "DeviceConfig",
    "Granularity",
    "Job",
    "Limits",
    "Objective",
    "Source",
    "TaskConfig",
    "absolute",
    "anchored",
    "below",
    "check_model_name",
    "check_names",
    "find_space",
    "folder_of",
    "limits_of",
    "load_job",
    "reject_unmatched",
    "resolved",
    "space_names",
    "validate",
    "warnings",
]
