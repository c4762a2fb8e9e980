"""The backend verl without verl: refusals, memory, fields of the batch, its log, its checkpoints, cluster checks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import recipe
from training_parts import make_batch, make_outputs

from harness.core.errors import ConfigError, RunError, UsageError
from harness.core.progress import Progress
from harness.core.registry import load
from harness.models.loading import checkpoint_folders
from harness.runs.folder import RunReader
from harness.trainers.batch import minibatches
from harness.trainers.setup import build_setup
from harness.trainers.train import train

Verl = load("backends", "verl")
PACKAGE = "harness.trainers.backends.verl"


def part(name: str) -> Any:
    return __import__(f"{PACKAGE}.{name}", fromlist=["_"])


def setup_of(name: str, folder: Path, **changes: Any) -> Any:
    backend = {"id": "verl", "gpus_per_node": 1, **changes.pop("backend", {})}
    return build_setup(recipe(name, backend=backend, **changes), folder)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy completion of each prompt.*nearest objective is rloo": ("countdown-remax", {}),
    "learns from demonstrations.*--backend loop": ("countdown-base", {"loop": {"samples_per_prompt": 1}}),
    "reference is never reset": (
        "countdown-grpo",
        {"reference": {"reset_every_steps": 2}, "objective": {"kl_beta": 0.1}},
    ),
    "no coefficient that changes": ("countdown-grpo", {"kl": {"place": "loss", "estimator": "k2", "target": 0.1}}),
    "a pass of its own": ("countdown-grpo", {"loop": {"logp_old": "live", "minibatches_per_step": 1}}),
    "layers are not compiled": ("countdown-grpo", {"loop": {"compile": True}}),
    "no stop strings": ("countdown-grpo", {"sampling": {"stop": ["\n"]}}),
    "has none. Use --backend loop": ("countdown-grpo", {"model": {"weights": "random"}}),
    "can't be shared so": ("countdown-grpo", {"backend": {"gpus_per_node": 3}}),
    "make no 3 equal ones": ("countdown-grpo", {"loop": {"minibatches_per_step": 3}}),
    "rollouts are not saved": ("countdown-grpo", {"rollouts": {"save": True}}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_verl_cant_carry_is_refused_with_the_nearest(reason: str, tmp_path: Path) -> None:
    name, changes = REFUSED[reason]
    with pytest.raises(ConfigError, match=rf"(?s)the backend verl can't train this run.*{reason}"):
        setup_of(name, tmp_path, **changes)


@pytest.mark.parametrize(
    "changes", [{"nodes": 0}, {"gpu_memory_utilization": 1.0}, {"gpus_per_node": 8, "tensor_parallel": 3}]
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Verl.Config(**changes)


# --- memory


def memory_of(name: str, folder: Path, **backend: Any) -> Any:
    from harness.core import config as configs
    from harness.core.recipes import find_config
    from harness.trainers.config import TrainConfig

    tree = configs.merge(configs.read_toml(find_config(name)), {"backend": {"id": "verl", **backend}})
    setup = build_setup(configs.parse(TrainConfig, tree), folder)
    return setup.backend.estimate(setup)


def test_the_memory_of_a_gpu_is_the_arithmetic_of_fsdp2(tmp_path: Path) -> None:
    """Qwen2.5-7B has 7,615,616,512 parameters, and its log Z head 3 layers of width 3584."""
    estimate = memory_of("flowrl-math-7b", tmp_path)
    head = 2 * (3584 * 3584 + 3584 + 2 * 3584) + 3584 + 1
    gib = estimate.memory
    assert gib["weights, a GPU"] == 4 * 7_615_616_512 // 8
    assert gib["optimiser states, a GPU"] == 8 * 7_615_616_512 // 8
    assert gib["the objective's own parameters, a GPU"] == 16 * head
    assert gib["weights of the sampler, a GPU"] == 2 * 7_615_616_512
    # 28 layers, 4 key-value heads of 128, bfloat16, keys and values, 2048 + 8192 tokens
    assert gib["keys and values of one longest sequence, a GPU"] == 2 * 28 * 4 * 128 * 2 * 10_240
    assert gib["reference, a node"] == 2 * 7_615_616_512
    assert estimate.shortage is None
    assert estimate.counts["completions of a minibatch on a GPU"] == 32


def test_a_model_that_does_not_fit_names_the_phase_and_the_remedy(tmp_path: Path) -> None:
    short = memory_of("flowrl-math-32b", tmp_path, tensor_parallel=4)
    assert short.is_refused
    assert short.shortage.startswith("DOES NOT FIT: update takes about")
    assert "offload = 'always'" in short.shortage
    assert memory_of("flowrl-math-32b", tmp_path, tensor_parallel=4, offload="always").shortage is None
    assert memory_of("flowrl-math-32b", tmp_path, tensor_parallel=4, nodes=4).shortage is None
    narrow = memory_of("flowrl-math-32b", tmp_path, offload="always")
    assert "raise that or tensor_parallel" in narrow.shortage


# --- fields of the batch


def test_rows_carry_the_totals_of_their_minibatch(tmp_path: Path) -> None:
    fields, scoring = part("fields"), part("scoring")
    setup = setup_of("countdown-grpo", tmp_path)
    batch = make_batch([4] * 8, [3, 5, 1, 4, 2, 5, 6, 2], [0, 0, 1, 1, 2, 2, 3, 3])
    trained = torch.tensor([True] * 7 + [False])
    scored = scoring.score_rows(
        setup.config,
        setup.objective,
        batch,
        make_outputs(batch),
        step=1,
        max_tokens=8,
        minibatches=batch.group_ids // 2,
        trained=trained,
    )
    counts = fields.driver_fields(scored)[fields.COUNTS]
    for rows, totals in minibatches(batch, 2, trained):
        for piece in rows.split(2):  # however it is cut, and wherever it is computed
            found, prompts = fields.totals_in(counts[piece])
            assert (found.n_completions, found.n_tokens) == (totals.n_completions, totals.n_tokens)
            own = totals.tokens_by_prompt[batch.group_ids[piece]]
            assert torch.equal(found.tokens_by_prompt[prompts], own)
            assert (found.tokens_by_prompt > 0).sum() == (totals.tokens_by_prompt > 0).sum()
    with pytest.raises(RunError, match="mixed two minibatches"):
        fields.totals_in(counts[[0, 5]])


def test_each_rank_gets_its_share_of_every_minibatch_in_turn() -> None:
    fields, rows = part("fields"), part("rows")
    places = [0] * 8 + [1] * 8
    workloads = [9, 1, 1, 1, 2, 2, 3, 3, 5, 5, 5, 5, 1, 1, 1, 1]
    order = fields.spread(places, workloads, 2)
    shares = [order[:8], order[8:]]
    assert sorted(order) == list(range(16))
    assert all([places[row] for row in share] == [0] * 4 + [1] * 4 for share in shares)
    loads = [sum(workloads[row] for row in share[4:]) for share in shares]
    assert loads == [12, 12]
    with pytest.raises(RunError, match="3 processes can't share equally"):
        fields.spread(places, workloads, 3)
    names = ["b", "a", "a", "b", "filler", "c"]
    found = rows.minibatch_places(names, [0, 1, 0, 1, 0, 0], [False] * 4 + [True, False], 2)
    assert found == [1, 0, 0, 1, 2, 2]


def test_fields_of_some_rows_become_fields_of_all() -> None:
    fields = part("fields")
    found = fields.scattered(
        {"one": torch.tensor([1.0, 2.0]), "tokens": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}, [0, 2], [2, 3, 1]
    )
    assert found["one"].tolist() == [1.0, 0.0, 2.0]
    assert [row.tolist() for row in found["tokens"]] == [[1.0, 2.0], [0.0] * 3, [3.0]]


def test_an_ungraded_completion_is_in_no_group() -> None:
    row = part("rows").Row("000000001 p", 0, [1, 2], [3, 4], None, {"score": 0.0, "ungraded": 1.0})
    assert not row.is_usable
    assert row.graded(8, {4}).verdict.outcome == "ungraded"
    right = {"score": 1.0, "ungraded": 0.0, "correct": 1.0, "extracted": "x", "solution": "s"}
    graded = part("rows").Row("000000001 p", 0, [1, 2], [3, 5], [-1.0, -2.0], right).graded(2, {4})
    assert (graded.verdict.reward, graded.completion.finish_reason) == (1.0, "length")
    assert graded.verdict.details["solution"] == "s"


# --- its log and its checkpoints


def metrics_line(step: int) -> dict[str, Any]:
    row = {"reward": 0.5, "solve_rate": 0.5, "n_tokens": 100.0, "groups_with_signal": 1.0, "truncated": 0.0}
    data = {f"harness/row/{name}": value for name, value in row.items()}
    data |= {
        "actor/harness/sum/log_z": 6.0,
        "actor/harness/weight/log_z": 4.0,
        "actor/harness/sum/a_mInimum": 1.0,
        "actor/harness/weight/a_mInimum": 2.0,
        "actor/harness/mean/grad_norm": 0.25,
        "actor/harness/max/ratio": 1.5,
        "actor/loss": -0.5,
        "timing_s/gen": 2.0,
        "timing_s/step": 5.0,
        "timing_s/ref": 0.5,
        "timing_s/old_log_prob": 0.5,
        "harness/mean/rows_that_fill_up": 2.0,
    }
    return {"step": step, "data": data}


def test_metrics_of_verl_become_our_step_records(tmp_path: Path) -> None:
    follow = part("follow")
    row = follow.step_row(3, metrics_line(3)["data"])
    expected = {"step": 3, "reward": 0.5, "log_z": 1.5, "a_minimum": 0.5, "grad_norm": 0.25, "ratio_max": 1.5}
    expected |= {"loss": -0.5, "sample_s": 2.0, "score_s": 1.0, "wall_s": 5.0, "tokens_per_s": 20.0}
    assert row.items() >= {**expected, "sampled_tokens_per_s": 50.0, "rows_that_fill_up": 2.0}.items()
    file = follow.MetricsFile(tmp_path / "metrics.jsonl")
    assert list(file.new_rows()) == []
    first, second = (json.dumps(metrics_line(step)) for step in (1, 2))
    (tmp_path / "metrics.jsonl").write_text(first + "\n" + second[:20])
    assert [row["step"] for row in file.new_rows()] == [1]
    (tmp_path / "metrics.jsonl").write_text(first + "\n" + second + "\n")
    assert [row["step"] for row in file.new_rows()] == [2]


FAKE_DRIVER = """
import json, os, sys, torch
from pathlib import Path
from harness.models.loading import load_module, resolve
from harness.core.protocols import ModelSource
settings = dict(line.partition("=")[::2] for line in json.loads(Path(sys.argv[1]).read_text()))
folder = Path(settings["trainer.default_local_dir"].strip("'"))
last, save = int(settings["trainer.total_training_steps"]), int(settings["trainer.save_freq"])
latest = folder / "latest_checkpointed_iteration.txt"
first = int(latest.read_text()) + 1 if latest.exists() else 1
stop = int(os.environ.get("STOP_AFTER", last))
weights = load_module(ModelSource(resolve("countdown-tiny"), device="cpu")).state_dict()
with open(os.environ["VERL_FILE_LOGGER_PATH"], "a") as log:
    for step in range(first, stop + 1):
        if step % save == 0 or step == last:
            actor = folder / f"global_step_{step}" / "actor"
            actor.mkdir(parents=True)
            shard = {name: tensor + step / 1000 for name, tensor in weights.items()}
            torch.save(shard, actor / "model_world_size_1_rank_0.pt")
            torch.save({"step": torch.tensor(step)}, actor / "harness_objective.pt")
            latest.write_text(str(step))
        log.write(json.dumps({"step": step, "data": json.loads(os.environ["LINE"])}) + "\\n")
        log.flush()
if stop < last:
    sys.exit("(WorkerDict pid=7, ip=10.0.0.2) torch.OutOfMemoryError: CUDA out of memory")
"""


@pytest.fixture
def fake_verl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver that writes what verl's writes, in the place of verl, and no cluster."""
    launch = part("launch")
    script = tmp_path / "driver.py"
    script.write_text(FAKE_DRIVER)
    monkeypatch.setenv("LINE", json.dumps(metrics_line(0)["data"]))
    monkeypatch.setenv("PYTHONPATH", str(Path(sys.modules["harness"].__file__).parents[1]))
    monkeypatch.setattr(launch, "driver_command", lambda settings: [sys.executable, str(script), str(settings)])
    monkeypatch.setattr(launch, "check_cluster", lambda *_: None)
    monkeypatch.setattr(launch, "POLL_S", 0.05)
    monkeypatch.setattr(launch.extras, "require", lambda *_: None)


def test_the_name_of_a_checkpoint_that_a_kill_left_empty_is_written_again(tmp_path: Path) -> None:
    launch, checkpoints, options = part("launch"), tmp_path / "checkpoints", None
    assert launch.Attempt.begun(options, options, tmp_path).done == 0
    for step in (9, 10):
        (checkpoints / f"global_step_{step}").mkdir(parents=True)
    latest = checkpoints / "latest_checkpointed_iteration.txt"
    latest.write_text("9")
    assert launch.newest_step(checkpoints) == 9  # the other is not whole
    latest.write_text("")
    assert launch.newest_step(checkpoints) == 10
    assert launch.Attempt.begun(options, options, tmp_path).done == 10
    assert latest.read_text() == "10"


def test_a_run_is_followed_converted_evaluated_and_resumed(
    fake_verl: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = {"every_steps": 2, "n": 1, "limit": 2, "max_tokens": 4}
    config = recipe(
        "countdown-grpo",
        backend={"id": "verl", "gpus_per_node": 1},
        held_out=held_out,
        checkpoint={"every_steps": 1, "keep": 1},
    )
    folder = tmp_path / "run"
    monkeypatch.setenv("STOP_AFTER", "3")
    with pytest.raises(RunError, match=r"(?s)after step 3 of 4.*ip=10\.0\.0\.2\) torch.OutOfMemoryError"):
        train(config, folder, Progress(quiet=True))
    assert [row["step"] for row in RunReader.read(folder).steps()] == [1, 2, 3]
    assert not (folder / "evals").exists()
    monkeypatch.delenv("STOP_AFTER")
    view = train(config, folder, Progress(quiet=True))
    assert view.record.status == "done"
    assert [row["step"] for row in view.steps()] == [1, 2, 3, 4]
    assert sorted(path.name for path in (folder / "evals").iterdir()) == ["step-000002", "step-000004"]
    (newest,) = checkpoint_folders(folder)
    state = torch.load(newest / "training_state.pt", weights_only=True)
    assert (state["step"], int(state["objective"]["step"])) == (4, 4)
    assert state["n_problems_drawn"] == 4 * config.loop.prompts_per_step
    assert (folder / "verl" / "command.sh").read_text().count("trainer.v1.trainer_mode=") == 1
    again = train(config, folder, Progress(quiet=True))  # nothing is left to do
    assert [row["step"] for row in again.steps()] == [1, 2, 3, 4]
    assert len(list((folder / "verl").glob("attempt-*"))) == 2


def test_a_driver_that_stands_still_is_ended(fake_verl: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = part("launch")
    monkeypatch.setattr(
        launch,
        "driver_command",
        lambda _: [sys.executable, "-c", "import time; print('waiting', flush=True); time.sleep(60)"],
    )
    config = recipe("countdown-grpo", backend={"id": "verl", "gpus_per_node": 1, "start_s": 1})
    with pytest.raises(RunError, match=r"(?s)no step after step 0: backend.start_s is 1 s.*waiting"):
        train(config, tmp_path / "run", Progress(quiet=True))


def test_adapters_are_merged_into_their_layers() -> None:
    convert = part("convert")
    base, a, b = torch.randn(4, 3), torch.randn(2, 3), torch.randn(4, 2)
    tensors = {
        "base_model.model.model.q_proj.base_layer.weight": base,
        "base_model.model.model.q_proj.base_layer.bias": torch.ones(4),
        "base_model.model.model.q_proj.lora_A.default.weight": a,
        "base_model.model.model.q_proj.lora_B.default.weight": b,
        "base_model.model.model.norm.weight": torch.ones(3),
    }
    found = dict(convert.without_adapters(iter(tensors.items()), 8.0))
    assert found.keys() == {"model.q_proj.weight", "model.q_proj.bias", "model.norm.weight"}
    torch.testing.assert_close(found["model.q_proj.weight"], base + 4 * b @ a)
    del tensors["base_model.model.model.q_proj.lora_B.default.weight"]
    with pytest.raises(RunError, match=r"lacks a part of the adapters of model\.q_proj"):
        list(convert.without_adapters(iter(tensors.items()), 8.0))


def test_a_large_model_is_written_in_several_files(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    convert = part("convert")
    tensors = {f"w{i}": torch.full((10,), float(i)) for i in range(5)}
    convert.write_safetensors(iter(tensors.items()), tmp_path, file_bytes=80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    found = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_checkpoint_on_disks_that_are_not_shared_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model_world_size_2_rank_0.pt")
    with pytest.raises(RunError, match="1 of 2 processes: with several nodes"):
        part("convert").shards_of(tmp_path)


# --- the cluster


def node(name: str, **changes: Any) -> Any:
    cluster = part("cluster")
    facts = {"versions": {"verl": "0.9.1", "python": "3.11.7"}, "n_gpus": 8}
    return cluster.NodeFacts(name, **{**facts, **changes})


def test_nodes_that_differ_from_the_driver_are_named() -> None:
    disagreements = part("cluster").disagreements
    driver = node("the driver", n_gpus=0)
    assert disagreements(driver, [node("a"), node("b")], 8, 2) == []
    other = node("b", versions={"verl": "0.9.0", "python": "3.11.7"})
    assert disagreements(driver, [node("a"), other], 8, 2) == ["b: verl is 0.9.0, and 0.9.1 on the driver"]
    silent = node("b", plugin_error="ModuleNotFoundError: No module named 'harness'", missing=("flash_attn",))
    first, second = disagreements(driver, [node("a"), silent], 8, 2)
    assert first == "b: flash_attn can't be imported there"
    assert second.startswith("b: the plug-in of harness did not load in verl: ModuleNotFoundError")
    (short,) = disagreements(driver, [node("a"), node("b", n_gpus=4)], 8, 2)
    assert "2 node(s) with 8 GPU(s)" in short and "b has 4" in short


def test_a_run_without_verl_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verl", None)
    config = recipe("countdown-grpo", backend={"id": "verl", "gpus_per_node": 1})
    with pytest.raises(UsageError, match=r"the backend verl needs the extra 'verl'"):
        train(config, tmp_path / "run", Progress(quiet=True))
    assert not (tmp_path / "run").exists()
