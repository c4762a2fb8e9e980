"""The memory of a study's processes, from the same estimate as `harness train --dry-run`, and how many fit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from harness.cluster.connection import connect
from harness.cluster.nodes import Needs, check_nodes, marker_in, nodes
from harness.core.config import parse
from harness.core.errors import ClusterError, ConfigError
from harness.study.cells import TrainCell
from harness.study.fairness import check_fairness, differences
from harness.study.ray_pool import RayPlace
from harness.study.study import Study, Workers, n_cores
from harness.trainers.config import TrainConfig
from harness.trainers.dry_run import DryRun, available_bytes, dry_run
from harness.trainers.setup import build_setup

PROCESS_BYTES = 450_000_000
"""Of a process that has imported torch and transformers."""
PEAK = "at the peak"


def first_trainings(study: Study) -> list[TrainCell]:
    """Return one training of each arm."""
    return [cell for cell in study.cells.trainings if cell.seed == study.config.seeds[0]]


def check_arms(study: Study) -> dict[str, DryRun]:
    """Return the estimate of each arm. Raise for all that a training would refuse before it loads the model.

    A base that is a folder must be readable; one on the hub is loaded when a cell needs it.
    """
    cells = first_trainings(study)
    check_fairness(differences(study.arms, cells))
    found: dict[str, DryRun] = {}
    for cell in cells:
        config = parse(TrainConfig, cell.tree)
        try:
            # In a folder of no run: a study may ask for fewer steps than a training has.
            estimate = dry_run(config, build_setup(config, study.folder / "no-run"))
        except ConfigError as error:
            raise ConfigError(f"the arm {cell.arm!r}: {error}") from None
        if not estimate.memory and Path(study.config.base).is_dir():
            reason = next(line for line in estimate.remarks if line.startswith("No memory"))
            raise ConfigError(f"the arm {cell.arm!r} can't load the base {study.config.base}: {reason}")
        found[cell.arm] = estimate
    return found


def workers(study: Study, arms: Mapping[str, DryRun], wanted: int | None, *, ignore_memory: bool) -> Workers:
    """Return how many processes to run: as asked, else one on a GPU and one for each core on a CPU.

    Raise if those that were asked for do not fit into memory; the default is lowered to what fits.
    """
    from harness.models.loading import pick_device

    config: TrainConfig = parse(TrainConfig, study.cells.trainings[0].tree)
    device = pick_device(config.model.device)
    peaks = [estimate.memory[PEAK] for estimate in arms.values() if estimate.memory]
    each = max(peaks, default=0) + (PROCESS_BYTES if device == "cpu" else 0)
    available = available_bytes(device)
    fitting = max(1, available // each) if each > 0 else n_cores()
    if wanted is not None and wanted > fitting and not ignore_memory:
        raise ConfigError(
            f"--parallel {wanted} needs about {wanted * each / 1e9:.3g} GB, and {device} has {available / 1e9:.3g}; "
            f"--parallel {fitting} fits, and --ignore-memory starts them nevertheless"
        )
    count = wanted if wanted is not None else min(fitting, n_cores()) if device == "cpu" else 1
    return Workers(count, max(1, n_cores() // count), each, available)


@contextlib.contextmanager
def ray_workers(study: Study, used: Workers, address: str, wanted: int | None) -> Iterator[Workers]:
    """Connect to a cluster, check its nodes and yield how many jobs it holds: all that fit, or as many as asked.

    `used` are the processes of this machine, for the memory of each.
    """
    config, is_local = study.config.ray, address == "local"
    ray, is_ours = connect(None if is_local else address, "--ray", "harness study --ray")
    try:
        each = used.bytes_each if config.num_gpus == 0 else 0
        able = [(node, n) for node in nodes(ray) if (n := node.n_fitting(config.num_cpus, config.num_gpus, each)) > 0]
        if not able:
            raise ClusterError(
                f"none of the {len(nodes(ray))} nodes of the cluster at --ray {address!r} has {config.num_cpus:g} CPU, "
                f"{config.num_gpus:g} GPU and {each / 1e9:.3g} GB for a job; change [ray] in the study file"
            )
        with marker_in(study.folder) as marker:
            bases = [study.config.base] if Path(study.config.base).exists() else []
            needs = Needs(models=[os.path.abspath(base) for base in bases], marker=marker, folders=[os.getcwd()])
            check_nodes(ray, [node for node, _ in able], needs)
        count = wanted if wanted is not None else sum(n for _, n in able)
        place = RayPlace(ray, config.num_cpus, config.num_gpus, each, config.retries)
        yield replace(used, count=count, threads=place.threads, ray=place)
    finally:
        if is_ours:
            ray.shutdown()
