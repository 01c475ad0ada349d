"""digits: the 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autocompress.data.provider import DatasetProvider, Source
from autocompress.data.split import DataInfo, stratified
from autocompress.data.tensors import TensorSplit, measured

SIZE = 32
VAL = TEST = 360


class Digits(DatasetProvider):
    """8x8 images scaled to 32x32, one channel, in stratified splits.

    1,077 to train, 360 to validate and 360 to test.
    """

    name = "digits"

    def load(self, spec: str) -> Source:
        del spec
        from sklearn.datasets import load_digits  # scikit-learn takes a second to import

        data = load_digits()
        small = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
        large = F.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False)
        images = (large * 255).round().to(torch.uint8)
        labels = torch.tensor(data.target, dtype=torch.int64)
        held, train = stratified(labels, VAL + TEST, seed=0)
        among_held, others = stratified(labels[held], TEST, seed=1)
        test, val = held[among_held], held[others]
        info = DataInfo(10, 1, (SIZE, SIZE), (0.5,), (0.5,), tuple("0123456789"))
        info = measured(images[train], info)
        splits = [TensorSplit(images[part], labels[part], info) for part in (train, val, test)]
        return Source(splits[0], splits[1], splits[2], info)
