"""Grading as Ray tasks: the same graders with the same limits, on the nodes of a cluster.

A task whose process or node dies is run again. Before the first one, each node is checked: a grader's facts, such as
the level of the sandbox, must be those of this machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.cluster.connection import connect, one_line
from harness.cluster.nodes import Needs, check_nodes, nodes
from harness.core.errors import ClusterError, ConfigError, UsageError
from harness.core.protocols import Grader
from harness.core.types import NO_VERDICT, Completion, Problem, Verdict
from harness.evaluation.config import GradingConfig
from harness.evaluation.pipeline import verdict_of
from harness.evaluation.setup import EvalSetup

ROOM_WITHIN_S = 60.0
MOST_AT_ONCE = 256
"""Threads of this machine that wait for verdicts."""
RETRIES = 3


class RemoteGrader(Grader[Any]):
    """Sends each completion to a grader on Ray."""

    def __init__(self, ray: Any, grader: Grader[Any], num_cpus: float, n_at_once: int) -> None:
        self.n_at_once, self._ray = n_at_once, ray
        self._grader = ray.put(grader)
        self._task = ray.remote(num_cpus=num_cpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(verdict_of)

    def grade(self, problem: Problem[Any], completion: Completion) -> Verdict:
        errors = self._ray.exceptions
        try:
            verdict: Verdict = self._ray.get(self._task.remote(self._grader, problem, completion))
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UsageError) else error from None
        except errors.RayError as error:
            reason = f"the process that graded it died {RETRIES + 1} times"
            return Verdict("ungraded", None, reason=reason, details={NO_VERDICT: True, "error": one_line(error)})
        return verdict


@contextlib.contextmanager
def graders_of(setup: EvalSetup) -> Iterator[Callable[[str], Grader[Any]]]:
    """Yield a function from the id of a task to its grader: its own, or one that grades on the configured cluster."""
    config = setup.config.grading
    if config.on is None:
        yield lambda task: setup.tasks[task].grader
        return
    ray, is_ours = connect(config.address, "grading.address", "grading on Ray")
    try:
        n_at_once = _check(ray, config, setup)
        remote = {
            name: RemoteGrader(ray, task.grader, config.num_cpus, n_at_once) for name, task in setup.tasks.items()
        }
        yield remote.__getitem__
    finally:
        if is_ours:
            ray.shutdown()


def _check(ray: Any, config: GradingConfig, setup: EvalSetup) -> int:
    """Raise unless each node can grade as this machine does. Return how many completions are graded at a time."""
    graders = {task.grader_name: task.grader for task in setup.tasks.values()}
    check_can_be_sent(ray, graders)
    able = [node for node in nodes(ray) if node.n_fitting(config.num_cpus, 0) > 0]
    check_nodes(ray, able, Needs(graders=graders))
    _wait_for_room(ray, config.num_cpus)
    return min(MOST_AT_ONCE, sum(node.n_fitting(config.num_cpus, 0) for node in able))


def check_can_be_sent(ray: Any, graders: Mapping[str, Grader[Any]]) -> None:
    for name, grader in graders.items():
        try:
            ray.cloudpickle.dumps(grader)
        except Exception as error:  # objects of any library may refuse with any error
            raise ConfigError(
                f"the grader {name} can't be sent to other machines ({one_line(error)}); leave grading.on out"
            ) from None


def _wait_for_room(ray: Any, num_cpus: float) -> None:
    """Raise if the engine's replicas, which stay until the end, have left no processor to grade on."""
    began_s = time.monotonic()
    while ray.available_resources().get("CPU", 0) < num_cpus:
        if time.monotonic() - began_s > ROOM_WITHIN_S:
            raise ClusterError(
                f"the cluster has no {num_cpus:g} CPU free to grade on (grading.cpus) after "
                f"{ROOM_WITHIN_S:g} s; if the engine's replicas hold them all, lower engine.replicas or engine.num_cpus"
            )
        time.sleep(1.0)
