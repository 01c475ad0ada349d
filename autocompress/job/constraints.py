"""The section ``constraints`` of a job: upper bounds on quantities of a model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer, create_model

from autocompress.job.section import Section
from autocompress.objectives.quantities import BOUNDED, BY_NAME
from autocompress.objectives.spelling import Bound, parse_bound, positive, spell_bound


def _bound(quantity: str) -> Any:
    """The type of a bound: in the units of ``quantity``, or a number of percentage points."""
    if not BY_NAME[quantity].units:
        text = f"Upper bound on the {BY_NAME[quantity].short} against the baseline, in percentage points."
        return (float | None, Field(default=None, ge=0, le=100, description=text))
    kind = Annotated[
        Bound | None,
        BeforeValidator(partial(parse_bound, quantity)),
        AfterValidator(positive),
        PlainSerializer(partial(spell_bound, quantity), when_used="json"),
    ]
    text = f"Upper bound on the {BY_NAME[quantity].short}: a ratio to the baseline (``0.5x``) or an amount"
    return (kind, Field(default=None, description=f"{text} (``{BY_NAME[quantity].example}``)."))


class _Constraints(Section):
    """Upper bounds that a candidate must meet.

    ``accuracy_drop`` is a number of percentage points; the others are ratios to the baseline or
    amounts.
    """

    # The subclass is made by ``create_model`` and has no source. pydantic would look for one in
    # every frame of the stack, which takes time.
    model_config = ConfigDict(use_attribute_docstrings=False)

    def bounds(self) -> dict[str, Bound]:
        """The bounds on costs that are set, by quantity (without ``accuracy_drop``)."""
        return {name: bound for name, bound in self.all_bounds().items() if BY_NAME[name].units}

    def all_bounds(self) -> dict[str, Bound]:
        """All bounds that are set, by quantity."""
        given = {name: getattr(self, name) for name in BOUNDED}
        return {
            name: bound if isinstance(bound, Bound) else Bound(value=float(bound), relative=False)
            for name, bound in given.items()
            if bound is not None
        }


if TYPE_CHECKING:

    class Constraints(_Constraints):
        """See :class:`_Constraints`."""

else:
    Constraints = create_model(
        "Constraints",
        __base__=_Constraints,
        __module__=__name__,
        __doc__=_Constraints.__doc__,
        **{name: _bound(name) for name in BOUNDED},
    )
