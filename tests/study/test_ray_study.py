"""A study on Ray: the same results as in processes of this machine, on nodes that may die."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray_nodes
from training import assert_same_run

from harness.cli import main
from harness.cluster.nodes import Needs, check_nodes, marker_in, nodes
from harness.core.errors import ClusterError
from harness.study.counts import read_counts
from harness.study.study import n_cores

ray = pytest.importorskip("ray", reason="ray is not installed; `tox -e ray` runs this")

STUDY = """
name = "small"
base = "countdown-tiny"
steps = 4
checkpoints = [2, 4]
seeds = [1, 2]
draws = 1
n = 2
limit = 4
temperatures = [0.6]
controls = { grpo_kl = 0, evaluation = false }
common.loop = { prompts_per_step = 2, samples_per_prompt = 4 }
common.checkpoint = { every_steps = 1 }
ray = { num_cpus = 1 }

[arms.grpo]
recipe = "countdown-grpo"

[arms.flowrl]
recipe = "countdown-flowrl"
"""
TRAININGS = [f"cells/{arm}/seed-{seed}/train" for arm in ("grpo", "flowrl") for seed in (1, 2)]


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    with ray_nodes.cluster() as started:
        yield started


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    assert study(folder, "--parallel", str(n_cores())) == 0  # one thread each, as on Ray
    return folder / "out"


def study(folder: Path, *options: str) -> int:
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(STUDY)
    return main(["study", str(folder / "small.toml"), "--out", str(folder / "out"), "--quiet", *options])


def assert_same_study(expected: Path, found: Path) -> None:
    for training in TRAININGS:
        assert_same_run(expected / training, found / training)
    pd.testing.assert_frame_equal(read_counts(expected / "counts.csv"), read_counts(found / "counts.csv"))


def test_study_on_nodes_of_which_one_dies_ends_like_one_in_processes(
    head: Any, in_processes: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "out"
    removed = []

    def remove(node: Any) -> None:
        deadline = time.monotonic() + 600
        while not any((begun / training / "checkpoints/step-000001").exists() for training in TRAININGS):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        head.remove_node(node, allow_graceful=False)
        removed.append(sum((begun / training / "checkpoints/step-000004").exists() for training in TRAININGS))

    with ray_nodes.nodes(head, "one", "two") as (one, _):
        thread = threading.Thread(target=remove, args=(one,))
        thread.start()
        assert study(tmp_path, "--ray", head.address) == 0
        thread.join()
    assert removed and removed[0] < 4
    assert_same_study(in_processes, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".seen-*"))


def test_job_that_no_node_can_hold_is_refused_before_the_study_begins(
    head: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ray_nodes.nodes(head, "one"):
        (tmp_path / "small.toml").write_text(STUDY.replace("num_cpus = 1", "num_gpus = 1"))
        command = ["study", str(tmp_path / "small.toml"), "--out", str(tmp_path / "out"), "--ray", head.address]
        assert main(command) == 2
    assert "none of the 2 nodes of the cluster" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_node_that_does_not_share_the_folder_is_refused_by_name(head: Any, tmp_path: Path) -> None:
    with ray_nodes.nodes(head, "one"):
        ray.init(address=head.address, log_to_driver=False, logging_level="error")
        with marker_in(tmp_path) as marker:
            check_nodes(ray, nodes(ray), Needs(marker=marker, folders=[os.getcwd()]))
        with pytest.raises(
            ClusterError, match=rf"the node .*: it does not see the folder {tmp_path}, which every node"
        ):
            check_nodes(ray, nodes(ray), Needs(marker=marker))
        with pytest.raises(ClusterError, match=r"the node .*: it has no directory /nowhere, which the command was"):
            check_nodes(ray, nodes(ray), Needs(folders=["/nowhere"]))
