"""What all sections of a job have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a job. It is immutable, and refuses unknown keys and values of other types."""

    # The string below a field is its description: in the JSON schema, and on the site.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
