"""Checks that the weights of a baseline are finite, before they are used."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def faulty_tensor(state: Mapping[str, torch.Tensor]) -> str:
    """The fault of the first bad parameter or buffer; empty if there is none.

    Faults are values that are NaN or infinite, and running variances below 0.

    Args:
        state: the ``state_dict`` of a module.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            what = "NaN" if bool(tensor.isnan().any()) else "infinite values"
            return f"'{name}' holds {what}"
        if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            return f"'{name}' is a variance and holds values below 0"
    return ""
