"""A study's jobs as Ray tasks. Ray runs one whose process or node dies again, and it continues in its run folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.cluster.connection import one_line
from harness.study.jobs import Job, Outcome, run_job
from harness.study.runner import WATCH_EVERY_S, Task


@dataclass(frozen=True, slots=True)
class RayPlace:
    """A connected Ray, and what each job takes of it."""

    ray: Any
    num_cpus: float
    num_gpus: float
    n_bytes: int
    retries: int

    @property
    def threads(self) -> int:
        return max(1, int(self.num_cpus))


class RayPool:
    def __init__(self, place: RayPlace, count: int) -> None:
        self._place, self._count = place, count
        self._tasks: dict[Any, Task] = {}  # reference -> task
        size = {"num_cpus": place.num_cpus, "num_gpus": place.num_gpus, "memory": place.n_bytes}
        options = {"max_retries": place.retries, "scheduling_strategy": "SPREAD"}
        self._remote = place.ray.remote(**size, **options)(_run)

    def has_room(self) -> bool:
        return len(self._tasks) < self._count

    def start(self, task: Task) -> None:
        reference = self._remote.remote(task.job, os.getcwd(), self._place.threads, has_gpus=self._place.num_gpus > 0)
        self._tasks[reference] = task

    def is_busy(self) -> bool:
        return bool(self._tasks)

    def finished(self) -> list[tuple[Task, Outcome]]:
        ready, _ = self._place.ray.wait(list(self._tasks), num_returns=1, timeout=WATCH_EVERY_S)
        return [(self._tasks.pop(reference), self._outcome(reference)) for reference in ready]

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._place.ray.get(reference)
        except self._place.ray.exceptions.RayError as error:
            again = f"; it was run {self._place.retries + 1} times (ray.retries in the study file)"
            return Outcome(0.0, f"its process or node died{again}: {one_line(error)}")
        return outcome

    def stop(self) -> None:
        for reference in self._tasks:
            self._place.ray.cancel(reference, force=True)


@contextlib.contextmanager
def ray_pool(place: RayPlace, count: int) -> Iterator[RayPool]:
    pool = RayPool(place, count)
    try:
        yield pool
    finally:
        pool.stop()


def _run(job: Job, folder: str, threads: int, *, has_gpus: bool) -> Outcome:
    """Run a job in the folder that the study was started in: its paths may be relative."""
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    if not has_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of them visible
    return run_job(job)
