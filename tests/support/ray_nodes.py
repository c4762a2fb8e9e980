"""A Ray cluster of several nodes on this machine, for tests; the head has no processors, so that nothing runs on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def cluster(**head: Any) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "node_name": "head", **head},
    )
    try:
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@contextlib.contextmanager
def nodes(started: Any, *names: str, num_cpus: int = 1, **options: Any) -> Iterator[list[Any]]:
    """Add nodes to a cluster for a while; those that a test has removed stay so."""
    import ray

    added = [started.add_node(num_cpus=num_cpus, node_name=name, **options) for name in names]
    try:
        yield added
    finally:
        ray.shutdown()
        for node in added:
            if node in started.worker_nodes:
                started.remove_node(node)


def worker_pids(node: Any, name: bytes = b"ray::") -> list[int]:
    """Return the processes of Ray's that run actors and tasks on a node, and whose title begins with a name."""
    (raylet,) = node.all_processes["raylet"]
    children = f"/proc/{raylet.process.pid}/task/{raylet.process.pid}/children"
    with open(children) as file:
        pids = [int(word) for word in file.read().split()]
    return [pid for pid in pids if name in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
