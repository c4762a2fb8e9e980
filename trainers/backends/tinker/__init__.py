"""A Tinker server: Tinker itself, or a SkyRL cluster with the same interface. Adapters only.

The server samples, gives log-probabilities, takes gradients and steps the optimiser. Our own loop runs here, with the
objective's advantages and its loss on the log-probabilities that came back; their gradient is sent back. So every
objective can be trained that reads log-probabilities and nothing else of the policy, and everything around it is that
of the loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from harness.core import config as configs
from harness.core.config import PluginChoice, incidental
from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.core.protocols import Backend
from harness.core.seeds import derive
from harness.models.chat import prompt_ids
from harness.models.loading import load_config, load_tokenizer
from harness.models.tinker_server import Server, ServerConfig, check_client
from harness.runs.folder import RunReader, RunWriter, finishing
from harness.trainers.backends.tinker.checks import check_setup, ignored
from harness.trainers.backends.tinker.optimizer import TinkerLearner, TinkerOptimizer
from harness.trainers.backends.tinker.policy import BagOfTokens, RemoteWeights, TinkerPolicy, TinkerReference
from harness.trainers.backends.tinker.reduction import Reduction, measure
from harness.trainers.checkpoint import Checkpoints, explaining_damage
from harness.trainers.checks import check_prompts
from harness.trainers.config import TrainConfig
from harness.trainers.dry_run import DryRun, batch_counts
from harness.trainers.loop import Trainer
from harness.trainers.setup import TrainSetup
from harness.trainers.step_metrics import Diagnostics, StepRecorder, group_keeper
from harness.trainers.trackers import make_trackers
from harness.trainers.train import evaluate_held_out, identity_of, n_sampled, opened, refuse_newer_checkpoint
from harness.trainers.train import rollout_source as make_source

_ALL_IN_ONE = 2**62
"""Tokens of a micro-batch: one request an update, which the server cuts as it can."""
_MAX_GAP = 0.1
"""The largest mean mismatch between the server's sampler and its trainer, which may compute in bfloat16."""


class Tinker(Backend):
    @dataclass(frozen=True, slots=True)
    class Config(ServerConfig):
        reduction: Literal["auto", "sum", "mean_of_means", "token_mean"] = "auto"
        """How the server reduces token losses, which decides the scale of gradients. `auto` measures it, on a server
        that gives the gradient's norm."""
        log_z: Literal["off", "bag_of_tokens"] = "off"
        """Let the client learn log Z from the counts of the prompt's tokens, in the place of hidden states."""
        is_unclipped: bool = False
        """Step the adapters without `optimizer.grad_clip`, on a server that ignores it. What an objective clips by
        itself stays clipped."""
        is_merged: bool = incidental(default=True)
        """Merge the adapters into the base model in checkpoints, for which its weights have to be on this machine."""

    config: Config

    def check(self, setup: TrainSetup) -> None:
        check_client()
        check_setup(setup, self.config.log_z)

    def estimate(self, setup: TrainSetup) -> DryRun:
        counts = batch_counts(setup.config, with_greedy="greedy_reward" in setup.objective.needs)
        remarks = [*setup.warnings, f"The model is on {self.config.base_url}: nothing of it is in memory here"]
        if unused := ignored(setup):
            remarks.append(f"The server decides, so these have no effect: {', '.join(unused)}")
        return DryRun({k: n for k, n in counts.items() if k != "tokens a micro-batch"}, {}, tuple(remarks))

    def train(self, setup: TrainSetup, folder: Path, progress: Progress, *, ignore_memory: bool) -> RunReader:  # noqa: ARG002
        config = setup.config
        for line in self.estimate(setup).remarks:
            progress.warn(line)
        identity = identity_of(setup, progress)
        RunWriter.check(folder, identity)
        trackers = make_trackers(config.track, folder, configs.to_tree(config))
        tokenizer = load_tokenizer(setup.base)
        n_tokens = load_config(setup.base).get_text_config().vocab_size
        table = SimpleNamespace(num_embeddings=n_tokens)
        check_prompts(
            setup.task, setup.base, tokenizer, SimpleNamespace(get_input_embeddings=lambda: table), n_sampled(setup)
        )
        with self._connected(setup, progress) as server:
            parts = self._parts(setup, server, tokenizer, progress)
            with opened(parts.setup, parts.policy.module, tokenizer, progress) as engine_closing:
                store = RunWriter.open(folder, identity)
                with finishing(store), engine_closing.pop_all() as closing:
                    refuse_newer_checkpoint(setup, folder)
                    for tracker in trackers:
                        closing.callback(tracker.close)
                    recorder = StepRecorder(
                        store=store,
                        trackers=trackers,
                        progress=progress,
                        diagnostics=Diagnostics(config.warnings),
                        groups=group_keeper(config, store, tokenizer),
                    )
                    parts.trainer(tokenizer, recorder).fit()
        return store.reader()

    @contextlib.contextmanager
    def _connected(self, setup: TrainSetup, progress: Progress) -> Iterator[Server]:
        """Connect to the server; free what the run holds there, whatever happens next."""
        config = self.config
        with contextlib.ExitStack() as closing:
            with progress.working(f"connecting to {config.base_url}"):
                server = self.config.connect()
                closing.callback(server.close)
                server.check_model(self._base_model(setup))
            yield server

    def _base_model(self, setup: TrainSetup) -> str:
        return self.config.base_model if self.config.base_model is not None else setup.base.path

    def _parts(self, setup: TrainSetup, server: Server, tokenizer: Any, progress: Progress) -> Parts:
        """Create or load what the run has on the server, and what depends on it here."""
        config, name = setup.config, self._base_model(setup)
        with progress.working("measuring how the server scales gradients"):
            reduction = self._reduction(setup, server, tokenizer)
        with progress.working(f"preparing adapters on {name}"):
            if setup.newest is not None:
                client = server.resume(saved_path(setup.newest, config.checkpoint.keep))
            else:
                client = server.create(name, config.lora.rank, derive(config.seed, "lora"))
            weights = RemoteWeights(server, client, keep=config.checkpoint.keep + 1)
            reference = None
            if setup.with_reference:
                frozen = server.create(name, 1, derive(config.seed, "reference"))
                reference = TinkerReference(RemoteWeights(server, frozen, keep=config.checkpoint.keep + 1))
        log_z = BagOfTokens(derive(config.seed, "log_z")) if self.config.log_z == "bag_of_tokens" else None
        policy = TinkerPolicy(weights, setup.base, self.config.is_merged and Path(setup.base.path).is_dir(), log_z)
        if not policy.is_merged:
            progress.warn(
                "checkpoints hold the adapters alone (adapter/), in peft's format: merge them into the base model to "
                "evaluate or serve them"
            )
        setup.objective.prepare(policy.shape, derive(config.seed, "objective"))
        optimizer = TinkerOptimizer(policy, setup.objective, config.optimizer, reduction)
        chosen = self._engine_choice()
        engine = chosen.build()
        engine.follow(server, client)
        return Parts(
            dataclasses.replace(setup, config=_adapted(config, chosen), engine=engine), policy, reference, optimizer
        )

    def _engine_choice(self) -> PluginChoice:
        """Return the engine that samples, as a config names it: the records of held-out evaluations have it."""
        names = [field.name for field in dataclasses.fields(ServerConfig)]
        options = {name: getattr(self.config, name) for name in names}
        return configs.parse_plugin("engines", {"id": "tinker"} | {k: v for k, v in options.items() if v is not None})

    def _reduction(self, setup: TrainSetup, server: Server, tokenizer: Any) -> Reduction:
        """Return how the server reduces losses, measured on adapters of their own."""
        problem = next(setup.task.problems("train", 0))
        ids = prompt_ids(tokenizer, problem.messages)
        probe = server.create(self._base_model(setup), 1, derive(setup.config.seed, "probe"))
        found = measure(server, probe, (ids * 13)[:13])
        server.unload(probe)
        asked = self.config.reduction
        if found is None and asked == "auto":
            raise ConfigError(
                f"the server {self.config.base_url} gives no norm of the gradient, so how it reduces losses can't be "
                "measured: set backend.reduction = 'sum', as the hosted service does by its client's source, or what "
                "its documentation states"
            )
        if found is not None and asked not in ("auto", found):
            raise ConfigError(f"backend.reduction is {asked!r}, and the server reduces by {found!r}: leave it out")
        if found is not None and setup.config.optimizer.grad_clip > 0 and not self.config.is_unclipped:
            raise ConfigError(
                f"the server {self.config.base_url} is SkyRL's, which ignores optimizer.grad_clip: set "
                "backend.is_unclipped = true to step the adapters without it, or optimizer.grad_clip = 0"
            )
        if found is not None:
            return found
        assert asked != "auto"
        return asked


@dataclass(frozen=True, slots=True)
class Parts:
    """A run that is connected: its setup, and what it has on the server."""

    setup: TrainSetup
    policy: Any
    reference: TinkerReference | None
    optimizer: TinkerOptimizer

    def trainer(self, tokenizer: Any, recorder: StepRecorder) -> Trainer:
        reference: Any = self.reference
        return Trainer(
            setup=self.setup,
            policy=self.policy,
            reference=reference,
            tokenizer=tokenizer,
            source=make_source(self.setup, self.policy, tokenizer, recorder.progress),
            engine=self.setup.engine if self.setup.needs_engine else None,
            recorder=recorder,
            evaluate_held_out=lambda: evaluate_held_out(self.setup, recorder.store, recorder.progress),
            make_learner=TinkerLearner,
            optimizer=self.optimizer,
        )


def _adapted(config: TrainConfig, engine: PluginChoice) -> TrainConfig:
    """Return the config that the loop runs with: one request an update, and the engine that samples."""
    gap = config.engine_correction.max_gap
    return dataclasses.replace(
        config,
        engine=engine,
        loop=dataclasses.replace(config.loop, tokens_per_microbatch=_ALL_IN_ONE),
        engine_correction=dataclasses.replace(config.engine_correction, max_gap=gap if gap is not None else _MAX_GAP),
    )


def saved_path(checkpoint: Path, keep: int) -> str:
    """Return where the server keeps the adapters and the optimiser of a checkpoint."""
    _, state = Checkpoints(checkpoint.parents[1], keep).restore(checkpoint)
    with explaining_damage(checkpoint):
        return str(state["optimizer"]["server"]["path"])


BACKEND = Tinker
