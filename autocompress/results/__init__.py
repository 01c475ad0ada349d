"""The files of a run in ``results/<name>/``: columns, tables, and how to read them.

The folder holds ``job.yaml`` (the resolved job), ``trials.csv`` (a row per trial), ``front.csv``
(the front, measured again; its first row is the baseline), ``sensitivity.csv`` (a row per group and
number of bits, where groups had a choice), ``summary.json`` and ``artifacts/<trial>/``. These names
are an interface.

``summary.json``, every key optional::

    hypervolume, seconds: numbers
    trials: {complete, infeasible, failed: counts}
    ended: why the search ended, as text
    cache: {hits, misses}
    images: {train, val, test: counts}
    baseline: a row
    environment: {machine, threads, runtime, ...}
    nearest_miss: a row with "reason", or null
    out_of_reach: constraints that neither the cheapest recipes nor any trial meets, each {quantity,
        bound, nearest, candidate}
    fastest_within_bar: the row of the fastest model that loses at most "points" of accuracy (the
        bound of the job, else 1); it may miss the other constraints; null if there is none. Its
        files are kept.
    preprocessing: [steps from a picture to the input of the network]
    synthetic: in a run without training data {train: {source: images}, classes: count}; where
        candidates were judged by agreement with the baseline also {held_out: images, classes_seen:
        classes that the baseline sees in them}
    unlabelled: in a run with training images without labels {train: count, classes: count}, and
        held_out and classes_seen as above
    plugins: {applied: [names], refused: {name: [reasons]}, broken: {name: reason}}
    neutral: {parameter of a method: its neutral value}
    float_layers: names of layers of the baseline that cannot be quantized
    tap_crop: effect of the tap crop alone on the file of the float baseline: {layers, weights,
        macs: counts; size_ratio, latency_ratio, latency_ratio_low, latency_ratio_high}; empty where
        no tap is left out

    metrics: by trial of the front, what a report shows of its metrics.json (``SHOWN_METRICS``)
    explained: the stages and layers of the recommended model {trial, limit: maximum seconds for
        this, missing: why steps are missing; steps after each stage: [{stage, accuracy,
        accuracy_drop, latency_ratio, latency_ratio_low, latency_ratio_high, size_ratio}];
        layers: [{layer, group, operator, became, weight_bits, activation_bits, computes; and as
        pairs before and after: channels, params, macs, us}]}

``artifacts/<trial>/metrics.json`` may hold ``float_layers`` (layers that compute in float while
others are quantized), ``noisy`` (bool), ``accuracy_of`` (what was scored on validation: "file",
which on a GPU is its torch model, or "torch model" where a standard runtime is slow with the file;
``note`` has the reason), ``tap_crop`` ({layers, weights, macs} that the file leaves out) and 95 %
intervals as ``[low, high]`` in points, paired on the same images: ``accuracy_drop_interval``,
``test_accuracy_drop_interval``.
"""

from __future__ import annotations

from autocompress.results.columns import (
    BASELINE,
    COLUMNS,
    FRONT_COLUMNS,
    INTERRUPTED,
    SENSITIVITY_COLUMNS,
    SHOWN_METRICS,
    STATUSES,
    TABLE_COLUMNS,
    Row,
    frame,
)
from autocompress.results.run import JOB_FILE, MODEL_FILE, SUMMARY_FILE, SearchResult, read
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
    "MODEL_FILE",
    "SENSITIVITY_COLUMNS",
    "SENSITIVITY_FILE",
    "SHOWN_METRICS",
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
