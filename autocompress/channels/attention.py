"""Attention heads as channels of the dependency graph between ``qkv`` and ``proj``."""

from __future__ import annotations

from typing import Any

from torch import nn

from autocompress.contract.coupling import Index, Part

MARKS = ("ScaledDotProduct", "Bmm")
"""Names of autograd nodes that only attention has: products of activations."""
UNREADABLE = "attention that the dependency graph cannot take head by head"


def is_attention(operators: set[str]) -> bool:
    """Whether channels that pass these operators are queries, keys or values."""
    return any(mark in name for name in operators for mark in MARKS)


def head_parts(model: nn.Module, parts: list[Part]) -> list[Part] | None:
    """The parts of a coupling with one channel per head; None unless it is timm's attention.

    ``qkv`` writes rows ``[3, heads, width]``. ``width`` columns of ``proj`` read the output of a
    head.
    """
    writers = [part for part in parts if part.side == "out"]
    readers = [part for part in parts if part.side == "in"]
    if len(parts) != 2 or len(writers) != 1 or len(readers) != 1:
        return None
    owner, _, last = writers[0].layer.rpartition(".")
    if last != "qkv" or readers[0].layer != f"{owner}.proj":
        return None
    block: Any = model.get_submodule(owner)
    heads, width = getattr(block, "num_heads", 0), getattr(block, "head_dim", 0)
    states = isinstance(getattr(block, "attn_dim", None), int)  # its forward reshapes to it
    if not states or not heads * width == readers[0].size == writers[0].size // 3:
        return None
    rows: Index = tuple(
        tuple(third * heads * width + head * width + i for third in range(3) for i in range(width))
        for head in range(heads)
    )
    columns: Index = tuple(tuple(head * width + i for i in range(width)) for head in range(heads))
    return [
        Part(writers[0].layer, "out", rows, writers[0].size),
        Part(readers[0].layer, "in", columns, readers[0].size),
    ]


def set_heads(model: nn.Module, qkv: str, heads: int) -> None:
    """Sets the number of heads of the attention block with the layer ``qkv``."""
    block: Any = model.get_submodule(qkv.rpartition(".")[0])
    block.num_heads = heads
    block.attn_dim = heads * block.head_dim
