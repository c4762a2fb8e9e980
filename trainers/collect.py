"""`harness train --rollouts-only`: every step's rollouts from the model as it is, to a file, and no training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.progress import Progress
from harness.models.loading import fingerprint, load_module, load_tokenizer
from harness.runs.folder import RunReader, RunWriter, ending
from harness.trainers.batch import collate
from harness.trainers.checks import refuse_prompts_the_model_cannot_read
from harness.trainers.config import TrainConfig
from harness.trainers.policies import sampling_source
from harness.trainers.rollout_file import RolloutWriter
from harness.trainers.rollouts import Sampler
from harness.trainers.saved_rollouts import data_facts, rollout_facts
from harness.trainers.step_metrics import StepRecord

if TYPE_CHECKING:
    from harness.trainers.train import TrainSetup


def collect(config: TrainConfig, parts: TrainSetup, folder: Path, progress: Progress) -> RunReader:
    """Open or resume the run folder, and sample to the last step."""
    data = data_facts(config, parts.task, progress)
    about = {config.task.id: data, "model": fingerprint(parts.base.path)}
    RunWriter.refuse(folder, "rollouts", config, about)  # before what takes minutes with a large model
    tokenizer, module = load_tokenizer(parts.base), load_module(parts.base)
    refuse_prompts_the_model_cannot_read(config, parts, tokenizer, module)
    facts = rollout_facts(config, parts.task, data, tokenizer, module.state_dict().items())
    parts.engine.open(dataclasses.replace(sampling_source(config, parts.base), module=module, tokenizer=tokenizer))
    parts.engine.load_weights(module.state_dict().items(), version=0)
    store = RunWriter.open(folder, "rollouts", config, seeds={"run": config.seed}, data=about)
    with ending(store):
        writer = RolloutWriter(folder, facts)
        try:
            sampler = Sampler(config, parts.task, parts.objective, parts.engine, tokenizer)
            _fill(config, sampler, writer, store, facts["must_agree"]["weights"], progress)
        finally:
            writer.close()
            parts.engine.close()
    return store.view()


def _fill(
    config: TrainConfig, sampler: Sampler, writer: RolloutWriter, store: RunWriter, weights: str, progress: Progress
) -> None:
    stream = sampler.problems(writer.n_problems_drawn)
    store.rewind_steps(writer.last_step)
    progress.begin("sample", config.loop.steps, writer.last_step)
    for step in range(writer.last_step + 1, config.loop.steps + 1):
        record = StepRecord(step)
        with record.phase("sample"):
            rollouts = sampler.draw(step, stream)
        record.note_samples(rollouts, collate(rollouts.chosen, "cpu"))
        row: dict[str, Any] = record.row()
        store.append_step(row)
        writer.append(step, rollouts, weights)
        progress.advance(figures={name: row[name] for name in ("reward", "solve_rate")})
    progress.end()
