"""Versions, modules and GPUs of the nodes of a Ray cluster, compared with the driver's before any work starts."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UsageError
from harness.core.extras import installed_version

PACKAGES = ("flowrl-harness", "verl", "torch", "transformers", "ray", "tensordict", "TransferQueue")
"""Packages whose versions must be the driver's own on every node."""
ANSWER_S = 180.0
"""Importing torch and verl takes 20 s on a slow disk."""
LOCAL = {"address": "local"}
"""Without it Ray joins a cluster that another program has started on this machine."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The facts about one node that decide whether it can take part."""

    name: str
    versions: Mapping[str, str]
    n_gpus: int
    plugin_error: str | None = None
    """Why our names are not registered in verl there; None where they are."""
    missing: tuple[str, ...] = ()
    """Modules that can't be imported there."""


def facts_here(name: str, needed: Sequence[str], n_gpus: int) -> NodeFacts:
    """Return the facts of the machine that this runs on."""
    found = {package: installed_version(package) or "not installed" for package in PACKAGES}
    missing = tuple(module for module in needed if not _can_import(module))
    error = _plugin_error() if "verl" not in missing else "verl is not installed"
    return NodeFacts(name, {**found, "python": platform.python_version()}, n_gpus, error, missing)


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # a package that is broken on this node counts as missing
        return False
    return True


def _plugin_error() -> str | None:
    try:
        import verl  # noqa: F401  # imports the plug-in

        from harness.trainers.backends.verl.plugin import registered

        lost = [name for name, is_known in registered().items() if not is_known]
    except Exception as error:  # whatever the import raises there is the answer
        return f"{type(error).__name__}: {error}"
    return f"not registered: {', '.join(lost)}" if lost else None


def disagreements(driver: NodeFacts, nodes: Sequence[NodeFacts], n_gpus: int, n_nodes: int) -> list[str]:
    """Return one line for each reason why this cluster can't run the training."""
    found = []
    for node in nodes:
        found += [f"{node.name}: {module} can't be imported there" for module in node.missing]
        differing = [
            f"{package} is {theirs}, and {driver.versions[package]} on {driver.name}"
            for package, theirs in node.versions.items()
            if theirs != driver.versions[package]
        ]
        found += [f"{node.name}: {line}" for line in differing]
        if node.plugin_error is not None:
            found.append(f"{node.name}: the plug-in of harness did not load in verl: {node.plugin_error}")
    fit = [node for node in nodes if node.n_gpus >= n_gpus]
    if len(fit) < n_nodes:
        have = ", ".join(f"{node.name} has {node.n_gpus}" for node in nodes) if nodes else "it has no node"
        found.append(
            f"the run asks for {n_nodes} node(s) with {n_gpus} GPU(s) each (backend.nodes, backend.gpus_per_node), and "
            f"of the cluster {have}"
        )
    return found


def check_cluster(
    address: str | None, environment: Mapping[str, str], needed: Sequence[str], n_gpus: int, n_nodes: int
) -> None:
    """Raise UsageError with every reason why the run can't start on this cluster. Waits are bounded."""
    ray = _connected(address, environment)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        driver = facts_here("the driver", needed, 0)
        reasons = disagreements(driver, _facts_of(ray, nodes, needed), n_gpus, n_nodes)
    finally:
        ray.shutdown()
    if reasons:
        raise UsageError("verl can't start here:\n" + "\n".join(f"  {reason}" for reason in reasons))


def _connected(address: str | None, environment: Mapping[str, str]) -> Any:
    import ray

    options: dict[str, Any] = {"address": address} if address is not None else {"include_dashboard": False, **LOCAL}
    try:
        ray.init(**options, runtime_env={"env_vars": dict(environment)}, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UsageError(
            f"Ray at {address!r} can't be reached: {first_line}. Start it with `ray start --head` on the first node "
            "and `ray start --address=HEAD:6379` on the others, or leave backend.address out for one machine"
        ) from None
    return ray


def _facts_of(ray: Any, nodes: Sequence[Mapping[str, Any]], needed: Sequence[str]) -> list[NodeFacts]:
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0)(facts_here)
    asked = {}
    for node in nodes:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        place = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        asked[name] = remote.options(scheduling_strategy=place).remote(
            name, list(needed), int(node["Resources"].get("GPU", 0))
        )
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    found = []
    for name, reference in asked.items():
        try:
            found.append(ray.get(reference, timeout=0.1))
        except GetTimeoutError:
            raise UsageError(f"verl can't start here: {name} did not answer within {ANSWER_S:.0f} s") from None
        except RayError as error:  # harness is not installed there, or the node died
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"verl can't start here: {name} can't run harness: {reason}") from None
    return found
