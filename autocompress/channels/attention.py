"""Whole attention heads as channels, for timm's attention blocks that work with fewer heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from timm.layers import Attention, AttentionRope
from timm.models import efficientformer, hiera, levit, maxxvit, mvitv2, swin_transformer, tiny_vit, tnt, visformer
from timm.models import vision_transformer_sam as sam
from torch import nn

from autocompress.contract.coupling import Index, Part

MARKS = ("ScaledDotProduct", "Bmm")
"""Names of autograd nodes that only attention has: products of activations."""
_WRITERS = ("qkv", "qk", "q", "kv", "k", "v", "wq", "wk", "wv", "q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Heads:
    """The layers, parameters and attributes of an attention block that depend on its heads.

    Attributes:
        writers: paths in the block of the layers that write queries, keys and values, each with the
            number of tensors in its outputs: rows are ``[tensors, heads, width]``. If each head has
            its tensors next to each other (``[heads, width]``), the number is 1.
        norms: paths of batch norms, each with the writer before it.
        reader: path of the layer that reads the heads, as ``[heads, width]``.
        parameters: paths of parameters with an entry for each head, and the dimension of these.
        count: attribute with the number of heads.
        widths: attributes that hold the number of inputs of the reader.
        whole: submodules that must be ``nn.Identity`` or missing, because otherwise they mix heads
            or have weights for them in an unknown order.
    """

    writers: Mapping[str, int]
    reader: str = "proj"
    norms: Mapping[str, str] | None = None
    parameters: Mapping[str, int] | None = None
    count: str = "num_heads"
    widths: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


_QKV = {"qkv": 3}
_TABLE = {"relative_position_bias_table": 1}
_BIASES = {"attention_biases": 0}
_ROWS = {"qkv": 1}
KNOWN: dict[type[nn.Module], Heads] = {
    Attention: Heads(_QKV, widths=("attn_dim",), whole=("norm", "gate")),
    AttentionRope: Heads(_QKV, widths=("attn_dim",), whole=("norm", "gate")),
    swin_transformer.WindowAttention: Heads(_QKV, parameters=_TABLE),
    visformer.Attention: Heads(_QKV),
    sam.Attention: Heads(_QKV),
    tnt.Attention: Heads({"qk": 2, "v": 1}),
    hiera.MaskUnitAttention: Heads(_QKV, count="heads", widths=("dim_out",)),
    mvitv2.MultiScaleAttention: Heads(_QKV, widths=("dim_out",)),
    efficientformer.Attention: Heads(_ROWS, parameters=_BIASES, widths=("val_attn_dim",)),
    tiny_vit.Attention: Heads(_ROWS, parameters=_BIASES, widths=("out_dim",)),
}


def heads_of(block: nn.Module) -> Heads | None:
    """The heads of ``block``; None unless it is attention that works with fewer heads."""
    known = _levit(block) or _maxxvit(block) or KNOWN.get(type(block))
    if known is None or int(getattr(block, known.count, 0)) < 1:
        return None
    modules = dict(block.named_modules())
    if any(not isinstance(getattr(block, name, None), nn.Identity | None) for name in known.whole):
        return None
    return known if all(name in modules for name in (*known.writers, known.reader)) else None


def _levit(block: nn.Module) -> Heads | None:
    """The heads of LeViT's attention, whose layers have a batch norm behind them, maybe merged."""
    if type(block) is not levit.Attention:
        return None
    if isinstance(block.qkv, nn.Linear):
        return Heads({"qkv": 1}, "proj.ln", parameters=_BIASES, widths=("val_attn_dim",))
    return Heads({"qkv.linear": 1}, "proj.ln.linear", {"qkv.bn": "qkv.linear"}, _BIASES, widths=("val_attn_dim",))


def _maxxvit(block: nn.Module) -> Heads | None:
    """The heads of MaxxViT's attention; None if an MLP computes its relative positions.

    A table of relative positions has the heads in its last dimension. A table in TensorFlow's form,
    with three dimensions, has them in the first one.
    """
    if type(block) not in (maxxvit.Attention2d, maxxvit.AttentionCl):
        return None
    bias: Any = block.rel_pos
    tensors = {"qkv": 1 if block.head_first else 3}
    if bias is None:
        return Heads(tensors)
    table = getattr(bias, "relative_position_bias_table", None)
    if table is None:
        return None
    return Heads(tensors, parameters={"rel_pos.relative_position_bias_table": 0 if table.dim() == 3 else 1})


def is_attention(operators: set[str]) -> bool:
    """Whether channels with these operators between their layers are queries, keys or values."""
    return any(mark in name for name in operators for mark in MARKS)


def all_heads(model: nn.Module) -> dict[str, list[Part]]:
    """The parts of a coupling of heads, by each layer that writes queries, keys or values."""
    found: dict[str, list[Part]] = {}
    for path, block in model.named_modules():
        known = heads_of(block)
        if known is not None:
            parts = list(_parts(path, block, known))
            found |= {part.layer: parts for part in parts if part.side == "out"} if parts else {}
    return found


def _parts(path: str, block: nn.Module, known: Heads) -> Iterator[Part]:
    """The parts of one block, with one channel for each head.

    Empty if the sizes of the block are not those of its class.
    """
    heads = int(getattr(block, known.count))
    layers = {name: _size(block.get_submodule(name), "out") for name in known.writers}
    columns = _size(block.get_submodule(known.reader), "in")
    if columns % heads or any(size % (heads * known.writers[name]) for name, size in layers.items()):
        return
    for name, size in layers.items():
        rows = _rows(heads, known.writers[name], size)
        yield Part(f"{path}.{name}", "out", rows, size)
        for norm, before in (known.norms or {}).items():
            if before == name:
                yield Part(f"{path}.{norm}", "both", rows, size)
    for name, dim in (known.parameters or {}).items():
        yield Part(f"{path}.{name}", "parameter", tuple((head,) for head in range(heads)), heads, dim)
    yield Part(f"{path}.{known.reader}", "in", _rows(heads, 1, columns), columns)


def _rows(heads: int, tensors: int, size: int) -> Index:
    """Indices of each head in ``[tensors, heads, width]``."""
    width = size // (tensors * heads)
    return tuple(
        tuple((tensor * heads + head) * width + i for tensor in range(tensors) for i in range(width))
        for head in range(heads)
    )


def _size(layer: nn.Module, side: str) -> int:
    return int(getattr(layer, f"{side}_channels", getattr(layer, f"{side}_features", 0)))


def unreadable(model: nn.Module, layer: str) -> str:
    """The reason why channels of an unknown kind of attention cannot be removed from ``layer``."""
    owner = _attention_around(model, layer)
    if owner is None:
        return "its channels pass attention whose heads cannot be removed one by one"
    kind = type(model.get_submodule(owner)).__name__
    return f"'{owner}' ({kind}) is attention whose heads cannot be removed one by one"


def _attention_around(model: nn.Module, layer: str) -> str | None:
    """The path of the attention block that holds ``layer``, by its class or by the layer's name."""
    owner = layer
    while owner := owner.rpartition(".")[0]:
        if any(mark in type(model.get_submodule(owner)).__name__ for mark in ("Attention", "Attn")):
            return owner
    owner = layer
    while owner.rpartition(".")[2] in (*_WRITERS, "linear"):
        owner = owner.rpartition(".")[0]
    return None if owner == layer else owner


def set_heads(model: nn.Module, writer: str, heads: int) -> None:
    """Sets the number of heads of the attention block in which ``writer`` writes queries."""
    path = writer
    while heads_of(model.get_submodule(path)) is None:
        path = path.rpartition(".")[0]
    block: Any = model.get_submodule(path)
    known = heads_of(block)
    assert known is not None
    setattr(block, known.count, heads)
    columns = _size(block.get_submodule(known.reader), "in")
    for attribute in known.widths:
        setattr(block, attribute, columns)
    if hasattr(block, "attention_bias_cache"):
        block.attention_bias_cache = {}
    bias = getattr(block, "rel_pos", None)
    if bias is not None:
        _set_bias(bias, heads)


def _set_bias(bias: Any, heads: int) -> None:
    """Updates the shape of a table of relative positions, which timm keeps beside the table."""
    is_first = bias.relative_position_bias_table.dim() == 3
    bias.bias_shape = (heads, *bias.bias_shape[1:]) if is_first else (*bias.bias_shape[:-1], heads)
    if hasattr(bias, "num_heads"):
        bias.num_heads = heads
