"""The output of ``autocompress submit --print`` for KubeRay and Slurm."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cli_here import Commands

from autocompress.cli import app, supervising
from autocompress.cli.commands import search
from autocompress.job import Job, load_job

SCHEMA = Path(__file__).parent.parent.parent / "shared" / "cluster" / "rayjob.schema.json.gz"
JOB = "model: resnet18\ndata: digits\nname: My_Run.1\nworkers: 3\ncluster: {cpus: 4}\nbaseline: {epochs: 1}\n"
PLUGIN = """from autocompress.contract import hookimpl


@hookimpl
def autocompress_search_started(job):
    pass
"""
ON_A_URL = ("--results", "s3://runs", "--claim", "disk")
KUBERAY = ("--print", "kuberay", "--image", "registry.example/autocompress:1")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    return Commands(monkeypatch, capsys)


def manifests(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config map and the RayJob."""
    config, ray_job = yaml.safe_load_all(text)
    return config, ray_job


def groups(ray_job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def container(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("options", [(), ("--gpus", "2"), ("--secret", "bucket", "--cache", "s3://cache/x/")])
def test_a_manifest_is_a_valid_ray_job(commands: Commands, options: tuple[str, ...]) -> None:
    if not SCHEMA.exists():
        pytest.skip(f"{SCHEMA} is not here: manifests are not checked against KubeRay's schema")
    _, ray_job = manifests(commands("submit", "job.yaml", *KUBERAY, *ON_A_URL, *options))
    jsonschema.Draft202012Validator(json.loads(gzip.decompress(SCHEMA.read_bytes()))).validate(ray_job)


def test_a_manifest_has_workers_and_one_pod_that_measures(commands: Commands) -> None:
    _, ray_job = manifests(commands("submit", "job.yaml", *KUBERAY, *ON_A_URL, "--gpus", "1"))
    assert ray_job["metadata"]["name"] == "my-run-1"
    spec = ray_job["spec"]
    assert (spec["backoffLimit"], spec["rayClusterSpec"]["authOptions"]["mode"]) == (3, "token")
    workers, device = groups(ray_job)["workers"], groups(ray_job)["device"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (3, 3, 3)
    assert container(workers)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in container(device)["resources"]["limits"]
    # KubeRay inserts the value into a shell command.
    (resources,) = shlex.split(device["rayStartParams"]["resources"])
    assert json.loads(resources) == {"device": 1}
    assert "resources" not in workers["rayStartParams"]


def test_pods_share_the_folder_of_a_run_on_a_url(commands: Commands) -> None:
    _, ray_job = manifests(commands("submit", "job.yaml", *KUBERAY, *ON_A_URL))
    head = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]
    for group in (head, *groups(ray_job).values()):
        local = {entry["name"]: entry["value"] for entry in container(group)["env"]}["AUTOCOMPRESS_CACHE_LOCAL"]
        assert {"name": "results", "mountPath": local} in container(group)["volumeMounts"]
        (volume,) = [one for one in group["template"]["spec"]["volumes"] if one["name"] == "results"]
        assert volume["persistentVolumeClaim"] == {"claimName": "disk"}


def test_a_cost_model_needs_no_pod_that_measures(commands: Commands) -> None:
    Path("job.yaml").write_text(JOB + "device: cost-model:bitops\n")
    _, ray_job = manifests(commands("submit", "job.yaml", *KUBERAY, *ON_A_URL))
    assert set(groups(ray_job)) == {"workers"}


def test_a_manifest_contains_the_job_and_its_plugins(commands: Commands, tmp_path: Path) -> None:
    Path("mine.py").write_text(PLUGIN)
    Path("job.yaml").write_text(JOB + "plugins: [mine.py]\n")
    config, ray_job = manifests(
        commands("submit", "job.yaml", *KUBERAY, "--results", "/data/runs", "--claim", "disk", "--workers", "8")
    )
    assert config["data"]["mine.py"] == PLUGIN
    (tmp_path / "sent.yaml").write_text(config["data"]["job.yaml"])
    job = load_job("sent.yaml")
    assert (job.workers, str(job.folder)) == (8, "/data/runs/My_Run.1")
    assert (job.cluster.cpus, job.cluster.gpus, job.cluster.device_nodes) == (4.0, None, "device")
    words = ray_job["spec"]["entrypoint"].split()
    mounted = {mount["name"]: mount["mountPath"] for mount in container(groups(ray_job)["workers"])["volumeMounts"]}
    assert [str(path) for path in job.plugins] == [f"{mounted['job']}/mine.py"]
    assert words[:3] == ["autocompress", "search", f"{mounted['job']}/job.yaml"]
    assert "--restartable" in words
    assert mounted["results"] == "/data/runs"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--print", "kuberay", "--results", "s3://runs"), "--print kuberay needs --image"),
        (KUBERAY, "--results results is not a place that all nodes of a cluster can read"),
        ((*KUBERAY, "--results", "/a/../b"), "--results /a/../b is not a place"),
        ((*KUBERAY, "--results", "s3://key:word@runs"), "--results holds a password"),
        ((*KUBERAY, "--results", "s3://runs"), "workers on other pods need the folder of the run"),
        ((*KUBERAY, "--results", "/runs"), "pods have no storage for /runs (name a volume claim"),
        ((*KUBERAY, "--results", "/runs", "--claim", "c", "--cache", "/other"), "cannot hold both"),
        (("--print", "slurm", "--results", "s3://runs"), "needs --results in a folder that the nodes share"),
        (("--print", "slurm", "--results", "/my runs"), "Slurm cannot read output '/my runs/"),
        (("--print", "slurm", "--results", "/runs", "--time", "1:0\n#SBATCH --x"), "Slurm cannot read time"),
        ((), "the job needs one destination"),
    ],
)
def test_invalid_orders_give_one_sentence(commands: Commands, options: tuple[str, ...], sentence: str) -> None:
    assert sentence in commands("submit", "job.yaml", *options, code=2)


def test_plugins_with_equal_file_names_are_refused(commands: Commands) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "mine.py").write_text(PLUGIN)
    Path("job.yaml").write_text(JOB + "plugins: [one/mine.py, two/mine.py]\n")
    told = commands("submit", "job.yaml", *KUBERAY, *ON_A_URL, code=2)
    assert told.startswith("two plugins of the job are called mine.py")


def test_a_batch_script_is_valid_shell(commands: Commands, tmp_path: Path) -> None:
    text = commands("submit", "job.yaml", "--print", "slurm", "--results", "/shared/runs", "--setup", "module load x")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in text.splitlines() if "SBATCH" in line
    )
    assert (options["nodes"], options["cpus-per-task"], options["ntasks-per-node"]) == ("3", "4", "1")
    assert {"requeue", "exclusive"} <= set(options)
    assert "gpus-per-node" not in options
    assert text.index("module load x") < text.index("scontrol")


def stubs(folder: Path, exit_code: int) -> dict[str, str]:
    """Programs of Slurm and Ray that record their arguments; ``srun`` runs its command."""
    folder.mkdir()
    for name, body in {
        "scontrol": 'if [ "$1" = show ]; then echo n1; echo n2; else echo "$@" >> "$SAID"; fi',
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
        "hostname": "echo '10.1.2.3 fe80::1'",
        "ray": 'printf "%s\\n" "$@" > "$SAID.ray"; cat "$RAY_AUTH_TOKEN_PATH" > "$SAID.token"; '
        f'stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$SAID.mode"; exit {exit_code}',
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "SAID": str(folder / "said")} | {
        "SLURM_JOB_ID": str(os.getpid()),  # its folder in /tmp is of this process alone
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }


def searched(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    """The job of ``autocompress WORDS``."""
    jobs: list[Job] = []
    monkeypatch.setattr(supervising, "is_needed", lambda cluster: False)
    monkeypatch.setattr(search, "_search_again", jobs.append)
    app(words, standalone_mode=False)
    return jobs[0]


@pytest.mark.parametrize(("exit_code", "is_queued_again"), [(0, False), (5, False), (75, True), (143, True)])
def test_a_batch_script_runs(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int, is_queued_again: bool
) -> None:
    asked = ("--results", tmp_path, "--gpus", "1", "--workers", "2", "--cpus", "6", "--memory", "16")
    text = commands("submit", "job.yaml", "--print", "slurm", *asked)
    environment = stubs(tmp_path / "bin", exit_code)
    done = subprocess.run(["bash"], input=text, text=True, env=environment, check=False)
    assert done.returncode == exit_code
    words = (tmp_path / "bin" / "said.ray").read_text().splitlines()
    assert words[:5] == ["symmetric-run", "--address", "10.1.2.3:6379", "--min-nodes", "2"]
    assert '--resources={"device": 1}' in words
    entry = words[words.index("--") + 1 :]
    assert entry[:2] == ["env", "RAY_ADDRESS=10.1.2.3:6379"]
    assert entry[2:5] == ["autocompress", "search", str(tmp_path / "job.yaml")]
    job = searched(entry[3:], monkeypatch)
    assert (str(job.results), job.workers) == (str(tmp_path), 2)
    assert (job.cluster.cpus, job.cluster.gpus, job.cluster.memory_bytes) == (6.0, 1.0, 16 * 2**30)
    assert f"--memory={16 * 2**30}" in words, "a node offers what its worker takes"
    assert (tmp_path / "bin" / "said").exists() == is_queued_again
    # The token is long and private, is on no command line, and is removed at the end.
    token = (tmp_path / "bin" / "said.token").read_text()
    assert len(token) == 64
    assert (tmp_path / "bin" / "said.mode").read_text() == "600\n"
    assert token not in text
    assert not list(tmp_path.glob(".My_Run*"))
    assert not Path(f"/tmp/ac-{environment['SLURM_JOB_ID']}").exists()
