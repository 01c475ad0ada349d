"""Describes an exception by the plugin that raised it, and the place in its file."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import FrameType

from autocompress.contract.device import Device
from autocompress.contract.methods import Method
from autocompress.modulefiles import file_name

LONGEST = 300
"""Maximum number of characters of the message of an exception."""


def raised(error: BaseException) -> str:
    """``error`` as one line, with the method or device that raised it, if one did.

    Example: ``the pruner 'p' raised KeyError: 0 (p.py:8, order)``.
    """
    text = one_line(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    found = _innermost(error)
    if found is None:
        return what
    kind = found.kind if isinstance(found, Method) else "device"
    frame = place(error)
    where = "" if frame is None else f" ({file_name(Path(frame.filename))}:{frame.lineno}, {frame.name})"
    return f"the {kind} '{found.name}' raised {what}{where}"


def one_line(error: BaseException) -> str:
    """The message of ``error`` on one line, of at most ``LONGEST`` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def place(error: BaseException) -> traceback.FrameSummary | None:
    """The call that raised ``error``.

    It is the last one in the file of the method or device that raised it, even if that called a
    library. If no method or device did, it is the last of all.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    owned = [number for number, (frame, _) in enumerate(frames) if _owner(frame) is not None]
    if owned:
        file = frames[owned[-1]][0].f_code.co_filename
        frames = [frame for frame in frames[owned[-1] :] if frame[0].f_code.co_filename == file]
    return next(iter(traceback.StackSummary.extract(iter(frames[-1:]))), None)


def _innermost(error: BaseException) -> Method | Device | None:
    """The method or device whose function ran last."""
    owners = [_owner(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((owner for owner in reversed(owners) if owner is not None), None)


def _owner(frame: FrameType) -> Method | Device | None:
    """The method or device of which ``frame`` runs a function."""
    own = frame.f_locals.get("self")
    return own if isinstance(own, Method | Device) else None
