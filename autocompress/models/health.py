"""Checks that a baseline's numbers are finite, before anything is built on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def faulty_tensor(state: Mapping[str, torch.Tensor]) -> str:
    """The fault of the first bad parameter or buffer; empty where all are sound.

    Faults are values that are NaN or infinite, and running variances below 0.

    Args:
        state: of a module, as its ``state_dict`` gives it.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            what = "NaN" if bool(tensor.isnan().any()) else "infinite values"
            return f"'{name}' holds {what}"
        if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            return f"'{name}' holds values below 0, and is a variance"
    return ""
