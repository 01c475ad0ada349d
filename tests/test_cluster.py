"""Decisions of a search on a cluster, without a cluster: places, probes, refusals, sent files."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import ray
from ray.dashboard.modules.job.common import JobInfoStorageClient
from ray.experimental import internal_kv

from autocompress.cluster import attaching, probing
from autocompress.cluster.admitting import Admission
from autocompress.cluster.handing import handed_out, taken
from autocompress.cluster.nodes import Node, Nodes
from autocompress.cluster.probing import Facts, Question
from autocompress.cluster.resources import check_request, fits, worker_request
from autocompress.cluster.slots import Slots
from autocompress.compat import ray as compat
from autocompress.errors import CannotWork, UserError
from autocompress.files import cache_folder
from autocompress.job import ClusterConfig, load_job
from autocompress.locks.place import machine_id
from autocompress.opened.job import OpenedJob
from autocompress.searching import site
from autocompress.searching import stations as stations_module
from autocompress.searching.measurer import Measurer
from autocompress.searching.stations import Refused, RemoteMeasurer, Sent, Station, rotated, start_stations
from autocompress.store import Store
from autocompress.training import handed

# --- places ---------------------------------------------------------------------------------------


class Known:
    """Stands in for the nodes of a cluster."""

    def __init__(self, *nodes: Node) -> None:
        self.alive = {node.id: node for node in nodes}
        self.facts = dict.fromkeys(self.alive)

    def is_gone(self, node: str) -> bool:
        return node not in self.alive


def node(name: str, **resources: float) -> Node:
    return Node(name, f"host-{name}", {"CPU": 1.0} | resources)


def slots(known: Known, request: Mapping[str, float]) -> Slots:
    return Slots(cast(Nodes, known), cast(Admission, known), request)


def test_workers_go_to_the_nodes_with_most_free_places() -> None:
    known = Known(node("a", CPU=2), node("b", CPU=4))
    places = slots(known, {"CPU": 1.0})
    assert [places.take(str(number)) for number in range(7)] == ["b", "b", "a", "b", "a", "b", None]
    places.free("2")
    assert places.take("again") == "a"
    del known.alive["b"]
    assert places.alive == 2
    assert places.take("more") is None
    del known.facts["a"]
    places.free("again")
    assert places.take("more") is None, "a node that was not probed gets no work"


def test_workers_without_resources_are_spread() -> None:
    places = slots(Known(node("a"), node("b")), {})
    assert {places.take("1"), places.take("2")} == {"a", "b"}


def test_the_resources_of_a_worker() -> None:
    assert worker_request(ClusterConfig(cpus=2), gpu_share=0.5) == {"CPU": 2.0, "GPU": 0.5}
    asked = ClusterConfig.model_validate({"cpus": 0, "gpus": 1, "memory": "2 GB"})
    assert worker_request(asked, gpu_share=0.5) == {"GPU": 1.0, "memory": 2e9}
    assert fits({"CPU": 0.1}, {"CPU": 0.3}) == 3
    assert fits({"GPU": 1.0}, {"CPU": 4.0}) == 0


@pytest.mark.parametrize(
    ("request_", "device_nodes", "sentence"),
    [
        ({"CPU": 1.0}, "board", "no node of the cluster has the resource 'board'"),
        ({"CPU": 9.0}, None, "a worker takes 9 processors, and no node of the cluster has more than 4"),
        ({"GPU": 1.0}, None, "a worker takes 1 GPUs, and no node of the cluster has more than 0 (lower cluster.gpus)"),
        ({"CPU": 4.0, "memory": 8e9}, None, "no node of the cluster has all that a worker takes"),
    ],
)
def test_resources_that_no_node_has_are_refused(
    request_: dict[str, float], device_nodes: str | None, sentence: str
) -> None:
    nodes = [node("a", CPU=4, memory=1e9), node("b", CPU=2, memory=8e9)]
    check_request({"CPU": 4.0}, None, nodes)
    with pytest.raises(UserError) as error:
        check_request(request_, device_nodes, nodes)
    assert sentence in str(error.value)


def test_workers_run_beside_an_entry_point_that_reserved_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    known, free = Known(node("a", GPU=1.0)), {"a": {"GPU": 1.0}}
    monkeypatch.setattr(compat, "available_by_node", lambda: free)

    def relieved() -> dict[str, float]:
        asked = {"CPU": 1.0, "GPU": 0.5}
        return site.relieved(asked, cast(Nodes, known), cast(Admission, known), notes.append)

    monkeypatch.delenv(site.SUBMITTED, raising=False)
    assert relieved() == {"CPU": 1.0, "GPU": 0.5}
    assert notes.pop() == "all processors of the cluster are taken by other jobs; workers start when some are free"
    monkeypatch.setenv(site.SUBMITTED, "{}")
    for entry in (("", 0.0), ("a", 0.0), ("a", 0.5), ("other", 1.0)):  # other jobs have reserved some
        monkeypatch.setattr(compat, "entry_point", lambda _, entry=entry: entry)
        assert relieved() == {"CPU": 1.0, "GPU": 0.5}
        assert "taken by other jobs" in notes.pop()
    monkeypatch.setattr(compat, "entry_point", lambda _: ("a", 1.0))
    assert relieved() == {"GPU": 0.5}
    assert "the entry point of this job has taken all processors" in notes.pop()
    free["a"]["CPU"] = 1.0
    assert relieved() == {"CPU": 1.0, "GPU": 0.5}
    assert notes == []


@pytest.mark.usefixtures("ray_cluster")
def test_the_resources_reserved_by_an_entry_point() -> None:
    config = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "demo"}})
    assert compat.entry_point(config) == ("", 0.0)
    assert compat.entry_point("{}") == ("", 0.0)
    known = json.dumps({"entrypoint_num_cpus": 2, "driver_node_id": "node"})
    internal_kv._internal_kv_put(JobInfoStorageClient.JOB_DATA_KEY.format(job_id="demo"), known, namespace="job")
    assert compat.entry_point(config) == ("node", 2.0)


# --- probes ---------------------------------------------------------------------------------------

OWN = Facts({"python": "3.11.2", "torch": "2.10"}, {"processor": "X", "features": ["avx2"]}, "machine", clock=1000.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"fault": "it does not see /results/demo"}, "it does not see /results/demo"),
        ({"versions": {"python": "3.11.2", "torch": "2.9"}}, "it has torch 2.9, and the driver 2.10"),
        ({"versions": {"python": "3.11.2"}}, "it has no torch, and the driver has 2.10"),
        ({"clock": 1100.0}, "its clock is 100 s off"),
        (
            {"processor": {"processor": "Y", "features": []}},
            "its processor is Y with no known features, the driver's is X with avx2, and their latencies cannot be "
            "compared",
        ),
    ],
)
def test_differences_of_a_node_are_listed(change: dict[str, Any], why: str) -> None:
    assert probing.differences(OWN, replace(OWN, **change), same_processor=True) == why


def test_another_processor_is_accepted_if_no_worker_measures() -> None:
    other = replace(OWN, processor={"processor": "Y"})
    assert probing.differences(OWN, other, same_processor=False) == ""


def test_a_node_lists_the_paths_that_it_cannot_read(tmp_path: Path) -> None:
    nonce = tmp_path / "demo" / "ray" / "nonce"
    question = Question(nonce, "secret", (str(tmp_path),))
    assert probing.answer(question).fault == f"it does not see {tmp_path / 'demo'}"
    nonce.parent.mkdir(parents=True)
    nonce.write_text("other")
    assert probing.answer(question).fault == f"its {tmp_path / 'demo'} is another folder than the driver's"
    nonce.write_text("secret")
    facts = probing.answer(question)
    assert facts.fault == ""
    assert probing.differences(probing.own_facts(), facts, same_processor=True) == ""
    assert probing.answer(replace(question, paths=("/gone",))).fault == "it does not see /gone"
    assert [path.name for path in nonce.parent.iterdir()] == ["nonce"]


def test_a_node_with_an_unwritable_cache_gets_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "nonce").write_text("secret")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", "")
    monkeypatch.delenv("AUTOCOMPRESS_CACHE")
    question = Question(tmp_path / "ray" / "nonce", "secret", (), {"AUTOCOMPRESS_CACHE": str(tmp_path / "cache")})
    assert probing.answer(question).fault == ""
    assert not list((tmp_path / "cache").glob(".*"))

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert probing.answer(question).fault == "its cache folder cannot be written: No space left on device"
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "file"))
    expected = f"the cache folder {tmp_path / 'file'} cannot be written: File exists"
    assert probing.answer(question).fault == expected


def test_a_node_whose_workers_cannot_open_the_job_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    known, notes = Known(node("a"), node("b")), list[str]()
    admission = Admission(cast(Nodes, known), Question(Path("nonce"), ""), notes.append, same_processor=False)
    monkeypatch.setattr(probing, "ask", lambda nodes, _: {one.id: one.id for one in nodes})
    monkeypatch.setattr(probing, "read", lambda reference, wait_s: probing.own_facts())
    admission.begin()
    places = Slots(cast(Nodes, known), admission, {"CPU": 1.0})
    assert admission.refuse("a", "no room")
    assert [places.take("1"), places.take("2")] == ["b", None]
    admission.look()
    assert places.take("2") is None, "it is not probed again"
    assert not admission.refuse("b", "no room")
    assert notes == [f"node host-{name} ({name}) gets no more work: no room" for name in "ab"]


def test_the_paths_that_a_node_must_read(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    job = load_job(
        model="resnet18",
        data={"train": f"folder:{tmp_path}", "val": "torch/cifar10@/gone", "test": "wds/x@https://host/x"},
        checkpoint=tmp_path / "weights.pt",
    )
    assert probing.paths_of(job) == (str(tmp_path), str(tmp_path / "weights.pt"))


# --- connecting -----------------------------------------------------------------------------------


def test_a_missing_cluster_gives_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(compat, "address_of_this_machine", lambda: None)
    with pytest.raises(UserError, match=r"'cluster\.address: auto' finds no Ray cluster"):
        attaching.address_of(ClusterConfig(address="auto"))
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UserError, match="RAY_ADDRESS is ray://head:10001, which is no HOST:PORT"):
        attaching.address_of(ClusterConfig(address="auto"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match=f"no Ray cluster answers at 127.0.0.1:{port}: Connection refused"):
        attaching.check_answers(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (
            "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\nThis has 3.12",
            "the cluster at head:6379 runs other versions than this process: The cluster was started with: Ray: 2.60.0 "
            "Python: 3.11.2 This has 3.12 (install the same versions",
        ),
        (
            "No node info found matching attributes: '198.18.7.1'",
            "this machine is not a node of the cluster at head:6379",
        ),
        ("it is full", "cannot connect to the cluster at head:6379: Failed to connect to Ray cluster"),
    ],
)
def test_a_failed_connection_gives_its_reason_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, cause: str, sentence: str
) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster") from RuntimeError(cause)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(UserError) as error, attaching.attached("head:6379"):
        pass
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_server_of_another_kind_is_no_cluster() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UserError, match="the program that answers there is not the head of a cluster"):
            attaching.check_answers(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


# --- what is handed out ---------------------------------------------------------------------------


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_without_the_baseline_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "driver"))
    settings: dict[str, Any] = {"baseline": {"epochs": 0}, "methods": ["magnitude"], "device": "cost-model:bitops"}
    job = load_job(model="test_resnet", data="digits", **settings)
    opened = OpenedJob.open(job)
    given = handed_out(opened.baseline.deployable.file, opened.prepared)
    assert opened.prepared
    assert given.weights is not None

    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "worker"))
    with taken(given):
        found = handed.given()
        assert found is not None
        assert found.parent == cache_folder("baselines") == tmp_path / "worker" / "baselines"
        assert all(Store().has(key) for key in opened.prepared)
        times = {file: file.stat().st_mtime_ns for file in found.parent.iterdir()}
        other = OpenedJob.open(load_job(model="test_resnet", data="digits", seed=7, **settings))
    assert other.baseline.key == opened.baseline.key, "no other baseline is trained, although the seed differs"
    assert {file: file.stat().st_mtime_ns for file in found.parent.iterdir()} == times
    assert handed.given() is None


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_station_measures_for_workers_on_other_nodes(opened: OpenedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ray.get_runtime_context().get_node_id()
    stations = start_stations(opened.job, opened.device, {machine_id(): here})
    own = Measurer.of(opened.job, opened.device)
    handles = rotated(list(stations.values()), 3)
    remote = RemoteMeasurer(own.device, own.config, own.energy_device, handles, own.measured_with())
    baseline = opened.baseline.deployable
    for _ in range(2):  # the baseline is not sent a second time
        measured = remote.latency(baseline, baseline, seconds=0.2)
        assert 0.5 < measured.latency_ratio < 2
        assert measured.environment["processor"]
    assert remote.measured_with() == own.measured_with()
    ray.kill(handles[0], no_restart=False)
    assert 0.5 < remote.latency(baseline, baseline, seconds=0.2).latency_ratio < 2, "it is started again"
    ray.kill(handles[0])
    monkeypatch.setattr(stations_module, "BACK_WITHIN_S", 0.0)
    with pytest.raises(CannotWork, match="no node with the device answers"):
        remote.once(baseline, baseline, 0.1)


def test_a_station_on_another_kind_of_machine_does_not_measure(opened: OpenedJob) -> None:
    known = Measurer.of(opened.job, opened.device).measured_with()
    assert Station(opened.job, known).check() == []
    moved = Station(opened.job, {**known, "processor": "another one"})
    file = Sent("key", b"", (1, 8, 8), ())
    why = f"its processor is {known['processor']}, the driver's is another one"
    assert moved.check() == [why]
    assert moved.measure(file, file, 0.1) == Refused(why)


def test_a_device_that_runs_torch_modules_has_no_stations(opened: OpenedJob) -> None:
    torch_device = type("TorchOnly", (), {"name": "torch-only", "formats": frozenset({"torch"})})()
    with pytest.raises(UserError, match="runs torch modules, which are not sent between nodes"):
        start_stations(opened.job, torch_device, {"machine": "node"})


@pytest.mark.usefixtures("ray_cluster")
def test_stations_that_cannot_start_give_one_sentence(opened: OpenedJob) -> None:
    with pytest.raises(UserError, match="cannot be used on any node with the resource of the job: its measurer cannot"):
        start_stations(opened.job, opened.device, {"machine": "0" * 56})


def test_stations_are_shared_evenly() -> None:
    names = cast("list[Any]", ["a", "b", "c"])
    assert [rotated(names, by) for by in (0, 1, 5)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_given_weights_are_dropped_after_the_block() -> None:
    with handed.weights_given(Path("a")):
        assert handed.given() == Path("a")
        with handed.weights_given(None):
            assert handed.given() is None
        assert handed.given() == Path("a")
    assert handed.given() is None
