"""Every key of a job file and of a budget file has a description."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from autocompress.checking.limits import Limits
from autocompress.job import Bound, Job


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """``model`` and the sections inside it."""
    yield model
    for field in model.model_fields.values():
        inside = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [one for one in inside if isinstance(one, type) and one is not Bound and issubclass(one, BaseModel)]
        yield from (section for one in inner for section in sections(one))


@pytest.mark.parametrize("file", [Job, Limits])
def test_every_key_has_a_description(file: type[BaseModel]) -> None:
    found = list(sections(file))
    assert len(found) > 5
    silent = [
        f"{one.__name__}.{name}" for one in found for name, field in one.model_fields.items() if not field.description
    ]
    assert silent == []


def test_the_json_schema_of_a_job_has_them() -> None:
    schema = Job.model_json_schema()
    assert schema["properties"]["workers"]["description"] == "Trials that run at the same time."
