"""Runs in NNCF's own environment, where autocompress is not installed.

Quantizes an ONNX file after training.

python in_nncf.py MODEL.onnx IMAGES.npz OUT.onnx PRESET
"""

import sys

import nncf
import numpy as np
import onnx


def main() -> None:
    """IMAGES.npz holds ``images``, float32 ``(N, C, H, W)``, prepared as the model takes them.

    PRESET: "performance" (symmetric activations) or "mixed" (asymmetric ones)."""
    source, images, out, preset = sys.argv[1:]
    model = onnx.load(source)
    name = model.graph.input[0].name
    batches = np.load(images)["images"]
    data = nncf.Dataset([{name: image[None]} for image in batches])
    quantized = nncf.quantize(
        model, data, preset=nncf.QuantizationPreset(preset), subset_size=len(batches), fast_bias_correction=True
    )
    onnx.save(quantized, out)
    print(nncf.__version__)


if __name__ == "__main__":
    main()
