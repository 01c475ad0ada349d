"""What a run leaves in ``results/<name>/``: columns, tables, and how to read them.

The folder holds ``job.yaml`` (the job as resolved), ``trials.csv`` (a row a trial), ``front.csv``
(the front, measured again; its first row is the baseline), ``sensitivity.csv`` (a row a group and
width, where groups had a choice of widths), ``summary.json`` and ``artifacts/<trial>/``. Their
names are an interface.

``summary.json``, every key optional::

    hypervolume, seconds: numbers                 trials: {complete, stopped, infeasible, failed:
        counts}
    ended: why the search was over, in words
    cache: {hits, misses}                         images: {train, val, test: counts}
    baseline: a row                               environment: {machine, threads, runtime, ...}
    nearest_miss: a row with "reason", or null
    out_of_reach: constraints that not even the cheapest candidates meet, each {quantity, bound,
        nearest, candidate}
    fastest_within_bar: the row of the fastest model that loses at most "points" of accuracy (the
        job's bound, else 1), whether it meets the other constraints or not; null where there is
        none. Its files are kept.
    preprocessing: [what is done to a picture before the network reads it, step by step]
    synthetic: in a run without training data {train: {source: images}, classes: count}; where
        candidates were judged by agreement with the baseline also {held_out: images, classes_seen:
        classes that the baseline sees in them}
    unlabelled: in a run whose training images have no labels {train: count, classes: count}, and
        held_out and classes_seen as above
    plugins: {applied: [names], refused: {name: [reasons]}, broken: {name: reason}}
    float_layers: names of the baseline's layers that no quantizer here can turn into integers

``artifacts/<trial>/metrics.json`` may hold ``float_layers`` (names of the layers that compute in
float beside others that are quantized), ``noisy`` (bool), ``accuracy_of`` (what was scored on
validation: "file", or "torch model" where a stock runtime is slow with the file, and ``note`` says
why) and 95 % intervals as ``[low, high]`` in points, paired on the same images:
``accuracy_drop_interval``, ``test_accuracy_drop_interval``.
"""

from __future__ import annotations

from autocompress.results.columns import (
    BASELINE,
    COLUMNS,
    FRONT_COLUMNS,
    INTERRUPTED,
    SENSITIVITY_COLUMNS,
    STATUSES,
    TABLE_COLUMNS,
    Row,
    frame,
)
from autocompress.results.run import JOB_FILE, SUMMARY_FILE, SearchResult, read
from autocompress.results.tables import (
    FRONT_FILE,
    SENSITIVITY_FILE,
    TABLES_FILE,
    TRIALS_FILE,
    read_front,
    read_sensitivity,
    read_tables,
    read_trials,
    write_front,
    write_sensitivity,
    write_tables,
    write_trials,
)

__all__ = [
    "BASELINE",
    "COLUMNS",
    "FRONT_COLUMNS",
    "FRONT_FILE",
    "INTERRUPTED",
    "JOB_FILE",
    "SENSITIVITY_COLUMNS",
    "SENSITIVITY_FILE",
    "STATUSES",
    "SUMMARY_FILE",
    "TABLES_FILE",
    "TABLE_COLUMNS",
    "TRIALS_FILE",
    "Row",
    "SearchResult",
    "frame",
    "read",
    "read_front",
    "read_sensitivity",
    "read_tables",
    "read_trials",
    "write_front",
    "write_sensitivity",
    "write_tables",
    "write_trials",
]
