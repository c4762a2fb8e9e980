"""TRL's trainer with our objectives: equal to our loop, in one process and in several, and a run like any other."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
import re
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from training import SMALL, assert_same_run, figures, recipe, run, weights
from training_parts import make_batch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.cli import main
from harness.core import config as configs
from harness.core.errors import ConfigError, EngineError, MissingExtraError, RunError, UsageError
from harness.core.types import Request, Sampling
from harness.models.loading import checkpoint_folders, resolve, step_of
from harness.runs.folder import RunReader
from harness.trainers import learner as loop_learner
from harness.trainers.config import TrainConfig
from harness.trainers.policy.lora import Adapters

if importlib.util.find_spec("trl") is None:
    pytest.skip("needs the extra trl", allow_module_level=True)

import fsdp_on_cpu
import psutil

from harness.trainers.backends.trl import learner as trl_learner
from harness.trainers.backends.trl import session, world
from harness.trainers.backends.trl.policy import WrappedPolicy
from harness.trainers.backends.trl.sampling import TrlEngine
from harness.trainers.backends.trl.world import World, explain_lost_process, join

pytestmark = pytest.mark.filterwarnings("default")  # those of TRL and transformers are not ours

EPS = {"eps": 1e-3, "warmup_steps": 0}
"""With AdamW's own eps the first update of a weight is the sign of its gradient, be that a rounding error."""
TABLE = ("countdown-flowrl", "countdown-vargrad_tb", "countdown-grpo", "countdown-maxrl")


def on_trl(name: str, backend: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    return recipe(name, backend={"id": "trl", **(backend if backend is not None else {})}, **changes)


class Gradients:
    """Keeps the gradient of every update, before it is clipped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[torch.Tensor] = []
        clip = loop_learner.clip_gradients

        def kept(optimizer: Any, max_norm: float) -> dict[str, float]:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.found.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
            return clip(optimizer, max_norm)

        monkeypatch.setattr(loop_learner, "clip_gradients", kept)
        monkeypatch.setattr(trl_learner, "clip_gradients", kept)

    def take(self) -> list[torch.Tensor]:
        found, self.found = self.found, []
        return found


def differences(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[float, float]:
    """Return the largest difference of a loss, and that of a gradient relative to it, on the same rollouts."""
    gradients, settings = Gradients(monkeypatch), {"loop": {"steps": 2}, "optimizer": EPS, **changes}
    run(recipe(name, **settings, rollouts={"save": True}), folder / "loop")
    ours = gradients.take()
    run(on_trl(name, **settings, rollouts={"source": str(folder / "loop")}), folder / "trl")
    theirs = gradients.take()
    assert len(ours) == len(theirs) == 4 and all(float(gradient.norm()) > 0 for gradient in ours)
    losses = [[row["loss"] for row in figures(folder / backend)] for backend in ("loop", "trl")]
    of_loss = max(abs(a - b) for a, b in zip(*losses, strict=True))
    return of_loss, max(float((a - b).norm() / a.norm()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", TABLE)
def test_loss_and_gradient_are_those_of_the_loop(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_loss, of_gradient = differences(name, tmp_path, monkeypatch)
    print(f"{name}: loss {of_loss:.1e}, gradient {of_gradient:.1e}")
    assert of_loss < 1e-5 and of_gradient < 1e-3


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("countdown-ppo", {}),  # a critic reads the states of completions
        ("countdown-flowrl_release", {}),  # the gradient of log Z flows into the policy, and is clipped with it
        ("countdown-prorl", {"reference": {"reset_every_steps": 1}}),
        ("countdown-grpo", {"lora": {"rank": 4}, "kl": {"place": "loss", "estimator": "k2", "coefficient": 0.1}}),
        ("countdown-grpo", {"loop": {"steps": 2, "minibatches_per_step": 4, "entropy_bonus": 0.1, "epochs": 2}}),
    ],
)
def test_whatever_else_the_loop_trains_is_trained_alike(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {"loop": {"steps": 2}, "optimizer": EPS, **changes}
    run(recipe(name, **settings, rollouts={"save": True}), tmp_path / "loop")
    run(on_trl(name, **settings, rollouts={"source": str(tmp_path / "loop")}), tmp_path / "trl")
    assert_moved_alike(tmp_path / "loop", tmp_path / "trl")


def assert_moved_alike(one: Path, other: Path, tolerance: float = 1e-3) -> None:
    """Compare how two runs have moved the weights of the bundled model."""
    base = AutoModelForCausalLM.from_pretrained(resolve("countdown-tiny")).state_dict()
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    moves = [torch.cat([(of[name] - base[name]).flatten() for name in first]) for of in (first, second)]
    assert moves[0].abs().max() > 1e-5, "the weights moved"
    assert float((moves[0] - moves[1]).norm() / moves[0].norm()) < tolerance


# --- a run like any other -----------------------------------------------------------------------------------------


def test_run_has_the_same_folder_and_metrics_as_one_of_the_loop(tmp_path: Path) -> None:
    settings = {"loop": {"steps": 2}, "optimizer": EPS, "held_out": {"every_steps": 2, "limit": 3, "n": 2}}
    views = [
        run(config, tmp_path / name)
        for name, config in (
            ("loop", recipe("countdown-flowrl", **settings)),
            ("trl", on_trl("countdown-flowrl", **settings)),
        )
    ]
    files = [{str(p.relative_to(view.folder)) for p in view.folder.rglob("*")} for view in views]
    assert files[0] == files[1]
    assert [sorted(row) for row in views[0].steps()] == [sorted(row) for row in views[1].steps()]
    assert views[1].record.status == "done" and "trl" in views[1].record.environment
    held_out = RunReader.read(tmp_path / "trl" / "evals" / "step-000002")
    assert held_out.estimates()["countdown"][0].n_completions == 6
    assert_moved_alike(tmp_path / "loop", tmp_path / "trl")  # it sampled the same completions


@pytest.mark.parametrize("sampler", ["engine", "transformers"])
@pytest.mark.parametrize("lora", [{}, {"lora": {"rank": 2}}])
def test_resumed_run_equals_an_unbroken_one_to_the_bit(sampler: str, lora: dict[str, Any], tmp_path: Path) -> None:
    def config(steps: int) -> TrainConfig:
        settings = {"loop": {"steps": steps}, "checkpoint": {"every_steps": 1}, **lora}
        return on_trl("countdown-flowrl", {"sampler": sampler}, **settings)

    run(config(3), tmp_path / "unbroken")
    run(config(1), tmp_path / "broken")
    run(config(3), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    run(config(3), tmp_path / "broken")  # nothing is left to do
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_truncated_completions_are_left_out_even_if_none_remains(tmp_path: Path) -> None:
    short = {"sampling": {"max_tokens": 2}, "overlong": {"mask_truncated": True}, "loop": {"steps": 2}}
    view = run(on_trl("countdown-grpo", **short), tmp_path / "run")
    assert [row["truncated"] for row in view.steps()] == [1.0, 1.0]
    assert not any("loss" in row for row in view.steps())


def test_gradient_that_is_not_finite_stops_the_run_or_is_skipped(tmp_path: Path) -> None:
    config = on_trl("countdown-flowrl", loop={"steps": 2})
    clip, calls = trl_learner.clip_gradients, itertools.count()

    def once_infinite(*arguments: Any) -> dict[str, float]:
        norms = clip(*arguments)
        return {**norms, "grad_norm": math.inf} if next(calls) == 1 else norms

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trl_learner, "clip_gradients", once_infinite)
        with pytest.raises(Exception, match="the gradient is not finite"):
            run(config, tmp_path / "stop")
        skipping = on_trl("countdown-flowrl", loop={"steps": 2}, optimizer={"on_non_finite": "skip"})
        calls = itertools.count()
        rows = run(skipping, tmp_path / "skip").steps()
    assert [row["updates_skipped"] for row in rows] == [0.5, 0.0]


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backend", "changes", "message"),
    [
        ("countdown-base", {}, {}, "learns from demonstrations.* use --backend loop"),
        ("countdown-remax", {"sampler": "transformers"}, {}, "greedy completion.*backend.sampler = 'engine'"),
        ("countdown-grpo", {}, {"loop": {"compile": True}}, "loop.compile"),
        ("countdown-grpo", {"sampler": "transformers"}, {"loop": {"logp_old": "engine"}}, "logp_old = 'auto'"),
        ("countdown-grpo", {"sampler": "transformers"}, {"sampling": {"stop": ["x"]}}, "stop strings"),
        ("countdown-grpo", {"arguments": {"beta": 0.1}}, {}, "arguments.beta follows from the recipe"),
        (
            "countdown-grpo",
            {"arguments": {"vllm_moed": "server"}},
            {},
            "not an argument of TRL's GRPOConfig.*vllm_mode",
        ),
    ],
)
def test_settings_that_trl_cannot_carry_are_refused_before_anything_is_written(
    name: str, backend: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, UsageError), match=message):
        run(on_trl(name, backend, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mixed_precision_of_the_launcher_is_that_of_the_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match="mixed_precision: 'no' in accelerate's config"):
        run(on_trl("countdown-grpo"), tmp_path / "run")


class Vllm:
    """As TRL's trainer looks with vLLM: it generates, and returns the log-probability of each token."""

    max_completion_length, temperature, eos_token_ids = 4, 1.0, [1]

    def __init__(self, logp: float | None) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(resolve("countdown-tiny"))
        self.asked: list[tuple[int, int]] = []
        self._logp = logp

    def _generate_single_turn(self, prompts: list[list[int]], images: None, fields: Any, n: int) -> Any:
        self.asked.append((len(prompts), n))
        return [[5, 6, 7, 8], [5, 1]] * (len(prompts) // 2), [[-0.5, self._logp, -0.5, -0.5], [-0.1, -0.2]] * 2


def test_completions_of_vllm_come_with_its_log_probabilities() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve("countdown-tiny"))
    problems = list(itertools.islice(configs.parse_plugin("tasks", "countdown").build().problems("train", 0), 2))
    requests = [Request(p.id, i, p.messages, 9, Sampling(max_tokens=4)) for p in problems for i in range(2)]
    vllm = Vllm(-0.25)
    found = list(TrlEngine(vllm, tokenizer).generate(requests))
    assert vllm.asked == [(4, 2)]
    assert [(c.problem_id, c.index, c.finish_reason) for c in found] == [
        (p.id, i, reason) for p in problems for i, reason in enumerate(("length", "stop"))
    ]
    assert found[0].tokens.logp_behaviour == (-0.5, -0.25, -0.5, -0.5)
    assert found[1].text == tokenizer.decode([5]) and found[1].tokens.completion_ids == (5, 1)
    with pytest.raises(EngineError, match="without a log-probability"):
        list(TrlEngine(Vllm(None), tokenizer).generate(requests))
    longer = [dataclasses.replace(request, sampling=Sampling(max_tokens=9)) for request in requests]
    with pytest.raises(EngineError, match=r"backend\.sampler = 'engine'"):
        list(TrlEngine(vllm, tokenizer).generate(longer))


def test_vllm_gets_weights_with_the_adapters_in_them(tmp_path: Path) -> None:
    config = recipe("countdown-grpo", lora={"rank": 2})
    module = AutoModelForCausalLM.from_pretrained(resolve("countdown-tiny"))
    names = [name for name, _ in module.named_parameters()]
    adapters = Adapters(module, config.lora, 0, "base")
    generation = types.SimpleNamespace(_fix_param_name_to_vllm=lambda name: name)
    session._send_merged_weights(generation, WrappedPolicy(module, World(), adapters, torch.device("cpu")))
    assert sorted(name for name, _ in generation._iter_named_params()) == sorted(names)


# --- processes that do not meet -----------------------------------------------------------------------------------


def meet(monkeypatch: pytest.MonkeyPatch, rank: int, port: int, wait_s: float) -> None:
    for name, value in {"WORLD_SIZE": 2, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    join(on_cpu=True, wait_s=wait_s)


def test_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} is in use on .*--main_process_port"):
            meet(monkeypatch, 0, port, 5)


def test_process_that_no_other_joins_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    began_s = time.monotonic()
    with pytest.raises(UsageError, match=r"process 1 of 2 .* did not meet the others .* within 1 s"):
        meet(monkeypatch, 1, free_port(), 1)
    assert time.monotonic() - began_s < 30


def test_nodes_with_a_missing_extra_or_other_versions_are_named() -> None:
    node = {"host": "a", "missing": "", "trl": "1.16.0", "torch": "2.13.0"}
    world._refuse_differences([node, {**node, "host": "b"}])
    with pytest.raises(MissingExtraError, match="the extra 'trl' on b: pip install"):
        world._refuse_differences([node, {**node, "host": "b", "missing": "pip install x"}])
    with pytest.raises(
        UsageError, match=r"a and b have different versions: torch 2.13.0 and 2.12.0; peft miss.* and 1"
    ):
        world._refuse_differences([node, {**node, "host": "b", "torch": "2.12.0", "peft": "1"}])


def test_error_of_the_network_becomes_that_of_a_lost_process() -> None:
    with pytest.raises(RunError, match=r"process 1 of 2 .* lost another one"), explain_lost_process(World(1, 2)):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4")
    with pytest.raises(RuntimeError, match="shapes"), explain_lost_process(World(1, 2)):
        raise RuntimeError("shapes do not match")


def test_dry_run_prints_what_each_process_gets(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    arguments = ["train", "countdown-flowrl", "--backend", "trl", "--dry-run", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert re.search(r"# processes +4\n# prompts a process, at most +4\n", out) and "[backend]" in out
    assert main([*arguments, "--set", "loop.prompts_per_step=3", "--set", "loop.minibatches_per_step=1"]) == 2
    assert "less than the 4 processes" in capsys.readouterr().err


# --- several processes --------------------------------------------------------------------------------------------

LAUNCHERS = {"DDP": ["-m", "harness"], "FSDP2": [str(Path(fsdp_on_cpu.__file__))]}


def launched(strategy: str, name: str, folder: Path, *settings: str) -> list[str]:
    """Return the command of a run in two processes, with the batches of `recipe` and 3 completions of 5 prompts."""
    loop = {**SMALL, "prompts_per_step": 5, "samples_per_prompt": 3}
    sets = [*(f"loop.{key}={value}" for key, value in loop.items()), *(f"optimizer.{k}={v}" for k, v in EPS.items())]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command = [*launcher, *LAUNCHERS[strategy], "train", name, "--backend", "trl", "--out", str(folder)]
    return [*command, *(part for setting in (*sets, *settings) for part in ("--set", setting))]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def in_one_process(name: str, **changes: Any) -> TrainConfig:
    loop = {"prompts_per_step": 5, "samples_per_prompt": 3, **changes.pop("loop", {})}
    return on_trl(name, loop=loop, optimizer=EPS, **changes)


@pytest.mark.parametrize(
    ("strategy", "name", "changes"),
    [
        ("DDP", "countdown-flowrl", {}),
        ("DDP", "countdown-grpo", {"lora": {"rank": 4}}),
        ("FSDP2", "countdown-flowrl_recipe", {"objective": {"log_z_dropout": 0.0}}),
        ("FSDP2", "countdown-vargrad_tb", {"lora": {"rank": 4}}),
    ],
)
def test_two_processes_learn_what_one_learns(strategy: str, name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    settings = [f"{section}.{key}={value}" for section, keys in changes.items() for key, value in keys.items()]
    two = launched(strategy, name, tmp_path / "two", *settings, "rollouts.save=true")
    if not changes or strategy == "FSDP2":  # in two parts, the second after a resume
        first = subprocess.run([*two, "--set", "loop.steps=2"], capture_output=True, text=True, timeout=300)
        assert first.returncode == 0, first.stderr[-3000:]
    last = subprocess.run(two, capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr[-3000:]
    assert last.stdout == f"{tmp_path / 'two'}\n", "one process prints"
    one = run(in_one_process(name, rollouts={"source": str(tmp_path / "two")}, **changes), tmp_path / "one")
    for ours, theirs in zip(figures(tmp_path / "two"), figures(one.folder), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3, abs=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    # The first gradient of log Z is a rounding error, which grows where log Z is learned.
    assert_moved_alike(tmp_path / "one", tmp_path / "two", tolerance=1e-2)


def test_dead_process_ends_the_run_which_then_resumes(tmp_path: Path) -> None:
    command = launched("DDP", "countdown-flowrl", tmp_path / "run", "checkpoint.every_steps=1", "backend.wait_s=60")
    with subprocess.Popen([*command, "--set", "loop.steps=500"], stderr=subprocess.PIPE, text=True) as launcher:
        wait_for(lambda: (tmp_path / "run" / "checkpoints" / "step-000002").exists())
        processes = {child.environ().get("RANK"): child for child in psutil.Process(launcher.pid).children()}
        processes["1"].kill()
        _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode != 0 and "SIGKILL" in errors
    newest = step_of(checkpoint_folders(tmp_path / "run")[-1])
    # by one process, what two had begun
    run(in_one_process("countdown-flowrl", loop={"steps": newest + 1}), tmp_path / "run")
    assert [row["step"] for row in RunReader.read(tmp_path / "run").steps()] == list(range(1, newest + 2))


def wait_for(condition: Any, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_rows_are_divided_once_and_into_as_many_pieces_for_each_process() -> None:
    lengths = [9, 3, 5, 5, 2, 7, 1]
    batch = make_batch([4] * 7, lengths, [0, 0, 1, 1, 2, 2, 2], [0.0] * 7)
    for n, max_tokens in itertools.product((1, 2, 3, 4, 9), (1, 16, 40, 1000)):
        each = trl_learner.shares(batch, torch.arange(7), max_tokens, n)
        assert len({len(mine) for mine in each}) == 1 and len(each) == n
        real = [row for mine in each for share in mine if not share.is_filler for row in share.rows.tolist()]
        assert sorted(real) == list(range(7))
    alone = trl_learner.shares(batch, torch.arange(7), 16, 1)[0]
    assert [share.rows.tolist() for share in alone] == [[0], [5], [2], [3], [1, 4], [6]]
