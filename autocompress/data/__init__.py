"""Data sets: what a job's ``data`` names, as three splits that give normalised batches."""

from autocompress.data.guard import Sealed, SealedError, let_go, unsealed
from autocompress.data.opening import builtin_providers, load
from autocompress.data.provider import DatasetProvider, LoadOptions, Source
from autocompress.data.split import Batch, DataInfo, Loader, Scored, Split, Splits, stratified
from autocompress.data.tasks import task_of
from autocompress.data.tensors import TensorSplit

__all__ = [
    "Batch",
    "DataInfo",
    "DatasetProvider",
    "LoadOptions",
    "Loader",
    "Scored",
    "Sealed",
    "SealedError",
    "Source",
    "Split",
    "Splits",
    "TensorSplit",
    "builtin_providers",
    "let_go",
    "load",
    "stratified",
    "task_of",
    "unsealed",
]
