"""Names of the files of a study. Workers need them, but not Optuna."""

from __future__ import annotations

STUDY_FILE = "study.journal"
NAME_FILE = "study.json"
"""The file with the name of a study that a server keeps."""
