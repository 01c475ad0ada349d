"""Accuracy of exported files, for every device."""

from autocompress.scoring.scorer import Scorer, images_between_pauses, worker_threads

__all__ = ["Scorer", "images_between_pauses", "worker_threads"]
