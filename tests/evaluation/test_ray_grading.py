"""Grading on Ray: the verdicts of this machine, workers that die, nodes that would judge in another way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray_nodes

import harness.evaluation.ray_grading as ours
from harness.cli import main
from harness.cluster.nodes import Needs, check_nodes, nodes
from harness.core.config import parse_plugin
from harness.core.errors import ClusterError, ConfigError
from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Tokens, Verdict
from harness.evaluation.ray_grading import RemoteGrader
from harness.graders.code import GRADER as CODE
from harness.graders.code.reference import HeldTests, ProgramReference, ProgramTest
from harness.graders.math import GRADER as MATH
from harness.runs.folder import RunReader

ray = pytest.importorskip("ray", reason="ray is not installed; `tox -e ray` runs this")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    with ray_nodes.cluster() as head, ray_nodes.nodes(head, "one", "two") as added:
        ray.init(address=head.address, log_to_driver=False, logging_level="error")
        yield head, added


def graded(grader: Grader[Any], problem: Problem[Any], texts: list[str]) -> list[Verdict]:
    """Return the verdicts without what differs from time to time."""
    completions = [Completion(problem.id, i, i, text, "stop", Tokens(1, 1)) for i, text in enumerate(texts)]
    with ThreadPoolExecutor(2) as threads:
        verdicts = list(threads.map(lambda completion: grader.grade(problem, completion), completions))
    measured = ("cpu_s", "wall_s", "memory_bytes", "compare_s", "n_retried")
    return [replace(v, details={k: x for k, x in v.details.items() if k not in measured}) for v in verdicts]


TESTS = HeldTests((ProgramTest("1 2\n", "3\n", "sample"), ProgramTest("5 5\n", "10\n", "sample")))
PROGRAMS = [
    "a, b = map(int, input().split())\nprint(a + b)",
    "print(3)",
    "while True: pass",
    "x = bytearray(1 << 34)",
    "raise ValueError('no')",
    "open('/etc/passwd').read(); print(3)",
    "def",
]
CODE_PROBLEM = Problem("sum", "t", (), ProgramReference(TESTS, "samples"))


def test_programs_are_judged_on_nodes_as_here(two_nodes: Any) -> None:
    grader = CODE(CODE.Config(cpu_s=1.0, retries_timeouts=False))
    texts = [f"```python\n{program}\n```" for program in PROGRAMS]
    expected = graded(grader, CODE_PROBLEM, texts)  # opens the sandbox, which must not be sent
    assert [v.details.get("verdict") for v in expected] == ["AC", "WA", "TLE", "MLE", "RE", "RE", "CE"]
    assert graded(RemoteGrader(ray, grader, 1, 2), CODE_PROBLEM, texts) == expected


def test_maths_answers_are_graded_on_nodes_as_here(two_nodes: Any) -> None:
    grader, problem = MATH(), Problem("p", "t", (), "x^2 + 2x + 1")
    texts = [r"\boxed{(x+1)^2}", r"\boxed{(x+2)^2}", "no answer", r"\boxed{x^{9^{9^9}}}"]
    expected = graded(grader, problem, texts)
    assert [v.outcome for v in expected] == ["correct", "incorrect", "incorrect", "ungraded"]
    assert graded(RemoteGrader(ray, grader, 1, 2), problem, texts) == expected


def test_completion_whose_grading_process_is_killed_is_graded_again(two_nodes: Any) -> None:
    _, added = two_nodes
    grader = RemoteGrader(ray, CODE(CODE.Config(retries_timeouts=False)), 1, 2)
    slow = "```python\nimport time\ntime.sleep(2)\na, b = map(int, input().split())\nprint(a + b)\n```"
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 30
        while not killed and time.monotonic() < deadline:
            time.sleep(0.5)
            for pid in (pid for node in added for pid in ray_nodes.worker_pids(node, b"ray::verdict_of")):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    (verdict,) = graded(grader, CODE_PROBLEM, [slow])
    thread.join()
    assert killed and verdict.outcome == "correct"


class Deadly(Grader[Any]):
    """Ends its process."""

    def grade(self, problem: Problem[Any], completion: Completion) -> Verdict:
        os._exit(1)


class ByLevel(Grader[Any]):
    """Judges as a variable of its environment says, as the sandbox's level depends on the machine."""

    def facts(self) -> Mapping[str, str]:
        return {"sandbox": os.environ.get("TEST_LEVEL", "namespaces")}

    def grade(self, problem: Problem[Any], completion: Completion) -> Verdict:
        return Verdict("correct", 1.0)


ray.cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])  # no node can import a test


def test_completion_that_ends_every_process_is_ungraded_and_may_be_graded_again(
    two_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "RETRIES", 1)
    (verdict,) = graded(RemoteGrader(ray, Deadly(), 1, 2), CODE_PROBLEM, ["x"])
    assert (verdict.outcome, verdict.reason) == ("ungraded", "the process that graded it died 2 times")
    assert verdict.details["no_verdict"] is True


def test_node_with_a_weaker_sandbox_is_refused_by_name(two_nodes: Any) -> None:
    head, _ = two_nodes
    check_nodes(ray, nodes(ray), Needs(graders={"mine": ByLevel()}))
    weaker = head.add_node(num_cpus=1, node_name="weaker", env_vars={"TEST_LEVEL": "sealed"})
    with pytest.raises(
        ClusterError,
        match=r"the node weaker \(.*\) differs: the grader mine\.sandbox: 'sealed' there, 'namespaces' now",
    ):
        check_nodes(ray, nodes(ray), Needs(graders={"mine": ByLevel()}))
    head.remove_node(weaker, allow_graceful=False)


def test_processors_that_are_all_taken_are_reported(two_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "ROOM_WITHIN_S", 0.0)
    with pytest.raises(ClusterError, match=r"no 64 CPU free to grade on \(grading\.cpus\).*lower engine\.replicas"):
        ours._wait_for_room(ray, 64)


def test_evaluation_that_grades_on_ray_has_the_verdicts_of_one_that_does_not(two_nodes: Any, tmp_path: Path) -> None:
    head, _ = two_nodes
    command = ["eval", "countdown-tiny", "--tasks", "countdown", "--n", "4", "--limit", "8", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "here")]) == 0
    grading = ["--set", "grading.on=ray", "--set", f"grading.address={head.address}"]
    assert main([*command, "--out", str(tmp_path / "nodes"), *grading]) == 0
    assert main([*command, "--out", str(tmp_path / "here"), *grading]) == 0  # may change when a run is resumed
    for name in ("metrics.json", "verdicts.jsonl"):
        assert (tmp_path / "nodes" / name).read_text() == (tmp_path / "here" / name).read_text()
    assert RunReader.read(tmp_path / "nodes").config()["grading"]["on"] == "ray"


def test_address_without_a_cluster_is_reported_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.shutdown()
    command = [
        "eval",
        "countdown-tiny",
        "--tasks",
        "countdown",
        "--n",
        "2",
        "--limit",
        "4",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*command, "--set", "grading.on=ray", "--set", "grading.address=127.0.0.1:1"]) == 2
    assert "no Ray at grading.address '127.0.0.1:1'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_place_of_grading_without_ray_is_refused() -> None:
    from harness.core.config import parse
    from harness.evaluation.config import EvalConfig

    with pytest.raises(ConfigError, match=r"grading\.address and grading\.cpus have no effect without grading\.on"):
        parse(EvalConfig, {"model": {"path": "x"}, "tasks": ["countdown"], "grading": {"cpus": 2}})


def test_grader_that_holds_a_connection_is_refused() -> None:
    judge = parse_plugin("graders", {"id": "judge", "base_url": "http://127.0.0.1:1/v1", "model": "m"}).build()
    with pytest.raises(ConfigError, match="the grader judge can't be sent to other machines"):
        ours.check_can_be_sent(ray, {"judge": judge})
