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
def told(device: Device) -> Iterator[None]:
    """Turns an error of ``device``, other than lack of memory, into a UserError that names it.

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
        name, what = f"the device '{device.name}'", raised(error)
        if isinstance(error, TrialFailed):
            what = f"{name} could not measure: {error}"
        elif "device '" not in what:  # it raised nothing itself
            what = f"{name} could not be used: {what}"
        raise UserError(what, HINT) from error
