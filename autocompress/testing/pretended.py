"""A pretended GPU: finds operations on tensors of different devices, on a machine without a GPU.

All tensors are on the processor. Tensors that were moved to ``cuda`` are marked, and so are the
results of operations on them. An operation on both kinds is an error, as it is on a real GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autocompress.compat.torch import BACKWARD_ENGINE
from autocompress.compute import Compute

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MARK = "pretended_gpu"
_Function = Callable[..., Any]
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
"""Operations with index tensors, which may be on the processor."""
_STRICT = ("aten::cat", "aten::stack")
"""Operations that refuse even a number (a tensor without dimensions) of another device."""
_COPIES = (Tensor.__deepcopy__, torch.nn.Parameter.__deepcopy__)
"""Operations with several copies: the second argument has all tensors that are copied."""
_MEMORY = 16 * 2**30


class DeviceMismatch(RuntimeError):
    """One operation has tensors of different devices."""


class PretendedGpu:
    """The pretended GPU, and the mismatches that were found on it.

    Attributes:
        compute: the pretended GPU, in float32; pass it to the code under test.
        mismatches: one text for each mismatch, including errors that the code under test caught.
    """

    def __init__(self) -> None:
        self.compute = Compute(torch.device("cuda"))
        self.mismatches: list[str] = []

    def refuse(self, text: str) -> DeviceMismatch:
        """Notes a mismatch; returns the error to raise."""
        self.mismatches.append(text)
        return DeviceMismatch(text)


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Within this context, the device ``cuda`` can be used, and computes on the processor.

    Raises:
        DeviceMismatch: at an operation on tensors of different devices. At the end of the context,
            it is raised again for an error that was caught.
    """
    found = PretendedGpu()
    with ExitStack() as stack:
        for name, value in _STAND_INS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch.UntypedStorage, "__deepcopy__", _copied))
        names = stack.enter_context(_Names(found))
        stack.enter_context(mock.patch.object(*BACKWARD_ENGINE, names.within(getattr(*BACKWARD_ENGINE))))
        yield found
    if found.mismatches:
        raise DeviceMismatch("; ".join(dict.fromkeys(found.mismatches)))


def is_on_gpu(tensor: Tensor) -> bool:
    """Whether ``tensor`` is on the pretended GPU."""
    return tensor.layout is torch.strided and getattr(tensor.untyped_storage(), MARK, False)


_deepcopy = torch.UntypedStorage.__deepcopy__


def _copied(storage: torch.UntypedStorage, memo: dict[int, Any]) -> torch.UntypedStorage:
    """Marks the copy of a storage as its original: no operation is called for such a copy."""
    copied = _deepcopy(storage, memo)
    setattr(copied, MARK, getattr(storage, MARK, False))
    return copied


def _random_state(_device: Any = None) -> Tensor:
    return torch.zeros(16, dtype=torch.uint8)


_STAND_INS: dict[str, _Function] = {
    "get_rng_state": _random_state,
    "set_rng_state": lambda *_: None,
    "synchronize": lambda *_: None,
    "empty_cache": lambda: None,
    "mem_get_info": lambda *_: (_MEMORY, _MEMORY),
    "is_bf16_supported": lambda **_: False,
    "get_device_name": lambda *_: "a pretended GPU",
}


def _mark(value: Any, on_gpu: bool) -> Any:
    for tensor in _tensors(value):
        setattr(tensor.untyped_storage(), MARK, on_gpu)
    return value


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in ``value`` that have memory of their own."""
    leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.layout is torch.strided and not leaf.is_meta]


class _Moved(torch.autograd.Function):
    """Copies a tensor to the other device, and its gradient back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, on_gpu: bool) -> Tensor:
        ctx.on_gpu = not on_gpu
        return _mark(tensor.clone(), on_gpu)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _mark(grads[0].clone(), ctx.on_gpu), None


class _Operations(TorchDispatchMode):
    """Marks the results of operations, and refuses operands of different devices."""

    def __init__(self, found: PretendedGpu) -> None:
        super().__init__()
        self.found = found
        self.made_on_gpu = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: else torch would load its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        name = func._schema.name
        operands = _tensors((args, kwargs))
        on_gpu = self._on_gpu(name, args, operands) if operands else self.made_on_gpu
        if on_gpu and any(isinstance(leaf, torch.Generator) for leaf in tree_leaves((args, kwargs))):
            raise self.found.refuse(f"{name} draws for the GPU from a generator of the processor")
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if not hasattr(tensor.untyped_storage(), MARK) and name != "aten::set_":
                _mark(tensor, on_gpu)
        return result

    def _on_gpu(self, name: str, args: Sequence[Any], operands: Sequence[Tensor]) -> bool:
        if name == "aten::copy_":
            return is_on_gpu(operands[0])
        if name in _INDEXED:
            values = [*_tensors(args[0]), *_tensors(args[2:])]
            self._check(name, [one for one in operands if is_on_gpu(one)] + values, strict=False)
            return is_on_gpu(operands[0])
        return self._check(name, operands, strict=name in _STRICT)

    def _check(self, name: str, operands: Sequence[Tensor], *, strict: bool) -> bool:
        """Whether the result is on the GPU.

        A number of the processor (a tensor without dimensions) may meet a tensor of the GPU.
        """
        there = [one for one in operands if is_on_gpu(one)]
        here = [one for one in operands if not is_on_gpu(one) and (one.ndim or strict)]
        is_changed = name.endswith("_") and not name.endswith("__")
        if there and (here or (is_changed and not is_on_gpu(operands[0]))):
            shapes = ", ".join(f"{tuple(one.shape)} on {'cuda' if is_on_gpu(one) else 'cpu'}" for one in operands)
            raise self.found.refuse(f"{name} of tensors on different devices: {shapes}")
        return bool(there)


class _Names(TorchFunctionMode):
    """Replaces functions that return the device of a tensor, or move a tensor."""

    def __init__(self, found: PretendedGpu) -> None:
        super().__init__()
        self.found = found
        self.operations = _Operations(found)

    def __enter__(self) -> Any:
        self.operations.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.operations.__exit__(*error)

    def within(self, engine: _Function) -> _Function:
        """``engine`` with this mode active in hooks and backward functions of Python.

        ``engine`` is called from a function of torch, and the mode is not active during such a
        call.
        """

        def run(*args: Any, **kwargs: Any) -> Any:
            TorchFunctionMode.__enter__(self)  # operations act anyway
            try:
                return engine(*args, **kwargs)
            finally:
                TorchFunctionMode.__exit__(self, None, None, None)

        return run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if func in _ANSWERS:
            return _ANSWERS[func](is_on_gpu(args[0]))
        if func in (Tensor.numpy, Tensor.__array__) and is_on_gpu(args[0]):
            raise self.found.refuse("a tensor of the GPU is read by numpy")
        if func is Tensor.to:
            return _to(args[0], *args[1:], **kwargs)
        if func in (Tensor.cpu, Tensor.cuda):
            return _moved(args[0], func is Tensor.cuda)
        if func in _COPIES:
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:
            return self._made(func, args, kwargs)
        with self._making(any(is_on_gpu(one) for one in _tensors((args, kwargs)))):
            return func(*args, **kwargs)

    def _made(self, func: _Function, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of a function with ``device=``."""
        on_gpu = torch.device(kwargs.pop("device")).type == "cuda"
        if on_gpu and kwargs.get("generator") is not None:
            raise self.found.refuse(f"{func.__name__} draws for the GPU from a generator of the processor")
        with self._making(on_gpu):
            result = func(*args, **kwargs)
        return _moved(result, on_gpu) if _tensors((args, kwargs)) else _mark(result, on_gpu)

    @contextmanager
    def _making(self, on_gpu: bool) -> Iterator[None]:
        """Within this context, operations without operands make tensors on the GPU if ``on_gpu``.

        Functions of torch call such operations for tensors of their own.
        """
        before, self.operations.made_on_gpu = self.operations.made_on_gpu, on_gpu
        try:
            yield
        finally:
            self.operations.made_on_gpu = before


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to`` in all its forms."""
    given: Iterable[Any] = (*args, kwargs.pop("device", None), kwargs.pop("other", None))
    kwargs.pop("non_blocking", None)
    on_gpu: bool | None = None
    for value in given:
        if isinstance(value, Tensor):
            on_gpu, kwargs["dtype"] = is_on_gpu(value), value.dtype
        elif isinstance(value, torch.dtype):
            kwargs["dtype"] = value
        elif isinstance(value, str | torch.device):
            on_gpu = torch.device(value).type == "cuda"
    wanted = {name: value for name, value in kwargs.items() if value is not None}
    result = tensor.to(**{"dtype": tensor.dtype, **wanted})
    return result if on_gpu is None else _moved(result, on_gpu)


def _moved(tensor: Tensor, on_gpu: bool) -> Tensor:
    if tensor.is_meta or is_on_gpu(tensor) == on_gpu:
        return tensor
    return _Moved.apply(tensor, on_gpu)


_ANSWERS: dict[Any, Callable[[bool], Any]] = {
    Tensor.device.__get__: lambda on_gpu: GPU if on_gpu else CPU,
    Tensor.is_cuda.__get__: lambda on_gpu: on_gpu,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda on_gpu: not on_gpu,  # type: ignore[attr-defined]
    Tensor.get_device: lambda on_gpu: 0 if on_gpu else -1,
}
