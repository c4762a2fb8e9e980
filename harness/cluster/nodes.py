"""The nodes of a cluster, and the check that each has what a run needs, before any work starts."""

from __future__ import annotations

import os
import pickle
import platform
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.cluster.connection import one_line
from harness.core import extras, registry
from harness.core.config import PluginChoice, differences
from harness.core.errors import ClusterError, HarnessError
from harness.core.plugin_files import is_file
from harness.core.protocols import Grader
from harness.models.loading import fingerprint
from harness.runs.provenance import code_version

CHECKED_WITHIN_S = 180.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive."""

    id: str
    name: str
    """Its name or host name, with its address."""
    n_cpus: float
    n_gpus: float
    n_bytes: float

    def n_fitting(self, num_cpus: float, num_gpus: float, n_bytes: float = 0) -> int:
        """Return how many processes of that size it can hold when it is empty."""
        pairs = ((self.n_cpus, num_cpus), (self.n_gpus, num_gpus), (self.n_bytes, n_bytes))
        return min((int(has // each) for has, each in pairs if each > 0), default=1)


def nodes(ray: Any) -> list[Node]:
    return [_node(facts) for facts in ray.nodes() if facts["Alive"]]


def node_name() -> str:
    """Return the name of the node that this process of Ray's runs on."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return next((_node(facts).name for facts in ray.nodes() if facts["NodeID"] == own), own)


def _node(facts: Mapping[str, Any]) -> Node:
    address = facts["NodeManagerAddress"]
    name = facts["NodeName"] if facts["NodeName"] != address else facts["NodeManagerHostname"]
    sizes = [facts["Resources"].get(what, 0) for what in ("CPU", "GPU", "memory")]
    return Node(facts["NodeID"], f"{name} ({address})", *sizes)


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements on every node."""

    extras: Mapping[str, str] = field(default_factory=dict)
    """Extra -> the feature that needs it."""
    plugins: Sequence[PluginChoice] = ()
    models: Sequence[str] = ()
    """Folders or hub ids; their files must be equal everywhere."""
    graders: Mapping[str, Grader[Any]] = field(default_factory=dict)
    """Their facts, such as the level of the sandbox, must be equal everywhere."""
    marker: tuple[str, str] | None = None
    """A file that each node must see, and its content."""
    folders: Sequence[str] = ()
    """Directories that must be there."""

    def facts(self) -> Mapping[str, Any]:
        """Return what must be equal on the requesting machine and on all nodes."""
        return {
            **{f"the model {path}": fingerprint(path) for path in self.models},
            **{f"the grader {name}": dict(grader.facts()) for name, grader in self.graders.items()},
        }

    def check_here(self) -> None:
        """Raise for all that is missing on this machine."""
        for extra, feature in self.extras.items():
            extras.require(extra, feature)
        for chosen in self.plugins:
            registry.load(chosen.kind, chosen.id)
        for grader in self.graders.values():
            grader.check()
        if self.marker is not None:
            path, content = self.marker
            if not Path(path).is_file() or Path(path).read_text(encoding="utf-8") != content:
                raise ClusterError(f"it does not see the folder {Path(path).parent}, which every node must share")
        if missing := next((folder for folder in self.folders if not os.path.isdir(folder)), None):
            raise ClusterError(f"it has no directory {missing}, which the command was started in")


def check_nodes(ray: Any, checked: Sequence[Node], needs: Needs) -> None:
    """Raise ClusterError with the node's name unless each node has the same versions and all that is needed."""
    versions = {"Python": platform.python_version(), "Ray": ray.__version__, "harness": code_version()}
    pickled = ray.cloudpickle.dumps(needs)
    probe, expected = ray.remote(num_cpus=0, max_retries=0)(_make_probe(versions, pickled)), needs.facts()
    answers = {probe.options(scheduling_strategy=_on(node)).remote(): node for node in checked}
    ready, late = ray.wait(list(answers), num_returns=len(answers), timeout=CHECKED_WITHIN_S) if answers else ([], [])
    for answer in ready:
        try:
            found = ray.get(answer)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            continue  # it has left the cluster
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the node {answers[answer].name} failed when it was checked: {one_line(error)}"
            ) from None
        _refuse(answers[answer], found, versions, expected)
    if late:
        raise ClusterError(f"the node {answers[late[0]].name} gave no answer within {CHECKED_WITHIN_S:g} s")


def _on(node: Node) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _refuse(node: Node, found: Mapping[str, Any], versions: Mapping[str, str], expected: Mapping[str, Any]) -> None:
    if "error" in found:
        raise ClusterError(f"the node {node.name}: {found['error']}")
    if other := [f"{name} {version}" for name, version in found["versions"].items() if versions[name] != version]:
        ours = ", ".join(f"{name} {version}" for name, version in versions.items())
        raise ClusterError(f"the node {node.name} has {', '.join(other)}, and this machine has {ours}; make them equal")
    if unequal := differences(found["facts"], expected):
        raise ClusterError(f"the node {node.name} differs: {unequal[0]}; every node needs the same")


def _make_probe(versions: Mapping[str, str], pickled_needs: bytes) -> Callable[[], Mapping[str, Any]]:
    """Return the function that runs on a node. It is pickled by value: the node may not have this package."""

    def probe() -> Mapping[str, Any]:
        import platform

        import ray

        try:
            from harness.runs.provenance import code_version
        except ImportError as error:
            return {"error": f"harness can't be imported there ({error}); install flowrl-harness {versions['harness']}"}
        found = {"Python": platform.python_version(), "Ray": ray.__version__, "harness": code_version()}
        if found != versions:
            return {"versions": found}
        from harness.cluster.nodes import inspect_node

        return {"versions": found, **inspect_node(pickled_needs)}

    return probe


def inspect_node(pickled_needs: bytes) -> Mapping[str, Any]:
    """Return the facts of this node, or why it can't take part."""
    try:
        needs: Needs = pickle.loads(pickled_needs)
        needs.check_here()
        return {"facts": needs.facts()}
    except HarnessError as error:
        return {"error": str(error)}
    except (ImportError, AttributeError) as error:
        return {"error": f"a plug-in did not load there: {type(error).__name__}: {error}"}


# --- what nodes share -------------------------------------------------------------------------------------------


@contextmanager
def marker_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Write a file into a folder for as long as nodes are asked whether they see it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, content = folder / f".seen-{secrets.token_hex(4)}", secrets.token_hex(16)
    path.write_text(content, encoding="utf-8")
    try:
        yield str(path.absolute()), content
    finally:
        path.unlink(missing_ok=True)


def portable(ray: Any, chosen: PluginChoice) -> PluginChoice:
    """Return a choice that other nodes can read: the path of a file is absolute, and its options are sent with it."""
    for name in [name for name in sys.modules if name.startswith("harness_files.")]:
        ray.cloudpickle.register_pickle_by_value(sys.modules[name])
    return replace(chosen, id=os.path.abspath(chosen.id)) if is_file(chosen.id) else chosen
