"""The launch recipes: the commands that they come to, and the schemas of Kubernetes' Ray operator and of SkyPilot."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_pages import ROOT

from harness.cli import command_parser, load_command

LAUNCH = ROOT / "launch"
SLURM = sorted((LAUNCH / "slurm").glob("*.sbatch"))
JOBS = [LAUNCH / "kuberay" / name for name in ("eval.yaml", "train.yaml")]
SKY = sorted((LAUNCH / "skypilot").glob("*.yaml"))

STUBS = {
    "scontrol": "echo node-1; echo node-2",
    "hostname": "echo 10.0.0.7 fe80::1",
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    # Both forms: symmetric-run executes what follows the dashes.
    "ray": 'echo "ray $*" >> "$CALLS"; while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done; shift || true; "$@"',
    "harness": 'printf "harness" >> "$CALLS"; printf " %q" "$@" >> "$CALLS"; echo >> "$CALLS"',
    "python": "echo log; echo $SKYPILOT_NUM_NODES",
}


def calls_of(script: str, folder: Path, environment: Mapping[str, str]) -> list[list[str]]:
    """Run a script with stubs of the programs that it calls. Return the calls of ray and harness."""
    bin_folder = folder / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name, body in STUBS.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    (bin_folder / "activate").touch()
    (folder / "harness-env").symlink_to(folder / "venv")
    paths = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(folder), "VENV": str(folder / "venv")}
    calls = folder / "calls"
    done = subprocess.run(
        ["bash", "-c", script], env={**paths, "CALLS": str(calls), **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in calls.read_text().splitlines()]


def parsed(command: list[str]) -> Any:
    assert command[0] == "harness"
    return command_parser(command[1], load_command(command[1])).parse_args(command[2:])


# --- Slurm --------------------------------------------------------------------------------------------------------

OF_SLURM = {
    "SLURM_JOB_ID": "12345",
    "SLURM_JOB_NODELIST": "node-[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_CPUS_PER_TASK": "32",
}
ASKED = {
    "MODEL": "/shared/m",
    "TASKS": "countdown",
    "RECIPE": "countdown-flowrl",
    "STUDY": "kl.toml",
    "OUT": "/shared/r",
}


@pytest.mark.parametrize("file", SLURM, ids=lambda file: file.stem)
def test_slurm_file_starts_ray_on_all_nodes_and_runs_the_command_on_the_head(file: Path, tmp_path: Path) -> None:
    ray, command = calls_of(file.read_text(), tmp_path, {**OF_SLURM, **ASKED, "OUT": "/shared/r"})
    start = ray[: ray.index("--")]
    assert start[:6] == ["ray", "symmetric-run", "--address", "10.0.0.7:22345", "--min-nodes", "2"]
    assert start[6:] == ["--num-cpus", "32", "--num-gpus", "4", "--disable-usage-stats"]
    arguments = parsed(command)
    assert str(arguments.out) == "/shared/r"
    if file.stem == "eval":
        assert {"engine.replicas=8", "engine.address=10.0.0.7:22345"} <= set(command)
    if file.stem == "study":
        assert arguments.ray == "10.0.0.7:22345"


@pytest.mark.parametrize("file", SLURM, ids=lambda file: file.stem)
def test_slurm_file_without_its_settings_names_the_first(file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(file)], env={**OF_SLURM, "PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert any(f"{name}: " in done.stderr for name in ("MODEL", "RECIPE", "STUDY"))


def test_ray_takes_the_options_of_the_launch_files() -> None:
    pytest.importorskip("ray", reason="ray is not installed; `tox -e ray` runs this")
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    options = {
        option for command in (start, symmetric_run) for parameter in command.params for option in parameter.opts
    }
    used = {word.partition("=")[0] for file in (*SLURM, *SKY) for word in file.read_text().split() if word[:2] == "--"}
    of_ray = {"--address", "--min-nodes", "--num-cpus", "--num-gpus", "--disable-usage-stats", "--head", "--port"}
    assert of_ray <= options and "--include-dashboard" in options
    assert of_ray - {"--head", "--port"} <= used


# --- Kubernetes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_rayjob_runs_a_harness_command_with_a_replica_for_each_gpu(file: Path) -> None:
    job = yaml.safe_load(file.read_text())
    command = shlex.split(job["spec"]["entrypoint"])
    parsed(command)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    n_gpus = workers["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    if file.stem == "eval":
        assert f"engine.replicas={n_gpus}" in command
    volume = yaml.safe_load((LAUNCH / "kuberay" / "shared-volume.yaml").read_text())
    claims = {v["persistentVolumeClaim"]["claimName"] for v in workers["template"]["spec"]["volumes"][:1]}
    assert claims == {volume["metadata"]["name"]}


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_rayjob_follows_the_schema_of_the_operator(file: Path) -> None:
    """The schema has 1.4 MB, so it is not copied here: `helm-chart/kuberay-operator/crds` of ray-project/kuberay."""
    folder = os.environ.get("HARNESS_KUBERAY_CRDS")
    if folder is None:
        pytest.skip("HARNESS_KUBERAY_CRDS names no folder with ray.io_rayjobs.yaml")
    jsonschema = pytest.importorskip("jsonschema")
    definition = yaml.safe_load((Path(folder) / "ray.io_rayjobs.yaml").read_text())
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1"]
    validator = jsonschema.Draft202012Validator(closed(schema))
    assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))] == []


def closed(schema: Any) -> Any:
    """Return the schema without room for unknown keys, which a Kubernetes server would drop with a warning."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inside = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        inside |= {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        names = set(schema["properties"])
        if names != {"apiVersion", "kind", "metadata"} and schema.get("x-kubernetes-preserve-unknown-fields") is None:
            inside["additionalProperties"] = False
    return inside


# --- SkyPilot -----------------------------------------------------------------------------------------------------

OF_SKY = {"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "8"}


@pytest.mark.parametrize("file", SKY, ids=lambda file: file.stem)
def test_skypilot_task_starts_ray_on_all_nodes_and_runs_the_command_on_the_first(file: Path, tmp_path: Path) -> None:
    task = yaml.safe_load(file.read_text())
    environment = {**OF_SKY, **task["envs"], "SKYPILOT_NODE_RANK": "0"}
    ray, command = calls_of(task["run"], tmp_path / "first", environment)
    assert ray == ["ray", "start", "--head", "--port", "6385", "--include-dashboard=false", "--disable-usage-stats"]
    assert str(parsed(command).out).startswith("/shared/runs/")
    if file.stem == "eval":
        assert {"engine.replicas=16", "engine.address=10.0.0.7:6385"} <= set(command)
    (ray,) = calls_of(task["run"], tmp_path / "second", {**environment, "SKYPILOT_NODE_RANK": "1"})
    assert ray == ["ray", "start", "--address", "10.0.0.7:6385", "--disable-usage-stats"]


@pytest.mark.parametrize("file", SKY, ids=lambda file: file.stem)
def test_skypilot_reads_its_task(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    sky = pytest.importorskip("sky", reason="skypilot is not installed; `tox -e launch` runs this")
    task = sky.Task.from_yaml(str(file))
    (resources,) = task.resources
    assert resources.accelerators == {"H100": 8} and resources.use_spot
    assert task.storage_mounts.keys() | task.file_mounts.keys() == {"/shared"}
