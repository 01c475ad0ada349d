"""Tasks: what a network is for. A task has the loss, the metric and the comparison of outputs."""

from autocompress.task.checking import check_task
from autocompress.task.classification import Classification
from autocompress.task.multilabel import Multilabel
from autocompress.task.ref import CLASSIFICATION, TaskRef, load_task
from autocompress.task.task import Task

__all__ = [
    "CLASSIFICATION",
    "Classification",
    "Multilabel",
    "Task",
    "TaskRef",
    "check_task",
    "load_task",
]
