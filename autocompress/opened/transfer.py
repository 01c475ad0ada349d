"""The transfer set of the images of the user."""

from __future__ import annotations

from autocompress.contract import TransferSet
from autocompress.data import Splits

CALIBRATION_IMAGES = 1024
"""Maximum number of calibration images. Parameters of each quantizer decide how many it uses."""


def user_data(splits: Splits, seed: int) -> TransferSet:
    """The train split for training, and a fixed part of it for calibration.

    Methods never get validation and test images.
    """
    calibration = splits.train.subset(min(CALIBRATION_IMAGES, len(splits.train)), seed)
    labelled = not splits.unlabelled
    return TransferSet(splits.train, calibration, splits.train.digest, labelled=labelled)
