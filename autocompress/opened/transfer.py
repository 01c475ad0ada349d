"""The user's own data as the recipe's data source."""

from __future__ import annotations

from autocompress.contract import TransferSet
from autocompress.data import Splits

CALIBRATION_IMAGES = 1024
"""The most that a quantizer may look at; each takes as many of these as its parameters say."""


def user_data(splits: Splits, seed: int) -> TransferSet:
    """Train split to recover on, a fixed part of it to calibrate on.

    Validation and test stay unseen by methods.
    """
    calibration = splits.train.subset(min(CALIBRATION_IMAGES, len(splits.train)), seed)
    labelled = not splits.unlabelled
    return TransferSet(splits.train, calibration, splits.train.digest, labelled=labelled)
