"""The engine ray on several nodes: replicas and nodes that die, and nodes that lack something."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_nodes
from training_parts import tiny_source

from harness.cli import main
from harness.cluster import connection
from harness.cluster.nodes import nodes
from harness.core.config import parse_plugin
from harness.core.errors import ClusterError, EngineError
from harness.core.types import Message, Request, Sampling
from harness.runs.folder import RunReader

ray = pytest.importorskip("ray", reason="ray is not installed; `tox -e ray` runs this")


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A cluster without room, to which a test adds the nodes that it needs."""
    with ray_nodes.cluster() as started:
        yield started


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver's folder is the first place that its workers import from: they would not see a node's own packages."""
    monkeypatch.chdir(tmp_path)


def opened(address: str, **options: Any) -> Any:
    engine = parse_plugin("engines", {"id": "ray", "address": address, **options}).build()
    engine.open(tiny_source(random_seed=None))
    return engine


def requests(n: int) -> list[Request]:
    prompt = (Message("user", "1 2 4 5 7 9 = 38 :"),)
    return [Request("p", i, prompt, i, Sampling(14)) for i in range(n)]


# --- deaths -------------------------------------------------------------------------------------------------------

EVALUATE = ["eval", "countdown-tiny", "--tasks", "countdown", "--n", "16", "--limit", "64", "--quiet"]


def rows(folder: Path) -> dict[tuple[str, str, int], tuple[int, str]]:
    """Return the stored completions by key. Raise if one is stored twice."""
    completions = [
        ((task, c.problem_id, c.index), (c.seed, c.text)) for task, c in RunReader.read(folder).completions()
    ]
    lines = (folder / "completions.jsonl").read_bytes().count(b"\n")
    assert len(dict(completions)) == len(completions) == lines
    return dict(completions)


def n_stored(folder: Path) -> int:
    path = folder / "completions.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_evaluation_that_loses_a_replica_and_a_node_equals_an_undisturbed_one(head: Any, tmp_path: Path) -> None:
    assert main([*EVALUATE, "--out", "undisturbed"]) == 0
    options = [f"engine.address={head.address}", "engine.replicas=3", "engine.chunk=16", "engine.inner.batch_rows=4"]
    killed: list[str] = []

    def disturb(one: Any, two: Any) -> None:
        deadline = time.monotonic() + 600
        for n, act in ((100, "replica"), (300, "node")):
            while n_stored(Path("disturbed")) < n:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if act == "replica":
                os.kill(ray_nodes.worker_pids(one)[0], signal.SIGKILL)
            else:
                head.remove_node(two, allow_graceful=False)
            killed.append(f"{act} at {n_stored(Path('disturbed'))}")

    with ray_nodes.nodes(head, "one", "two", "three") as (one, two, _):
        thread = threading.Thread(target=disturb, args=(one, two))
        thread.start()
        command = [*EVALUATE, "--out", "disturbed", "--engine", "ray"]
        assert main([*command, *(part for option in options for part in ("--set", option))]) == 0
        thread.join()
    assert [text.split()[0] for text in killed] == ["replica", "node"]
    assert int(killed[1].split()[-1]) < 1024  # in the middle of it
    assert rows(Path("disturbed")) == rows(Path("undisturbed"))
    assert Path("disturbed/metrics.json").read_text() == Path("undisturbed/metrics.json").read_text()


def test_evaluation_without_any_node_left_stops_in_bounded_time_and_names_the_setting(head: Any) -> None:
    with ray_nodes.nodes(head, "only") as (only,):
        engine = opened(head.address, chunk=4, patience_s=1)
        stream = engine.generate(requests(64))
        had = [next(stream)]
        head.remove_node(only)
        while len(nodes(ray)) > 1:
            time.sleep(0.1)
        with pytest.raises(
            EngineError, match=r"no replica of 1 CPU and 0 GPU found room .* \(engine\.patience_s\): none"
        ):
            had += stream
        engine.close()


# --- nodes that can't take part -----------------------------------------------------------------------------------


def test_node_with_another_version_of_harness_is_refused_by_name(head: Any, tmp_path: Path) -> None:
    other = tmp_path / "other" / "harness" / "runs"
    other.mkdir(parents=True)
    (other.parent / "__init__.py").touch()
    (other / "provenance.py").write_text("def code_version():\n    return '0.0.1'\n")
    with (
        ray_nodes.nodes(head, "same"),
        ray_nodes.nodes(head, "old", env_vars={"PYTHONPATH": str(tmp_path / "other")}),
        pytest.raises(ClusterError, match=r"the node old \([0-9.]+\) has harness 0\.0\.1, and this machine has Python"),
    ):
        opened(head.address)


def test_node_without_harness_is_refused_by_name(head: Any, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "harness.py").write_text("raise ImportError('not installed')\n")
    with (
        ray_nodes.nodes(head, "bare", env_vars={"PYTHONPATH": str(tmp_path / "bare")}),
        pytest.raises(
            ClusterError, match=r"the node bare \(.*\): harness can't be imported there .*; install flowrl-h"
        ),
    ):
        opened(head.address)


def test_extra_that_one_node_lacks_is_reported_with_the_node_and_the_command(head: Any, tmp_path: Path) -> None:
    places = tmp_path / "places"
    places.mkdir()
    (places / "vllm.py").touch()
    with (
        ray_nodes.nodes(head, "with", env_vars={"PYTHONPATH": f"{places}:{os.environ.get('PYTHONPATH', '')}"}),
        ray_nodes.nodes(head, "without"),
        pytest.raises(
            ClusterError, match=r"the node without \(.*\): the engine vllm needs the extra 'vllm': pip install"
        ),
    ):
        opened(head.address, inner="vllm")


ENGINE = """
from dataclasses import dataclass

import only_here
from harness.engines.scripted import ScriptedEngine


class Mine(ScriptedEngine):
    @dataclass(frozen=True, slots=True)
    class Config:  # of this file, which no node can import by name
        replies: tuple[str, ...] = ("",)
        pick: str = "index"


ENGINE = Mine
"""


def test_plugin_file_runs_on_nodes_that_can_load_it_and_names_the_node_that_cannot(
    head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "places"
    places.mkdir()
    (places / "only_here.py").touch()
    Path("mine.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(places)
    inner = {"id": "mine.py", "replies": ["a", "b"]}
    with ray_nodes.nodes(head, "with", env_vars={"PYTHONPATH": f"{places}:{os.environ.get('PYTHONPATH', '')}"}):
        engine = opened(head.address, inner=inner)
        assert sorted(c.text for c in engine.generate(requests(4))) == ["a", "a", "b", "b"]
        engine.close()
        ray.shutdown()
        with (
            ray_nodes.nodes(head, "without"),
            pytest.raises(ClusterError, match=r"the node without .*mine\.py:4 raises on import: .*'only_here'"),
        ):
            opened(head.address, inner=inner)


def test_node_with_other_model_files_is_refused_by_name(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.nodes.fingerprint", lambda path: {"fingerprint": "0"})  # of this process alone
    with (
        ray_nodes.nodes(head, "one"),
        pytest.raises(ClusterError, match=r"the node one \(.*\) differs: the model .*fingerprint: .* there, '0' now"),
    ):
        opened(head.address)


# --- no cluster ---------------------------------------------------------------------------------------------------


def test_silent_address_is_reported_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWERS_WITHIN_S", 5.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"no Ray at engine\.address '{address}': no answer within 5 s"):
            opened(address)


def test_cluster_of_another_version_of_ray_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.1.0")
    with ray_nodes.cluster() as old:
        monkeypatch.setattr(ray, "__version__", ours)
        with pytest.raises(ClusterError, match=r"the Ray at engine\.address .* has another version: .*Ray: 2\.1\.0"):
            opened(old.address)
