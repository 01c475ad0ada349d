"""Names a device that fails outside of a trial, where the error ends what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autocompress.contract import Device
from autocompress.contract.raised import raised
from autocompress.errors import TrialFailed, UserError
from autocompress.memory import is_out_of_memory

HINT = "'autocompress check-plugin' finds the mistakes of a device"


@contextmanager
def told(device: Device, *others: Device) -> Iterator[None]:
    """Turns an error of a device, other than lack of memory, into a UserError that names it.

    ``device`` is named if the error names none of these devices.

    Raises:
        UserError: in the place of such an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        is_failure = isinstance(error, TrialFailed)
        what = str(error) if is_failure else raised(error)
        if not any(f"'{own.name}'" in what for own in (device, *others)):
            what = f"the device '{device.name}' could not {'measure' if is_failure else 'be used'}: {what}"
        raise UserError(what, HINT) from error
