"""Recognises the out-of-memory errors of all libraries."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from autocompress.errors import UserError

_IN_WORDS = re.compile(
    r"can't allocate memory|out of memory|bad[_ ]alloc|failed to allocate memory|storage size calculation overflowed",
    re.IGNORECASE,
)
"""The messages of torch (CPU, CUDA), C++ and ONNX Runtime."""
_HINT = "lower input_size, or the batch"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory could not be allocated."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or bool(_IN_WORDS.search(str(error)))


@contextmanager
def out_of_memory_told(what: str = "this job", hint: str = _HINT) -> Iterator[None]:
    """Turns an out-of-memory error of any library into a UserError.

    Args:
        what: the work that needs the memory.
        hint: how to correct it.

    Raises:
        UserError: in the place of such an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        text = str(error).strip().splitlines()[0][-200:] if str(error).strip() else type(error).__name__
        raise UserError(f"there is not enough memory for {what}: {text}", hint) from error
