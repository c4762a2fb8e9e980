"""A run with TRL, put together: model and reference, trainer, engine, and what writes the run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.errors import ConfigError, EngineError, RunError
from harness.core.progress import Progress
from harness.core.protocols import Engine
from harness.core.seeds import derive
from harness.models.loading import load_module, load_tokenizer, pick_device
from harness.runs.folder import RunIdentity, RunWriter, finishing
from harness.trainers.backends.trl.learner import SharedLearner, own_optimizer
from harness.trainers.backends.trl.policy import WrappedPolicy
from harness.trainers.backends.trl.sampling import SharedSampler, TrlEngine
from harness.trainers.backends.trl.steps import Steps
from harness.trainers.backends.trl.trainer import ObjectiveTrainer, trl_arguments
from harness.trainers.backends.trl.world import World
from harness.trainers.checks import check_prompts
from harness.trainers.engine_mismatch import largest_mismatch
from harness.trainers.kl import AdaptiveKl
from harness.trainers.policy.lora import AdapterReference, Adapters
from harness.trainers.reference import ReferenceReset
from harness.trainers.rollouts import RolloutSource
from harness.trainers.saved_rollouts import RolloutWriter, refuse_other_rollouts, rollout_facts
from harness.trainers.setup import TrainSetup
from harness.trainers.step_metrics import Diagnostics, StepRecorder, group_keeper
from harness.trainers.trackers import Tracker, make_trackers
from harness.trainers.train import (
    check_memory,
    evaluate_held_out,
    identity_of,
    n_sampled,
    refuse_newer_checkpoint,
    rollout_source,
)


def train(
    setup: TrainSetup, options: Any, world: World, folder: Path, progress: Progress, *, ignore_memory: bool
) -> None:
    """Train to the last step. `options` are those of the backend."""
    config = setup.config
    check_memory(setup, progress, ignore_memory=ignore_memory)
    identity = identity_of(setup, progress)
    _refuse_different_views(setup, identity, world)
    trackers: Sequence[Tracker] = ()
    if world.is_main:
        RunWriter.check(folder, identity)
        trackers = make_trackers(config.track, folder, configs.to_tree(config))
    with contextlib.ExitStack() as closing:
        for tracker in trackers:
            closing.callback(tracker.close)
        scratch = closing.enter_context(tempfile.TemporaryDirectory(prefix="harness-trl-"))
        with progress.working(f"loading {config.model.path}"):
            parts = _load(setup, options, world, scratch)
        tokenizer, policy = parts.tokenizer, parts.policy
        check_prompts(setup.task, setup.base, tokenizer, policy.module, n_sampled(setup))
        setup.objective.prepare(policy.shape, derive(config.seed, "objective"))
        saved_facts = rollout_facts(config, setup.task, identity.data[config.task.id], tokenizer, policy.tensors())
        if setup.saved is not None:
            refuse_other_rollouts(setup.saved, saved_facts, is_begun=setup.newest is not None)
        engine = _open_engine(setup, options, world, parts, progress, closing)
        store = closing.enter_context(_opened_folder(setup, world, folder, identity))
        writer = None
        if store is not None and config.rollouts.save:
            writer = RolloutWriter(folder, saved_facts)
            closing.callback(writer.close)
        recorder = None
        if store is not None:
            recorder = StepRecorder(
                store=store,
                trackers=trackers,
                progress=progress,
                diagnostics=Diagnostics(config.warnings),
                groups=group_keeper(config, store, tokenizer),
            )
        parts.trainer.steps = Steps(
            setup=setup,
            world=world,
            policy=policy,
            tokenizer=tokenizer,
            source=_source(setup, options, world, parts, progress),
            engine=engine,
            samples=_engine_samples(setup, options),
            folder=folder,
            recorder=recorder,
            progress=progress,
            evaluate_held_out=lambda: evaluate_held_out(setup, store, progress) if store is not None else None,
            reference=parts.reference_module,
            writer=writer,
        )
        _run(parts, setup, options)


def _run(parts: Parts, setup: TrainSetup, options: Any) -> None:
    if parts.n_updates == 0:
        parts.trainer.steps.begin(None)
        return
    parts.trainer.make_learner = lambda: _learner(setup, options, parts)
    parts.trainer.train()
    if not parts.trainer.steps.is_done:
        raise RunError("TRL's trainer ended before the last step; the same command goes on from the newest checkpoint")


def _refuse_different_views(setup: TrainSetup, identity: RunIdentity, world: World) -> None:
    """Raise if the processes would do different things: another config, or a folder that they don't share."""
    views = world.gather((identity.digest, setup.newest.name if setup.newest is not None else None))
    for rank, (digest, newest) in enumerate(views):
        if digest != views[0][0]:
            raise ConfigError(f"process {rank} was started with another config than the first one; start all alike")
        if newest != views[0][1]:
            raise ConfigError(
                f"process {rank} sees the newest checkpoint {newest} and the first one {views[0][1]}: --out must be on "
                "a file system that all nodes share"
            )


@contextlib.contextmanager
def _opened_folder(setup: TrainSetup, world: World, folder: Path, identity: RunIdentity) -> Iterator[RunWriter | None]:
    """Open the run folder in the first process."""
    if not world.is_main:
        yield None
        return
    store = RunWriter.open(folder, identity)
    with finishing(store):
        refuse_newer_checkpoint(setup, folder)
        yield store


# --- the model and the trainer --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that has weights."""

    trainer: ObjectiveTrainer
    tokenizer: Any
    policy: WrappedPolicy
    reference: WrappedPolicy | AdapterReference | None
    n_updates: int
    """The most updates that are left."""

    @property
    def reference_module(self) -> Any:
        return self.reference.module if self.reference is not None else None


def _load(setup: TrainSetup, options: Any, world: World, scratch: str) -> Parts:
    config, newest = setup.config, setup.newest
    done = int(newest.name.rpartition("-")[2]) if newest is not None else 0
    n_updates = (config.loop.steps - done) * config.loop.minibatches_per_step * config.loop.epochs
    on_cpu = pick_device(setup.base.device) == "cpu"
    arguments = trl_arguments(setup, world, options, scratch, n_updates, use_cpu=on_cpu)
    base = dataclasses.replace(setup.base, device="cpu")  # the trainer moves it, or shards it
    tokenizer, adapters = load_tokenizer(setup.base), None
    if config.lora.rank > 0:
        module = load_module(base)
        adapters = Adapters(module, config.lora, derive(config.seed, "lora"), base.path)
        if newest is not None:
            adapters.load(newest)
    else:
        resumed = dataclasses.replace(base, path=str(newest), revision=None, random_seed=None)
        module = load_module(base if newest is None else resumed)
    trainer = _explaining(lambda: ObjectiveTrainer(module, tokenizer, arguments, config, n_updates), options)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        _refuse_with_sharded_weights(setup, trainer)
    policy = WrappedPolicy(module, world, adapters, trainer.accelerator.device)
    if trainer.use_vllm and adapters is not None:
        _send_merged_weights(trainer.vllm_generation, policy)
    reference: WrappedPolicy | AdapterReference | None = None
    if setup.with_reference and adapters is not None:
        reference = AdapterReference(policy, adapters)
    elif setup.with_reference:
        prepared = trainer.prepare_reference(load_module(base))
        reference = WrappedPolicy(prepared, world, None, trainer.accelerator.device)
    return Parts(trainer=trainer, tokenizer=tokenizer, policy=policy, reference=reference, n_updates=n_updates)


def _send_merged_weights(generation: Any, policy: WrappedPolicy) -> None:
    """Let TRL's sync send the weights with the adapters in them: those are in the module's own layers, not in peft's
    wrapper, which TRL would take apart."""
    tied = policy.module.all_tied_weights_keys
    generation._iter_named_params = lambda: (
        (generation._fix_param_name_to_vllm(name), tensor) for name, tensor in policy.tensors() if name not in tied
    )


def _explaining(make: Any, options: Any) -> Any:
    """Build the trainer; explain a server that does not answer."""
    try:
        return make()
    except ConnectionError as error:
        url = options.arguments.get("vllm_server_base_url", "http://0.0.0.0:8000")
        raise EngineError(
            f"the vLLM server at {url} does not answer: start it with `trl vllm-serve --model ...`, or set "
            f"backend.arguments.vllm_server_base_url ({' '.join(str(error).split())[:200]})"
        ) from error


def _refuse_with_sharded_weights(setup: TrainSetup, trainer: ObjectiveTrainer) -> None:
    if trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise ConfigError("DeepSpeed ZeRO-3 is not carried: take FSDP2, which divides weights too, or ZeRO-2")
    if setup.config.reference.is_ever_reset:
        raise ConfigError(
            "resets of the reference copy whole weights, which FSDP2 and DeepSpeed divide: use DDP, or --backend loop"
        )


def _learner(setup: TrainSetup, options: Any, parts: Parts) -> SharedLearner:
    config, trainer, policy = setup.config, parts.trainer, parts.policy
    policy.wrapped = trainer.model_wrapped
    policy.engine = trainer.model_wrapped if trainer.is_deepspeed_enabled else None
    is_exact = _engine_samples(setup, options) and setup.engine.logp_is_exact
    computes_alike = is_exact and config.loop.precision == "float32" and setup.saved is None
    return SharedLearner(
        config=config,
        objective=setup.objective,
        policy=policy,
        reference=parts.reference,
        optimizer=trainer.optimizer,
        max_tokens=setup.max_tokens,
        engine_logp_is_exact=computes_alike or setup.saved is not None,
        largest_mismatch=largest_mismatch(config, computes_alike=computes_alike),
        kl=AdaptiveKl(config.kl),
        resets=ReferenceReset(config.reference),
        world=policy.world,
        accelerator=trainer.accelerator,
        own=own_optimizer(setup.objective, config.optimizer),
    )


# --- sampling -------------------------------------------------------------------------------------------------------


def _engine_samples(setup: TrainSetup, options: Any) -> bool:
    """Return whether the recipe's engine samples the rollouts."""
    return options.sampler == "engine" and setup.saved is None


def _open_engine(
    setup: TrainSetup, options: Any, world: World, parts: Parts, progress: Progress, closing: contextlib.ExitStack
) -> Engine | None:
    """Open the recipe's engine: in every process if it samples, else in the first one, for held-out evaluations."""
    is_evaluating = world.is_main and setup.config.held_out.every_steps > 0
    if not (_engine_samples(setup, options) or is_evaluating):
        return None
    is_sharded = parts.trainer.is_fsdp_enabled or parts.trainer.is_deepspeed_enabled
    source = dataclasses.replace(
        setup.sampling_source,
        module=None if is_sharded else parts.policy.module,
        tokenizer=parts.tokenizer,
        device=str(parts.trainer.accelerator.device),
    )
    with progress.working(f"starting the engine {setup.config.engine.id}"):
        setup.engine.open(source)
    closing.callback(setup.engine.close)
    return setup.engine


def _source(setup: TrainSetup, options: Any, world: World, parts: Parts, progress: Progress) -> RolloutSource:
    if setup.saved is not None:
        return rollout_source(setup, parts.policy, parts.tokenizer, progress)
    engine = setup.engine if options.sampler == "engine" else TrlEngine(parts.trainer, parts.tokenizer)
    with_greedy = "greedy_reward" in setup.objective.needs
    return SharedSampler(
        setup.config, setup.task, engine, with_greedy, world=world, is_collective=options.sampler != "engine"
    )
