"""`harness train`: from a config to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.core import config as configs
from harness.core.errors import RunError
from harness.core.progress import Progress
from harness.core.seeds import derive
from harness.data.dataset_facts import task_facts
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import evaluate_opened
from harness.evaluation.setup import grader_name, resolve
from harness.models.loading import fingerprint, load_module, load_tokenizer
from harness.runs.folder import RunIdentity, RunReader, RunWriter, finishing
from harness.trainers.batch import collate
from harness.trainers.checkpoint import Checkpoints
from harness.trainers.checks import check_prompts
from harness.trainers.config import TrainConfig
from harness.trainers.policy.model import Policy
from harness.trainers.rollouts import Demonstrations, RolloutSource, Sampler
from harness.trainers.saved_rollouts import RolloutWriter, SavedRollouts, rollout_facts
from harness.trainers.setup import TrainSetup, build_setup, held_out_tasks
from harness.trainers.step_metrics import StepMetrics, shown


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn an allocator's error into one that names the settings to lower. They may change on resuming."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            "out of memory. Lower loop.tokens_per_microbatch (training) or engine.batch_rows (sampling), or set "
            "loop.gradient_checkpointing = true, and run the same command again: it goes on from the newest "
            "checkpoint. --dry-run estimates what a step takes"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Recognise the type that a GPU raises, and the words of torch's RuntimeError on a processor."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def train(config: TrainConfig, folder: Path, progress: Progress, *, ignore_memory: bool = False) -> RunReader:
    """Open or resume the run folder and train to the last step. Everything that can be refused is refused first.

    A run that does not fit into memory by the estimate of `--dry-run` is refused too, unless `ignore_memory` is set.
    """
    with progress.working(f"reading the task {config.task.id}"):
        setup = build_setup(config, folder)
    if config.rollouts.only:
        return collect(setup, folder, progress)
    reader: RunReader = setup.backend.train(setup, folder, progress, ignore_memory=ignore_memory)
    return reader


def check_memory(setup: TrainSetup, progress: Progress, *, ignore_memory: bool) -> None:
    """Print the warnings about the settings, and refuse a run that does not fit into memory."""
    with progress.working(f"estimating the memory of {setup.config.model.path}"):
        estimate = setup.backend.estimate(setup)
    estimate.check(progress, ignore_memory=ignore_memory)
    for line in setup.warnings:
        progress.warn(line)


def identity_of(setup: TrainSetup, progress: Progress) -> RunIdentity:
    """Return everything that must agree when the run is resumed."""
    config = setup.config
    facts = {config.task.id: data_facts(setup, progress), "model": fingerprint(setup.base.path)}
    if setup.saved is not None:
        facts |= setup.saved.about()
    return RunIdentity.of("train", config, seeds={"run": config.seed}, data=facts)


def refuse_newer_checkpoint(setup: TrainSetup, folder: Path) -> None:
    """Raise if another process has saved a checkpoint since this one read the newest."""
    if Checkpoints(folder, setup.config.checkpoint.keep).newest() != setup.newest:
        raise RunError("another process has just trained this run further; run the same command again")


@contextlib.contextmanager
def opened(setup: TrainSetup, module: Any, tokenizer: Any, progress: Progress) -> Iterator[contextlib.ExitStack]:
    """Open the engine, where anything is sampled; what is yielded closes it, whatever happens next."""
    with contextlib.ExitStack() as closing:
        if setup.needs_engine:
            with progress.working(f"starting the engine {setup.config.engine.id}"):
                setup.engine.open(dataclasses.replace(setup.sampling_source, module=module, tokenizer=tokenizer))
            closing.callback(setup.engine.close)
        yield closing


def rollout_source(setup: TrainSetup, policy: Policy, tokenizer: Any, progress: Progress) -> RolloutSource:
    config, objective = setup.config, setup.objective
    if setup.saved is not None:
        is_recomputed = config.loop.logp_old in ("recompute", "live")
        return SavedRollouts(setup.saved, objective, policy, progress, is_recomputed)
    if objective.source == "demonstrations":
        return Demonstrations(config, setup.task, tokenizer)
    return Sampler(config, setup.task, setup.engine, "greedy_reward" in objective.needs)


def n_sampled(setup: TrainSetup) -> int:
    """Return how many tokens follow a prompt at most; demonstrations have their own length."""
    return setup.max_tokens if setup.objective.source == "policy" else 0


def data_facts(setup: TrainSetup, progress: Progress) -> dict[str, Any]:
    """Return what the run record keeps of the task and its grader. Unknown data are warned of, or refused."""
    config = setup.config
    grader = grader_name(setup.task, config.grader)
    with progress.working(f"reading the data of {config.task.id}"):
        return task_facts(setup.task, "train", grader=grader, is_strict=config.strict_data, warn=progress.warn)


def evaluate_held_out(setup: TrainSetup, store: RunWriter, progress: Progress, checkpoint: Path | None = None) -> None:
    """Run the same evaluation as `harness eval`, in a run folder of its own inside this one.

    The newest checkpoint is evaluated, unless another is given.
    """
    config, held = setup.config, setup.config.held_out
    if checkpoint is None:
        checkpoint = Checkpoints(store.folder, config.checkpoint.keep).newest()
    assert checkpoint is not None, "a checkpoint is saved before every held-out evaluation"
    folder = store.folder / "evals" / checkpoint.name
    if (folder / "run.json").exists() and RunReader.read(folder).record.status == "done":
        return
    sampling = dataclasses.replace(
        config.sampling,
        temperature=held.temperature if held.temperature is not None else config.sampling.temperature,
        max_tokens=held.max_tokens if held.max_tokens is not None else config.sampling.max_tokens,
    )
    settings = configs.parse(
        EvalConfig,
        {
            "model": {**configs.to_tree(config.model), "path": str(checkpoint), "weights": "pretrained"},
            "tasks": [configs.to_tree(chosen) for chosen in held_out_tasks(config)],
            "engine": configs.to_tree(config.engine),
            "sampling": configs.to_tree(sampling),
            "split": held.split,
            "n": held.n,
            "limit": held.limit,
            "seed": derive(config.seed, "held-out"),
        },
    )
    evaluation = resolve(settings, folder, progress, engine=setup.engine, tasks=setup.held_out)
    evaluate_opened(evaluation, progress)


# --- --rollouts-only --------------------------------------------------------------------------------------------


def collect(setup: TrainSetup, folder: Path, progress: Progress) -> RunReader:
    """Open or resume the run folder, sample every step from the model as it is, and train nothing."""
    config, task = setup.config, setup.task
    data = data_facts(setup, progress)
    facts = {config.task.id: data, "model": fingerprint(setup.base.path)}
    identity = RunIdentity.of("rollouts", config, seeds={"run": config.seed}, data=facts)
    RunWriter.check(folder, identity)  # loading a large model takes minutes
    with progress.working(f"loading {config.model.path}"):
        tokenizer, module = load_tokenizer(setup.base), load_module(setup.base)
    check_prompts(task, setup.base, tokenizer, module, n_sampled(setup))
    saved_facts = rollout_facts(config, task, data, tokenizer, module.state_dict().items())
    with opened(setup, module, tokenizer, progress) as engine_closing:
        setup.engine.load_weights(module.state_dict().items(), version=0)
        store = RunWriter.open(folder, identity)
        with finishing(store), engine_closing.pop_all() as closing:
            writer = RolloutWriter(folder, saved_facts)
            closing.callback(writer.close)
            sampler = Sampler(config, task, setup.engine, "greedy_reward" in setup.objective.needs)
            _collect_steps(setup, sampler, writer, store, saved_facts["must_agree"]["weights"], progress)
    return store.reader()


def _collect_steps(
    setup: TrainSetup, sampler: Sampler, writer: RolloutWriter, store: RunWriter, weights: str, progress: Progress
) -> None:
    n_steps = setup.config.loop.steps
    sampler.start(writer.n_problems_drawn)
    store.rewind_steps(writer.last_step)
    progress.begin("sample", n_steps, writer.last_step)
    for step in range(writer.last_step + 1, n_steps + 1):
        metrics = StepMetrics(step)
        with metrics.phase("sample"):
            rollouts = sampler.draw(step)
        metrics.add_rollouts(rollouts, collate(rollouts.chosen, "cpu"))
        row: dict[str, Any] = metrics.row()
        store.append_step(row)
        writer.append(step, rollouts, weights)
        progress.advance(figures=shown(row))
    progress.end()
