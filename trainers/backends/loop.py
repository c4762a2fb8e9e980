"""Our own loop: one process, one device. The default."""

from __future__ import annotations

from pathlib import Path

from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.protocols import Backend
from harness.core.seeds import derive
from harness.models.loading import load_tokenizer
from harness.runs.folder import RunReader, RunWriter, finishing
from harness.trainers.checks import check_prompts
from harness.trainers.dry_run import DryRun, dry_run
from harness.trainers.loop import Trainer
from harness.trainers.policy.model import load_policies
from harness.trainers.saved_rollouts import RolloutWriter, refuse_other_rollouts, rollout_facts
from harness.trainers.setup import TrainSetup
from harness.trainers.step_metrics import Diagnostics, StepRecorder, group_keeper
from harness.trainers.trackers import make_trackers
from harness.trainers.train import (
    check_memory,
    evaluate_held_out,
    explain_out_of_memory,
    identity_of,
    n_sampled,
    opened,
    refuse_newer_checkpoint,
    rollout_source,
)


class Loop(Backend):
    def check(self, setup: TrainSetup) -> None:
        """Every objective can be trained here."""

    def estimate(self, setup: TrainSetup) -> DryRun:
        return dry_run(setup.config, setup)

    @explain_out_of_memory()
    def train(self, setup: TrainSetup, folder: Path, progress: Progress, *, ignore_memory: bool) -> RunReader:
        config = setup.config
        check_memory(setup, progress, ignore_memory=ignore_memory)
        identity = identity_of(setup, progress)
        RunWriter.check(folder, identity)
        trackers = make_trackers(config.track, folder, configs.to_tree(config))  # loading the model may take minutes
        with progress.working(f"loading {config.model.path}"):
            tokenizer = load_tokenizer(setup.base)
            policy, reference = load_policies(
                config, setup.base, setup.newest, setup.temperature, with_reference=setup.with_reference
            )
        check_prompts(setup.task, setup.base, tokenizer, policy.module, n_sampled(setup))
        setup.objective.prepare(policy.shape, derive(config.seed, "objective"))
        saved_facts = rollout_facts(config, setup.task, identity.data[config.task.id], tokenizer, policy.tensors())
        if setup.saved is not None:
            refuse_other_rollouts(setup.saved, saved_facts, is_begun=setup.newest is not None)
        with opened(setup, policy.module, tokenizer, progress) as engine_closing:
            store = RunWriter.open(folder, identity)
            with finishing(store), explain_out_of_memory(), engine_closing.pop_all() as closing:
                refuse_newer_checkpoint(setup, folder)
                for tracker in trackers:
                    closing.callback(tracker.close)
                writer = RolloutWriter(folder, saved_facts) if config.rollouts.save else None
                if writer is not None:
                    closing.callback(writer.close)
                Trainer(
                    setup=setup,
                    policy=policy,
                    reference=reference,
                    tokenizer=tokenizer,
                    source=rollout_source(setup, policy, tokenizer, progress),
                    engine=setup.engine if setup.needs_engine else None,
                    recorder=StepRecorder(
                        store=store,
                        trackers=trackers,
                        progress=progress,
                        diagnostics=Diagnostics(config.warnings),
                        groups=group_keeper(config, store, tokenizer),
                    ),
                    evaluate_held_out=lambda: evaluate_held_out(setup, store, progress),
                    writer=writer,
                ).fit()
        return store.reader()


BACKEND = Loop
