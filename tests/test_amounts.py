"""Amounts of work that depend on the available time.

Images of data sources, and of the cells of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count

import pytest
import torch
from torch import nn

from autocompress.compression.bounding import LEAST_IMAGES, LEAST_PASSES, bounded, pass_seconds, shared_out
from autocompress.contract import Context, DataSource, Params, Space, TransferSet
from autocompress.data import DataInfo, TensorSplit
from autocompress.job import load_job
from autocompress.proposals.judging import LEAST_IMAGES as LEAST_FOR_CELLS
from autocompress.proposals.judging import affordable, batch_size, evenly
from autocompress.proposals.tablemaker import table_seconds
from autocompress_deepinversion.method import DeepInversion
from autocompress_deepinversion.settings import defaults_for

WANTED: Params = {"images": 1000, "iterations": 500}
LEAST: Params = {"images": LEAST_IMAGES, "iterations": LEAST_PASSES}


class Pixels(DataSource):
    """A source with the usual parameters. It makes no images."""

    name, version, reference = "pixels", "1", ""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {}

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        raise NotImplementedError


@pytest.mark.parametrize("seconds", [math.inf, 1e5, 1e3, 50.0])
def test_a_set_fits_its_time_and_never_exceeds_the_request(seconds: float) -> None:
    found = bounded(Pixels(), WANTED, 200, seconds, each=0.1)
    assert found.seconds <= seconds or (found.params, found.held_out) == (LEAST, LEAST_IMAGES)
    assert found.seconds == pytest.approx((found.params["images"] + found.held_out) * found.params["iterations"] * 0.1)
    assert found.params["images"] <= 1000
    assert found.held_out <= 200
    assert (found.params == WANTED) == (seconds >= 60000)


def test_a_source_without_iterations_is_not_reduced() -> None:
    noise: Params = {"images": 1000}
    assert bounded(Pixels(), noise, 200, 1.0, each=10.0).params == noise


def test_unused_time_of_cheap_sources_goes_to_the_others() -> None:
    asked: Mapping[str, tuple[DataSource, Params]] = {
        "dear": (Pixels(), {"images": 1000, "iterations": 3000}),
        "cheap": (Pixels(), {"images": 100, "iterations": 100}),
    }
    sharing = shared_out(asked, 100, 1e4, each=0.1)
    assert list(sharing.sets) == ["cheap", "dear"]
    assert sharing.sets["cheap"].params == asked["cheap"][1]
    assert sharing.sets["cheap"].seconds + sharing.sets["dear"].seconds <= 1e4
    assert sharing.seconds["dear"] == pytest.approx(1e4 - sharing.sets["cheap"].seconds)


def test_a_source_that_cannot_fit_is_left_out_unless_it_is_the_cheapest() -> None:
    asked: Mapping[str, tuple[DataSource, Params]] = {
        "dear": (Pixels(), {"images": 1000, "iterations": 3000}),
        "cheap": (Pixels(), {"images": 1000, "iterations": 500}),
    }
    sharing = shared_out(asked, 100, 60.0, each=0.2)
    assert list(sharing.sets) == ["cheap"]
    assert "its share of the time is 0 s" in sharing.left_out["dear"]
    assert list(shared_out(asked, 100, 60.0, each=0.2, stated=["dear"]).sets) == ["cheap", "dear"]


def test_pooled_phases_cost_less_and_stay_within_their_share() -> None:
    method, params = DeepInversion(), {"iterations": 3000, "pooled": True}
    assert method.passes(params) == pytest.approx(2000 / 4 + 1000)
    fewer = method.within(params, 150)
    assert 140 < method.passes(fewer) <= 150
    assert method.within(params, 1e9) == params
    assert defaults_for((3, 224, 224)).pooled


def test_the_first_pass_is_not_timed() -> None:
    ticks = count(step=7)
    seconds = pass_seconds(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2), clock=lambda: next(ticks))
    assert seconds == 7 / 4


def _split(images: int, size: int = 4) -> TensorSplit:
    info = DataInfo(2, 3, (size, size), (0.5,) * 3, (0.5,) * 3, ("a", "b"))
    return TensorSplit(torch.zeros(images, 3, size, size), torch.arange(images) % 2, info)


def test_cells_get_as_many_images_as_there_is_time_for() -> None:
    model, split = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), _split(100)

    def images(seconds: float) -> int:
        ticks = count(step=8)  # a second an image
        return affordable(model, split, 10, seconds, clock=lambda: next(ticks))

    assert images(1e9) == 100
    assert images(6 * 50) == 50
    assert images(1.0) == LEAST_FOR_CELLS


def test_images_of_cells_are_spread_over_the_split() -> None:
    assert evenly(_split(100), 4).labels().tolist() == _split(100).labels()[[0, 33, 66, 99]].tolist()
    assert len(evenly(_split(3), 4)) == 3
    assert batch_size(_split(1, 32)) == 256
    assert batch_size(_split(1, 256)) == 16


@pytest.mark.parametrize(("minutes", "seconds"), [(None, 30), (1, 12), (5, 30), (15, 90), (60, 120)])
def test_tables_take_a_share_of_the_search(minutes: float | None, seconds: float) -> None:
    budget = {} if minutes is None else {"minutes": minutes}
    assert table_seconds(load_job(model="resnet10t", data="digits", budget=budget)) == pytest.approx(seconds)
