"""The task of a job, as a reference that splits, models and other processes carry."""

from __future__ import annotations

from autocompress.job import Job, TaskConfig
from autocompress.task import TaskRef


def task_of(asked: Job | TaskConfig) -> TaskRef:
    """What the network of a job is for; also for the section alone."""
    named = (asked.task if isinstance(asked, Job) else asked).anchored
    return TaskRef.of(named.name, named.options)
