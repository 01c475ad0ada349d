"""Torch model to ONNX file, and the checks that both agree."""

from autocompress.export.check import (
    AGREEMENT_IMAGES,
    LEAST_AGREEMENT,
    Agreement,
    check_agreement,
    custom_operators,
    integer_bytes,
    open_session,
    operator_histogram,
)
from autocompress.export.crop import TapCrop, cropped, tap_crop
from autocompress.export.exporter import INPUT, OPSET, OUTPUT
from autocompress.export.onnx_file import export

__all__ = [
    "AGREEMENT_IMAGES",
    "INPUT",
    "LEAST_AGREEMENT",
    "OPSET",
    "OUTPUT",
    "Agreement",
    "TapCrop",
    "check_agreement",
    "cropped",
    "custom_operators",
    "export",
    "integer_bytes",
    "open_session",
    "operator_histogram",
    "tap_crop",
]
