"""Start verl for a run, follow its steps into the run folder, and convert its checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core import config as configs
from harness.core import extras
from harness.core.errors import RunError
from harness.core.progress import Progress
from harness.models.loading import CHECKPOINT_PREFIX, checkpoint_folders, load_tokenizer, step_of
from harness.runs.folder import RunReader, RunWriter, finishing
from harness.runs.jsonl import write_whole
from harness.trainers.backends.verl.checks import check_prompts
from harness.trainers.backends.verl.cluster import LOCAL, check_cluster
from harness.trainers.backends.verl.convert import ShardedPolicy
from harness.trainers.backends.verl.data import PROMPTS, write_prompts
from harness.trainers.backends.verl.follow import MetricsFile
from harness.trainers.backends.verl.settings import VERL_FOLDER, environment, overrides, settings_of
from harness.trainers.checkpoint import Checkpoints, Position
from harness.trainers.step_metrics import Diagnostics, StepRecorder
from harness.trainers.trackers import make_trackers
from harness.trainers.train import check_memory, evaluate_held_out, identity_of, refuse_newer_checkpoint

if TYPE_CHECKING:
    from harness.trainers.backends.verl import Verl
    from harness.trainers.setup import TrainSetup

SETTINGS, COMMAND, LATEST = "settings.json", "command.sh", "latest_checkpointed_iteration.txt"
POLL_S = 1.0
STOP_S = 60.0
TAIL_LINES = 12


def train(
    setup: TrainSetup, options: Verl.Config, folder: Path, progress: Progress, *, ignore_memory: bool
) -> RunReader:
    """Train to the last step with verl. What can be found wrong is found before the first process starts."""
    config = setup.config
    check_memory(setup, progress, ignore_memory=ignore_memory)
    identity = identity_of(setup, progress)
    RunWriter.check(folder, identity)
    extras.require("verl", "the backend verl")
    tokenizer = load_tokenizer(setup.base)
    check_prompts(setup, [message.role for message in next(iter(setup.task.problems("train", 0))).messages])
    attempt = Attempt.begun(setup, options, folder / VERL_FOLDER)
    if attempt.done < config.loop.steps:
        with progress.working("checking the nodes of the cluster"):
            check_cluster(
                options.address, environment(setup), needed_modules(options), options.gpus_per_node, options.nodes
            )
    trackers = make_trackers(config.track, folder, configs.to_tree(config))
    with contextlib.ExitStack() as closing:
        store = RunWriter.open(folder, identity)
        closing.enter_context(finishing(store))
        refuse_newer_checkpoint(setup, folder)
        for tracker in trackers:
            closing.callback(tracker.close)
        recorder = StepRecorder(
            store=store, trackers=trackers, progress=progress, diagnostics=Diagnostics(config.warnings)
        )
        recorder.resume(attempt.done)
        attempt.recover(recorder)
        if attempt.done < config.loop.steps:
            with progress.working("writing the prompts"):
                attempt.prepare(tokenizer)
            progress.begin("train", config.loop.steps, attempt.done)
            attempt.run(recorder, lambda step: save_new_checkpoints(attempt, store, tokenizer, step))
            progress.end()
        save_new_checkpoints(attempt, store, tokenizer, config.loop.steps)
        evaluate_checkpoints(setup, store, progress)
    return store.reader()


def needed_modules(options: Verl.Config) -> list[str]:
    """Return the modules that every node imports."""
    attention = ["flash_attn"] if options.attention == "flash_attention_2" else []
    return ["verl", "harness", options.rollout, "transfer_queue", *attention]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of verl for a run, which goes on from verl's newest checkpoint."""

    setup: TrainSetup
    options: Verl.Config
    folder: Path
    """verl's own, in the run folder."""
    number: int
    done: int
    """Steps that verl has a checkpoint of."""

    @classmethod
    def begun(cls, setup: TrainSetup, options: Verl.Config, folder: Path) -> Attempt:
        done = newest_step(folder / "checkpoints")
        if done > 0:  # verl can't resume from a name that a kill left empty
            write_whole(folder / "checkpoints" / LATEST, str(done))
        return cls(setup, options, folder, len(list(folder.glob("attempt-*"))) + 1, done)

    @property
    def logs(self) -> Path:
        return self.folder / f"attempt-{self.number:03d}"

    def prepare(self, tokenizer: Any) -> None:
        """Write the prompts, the settings, and a command that starts the same without us."""
        self.logs.mkdir(parents=True)
        write_prompts(
            self.setup.config, self.setup.task, tokenizer, self.folder / PROMPTS, self.options.max_prompt_tokens
        )
        settings = settings_of(self.setup, self.options, self.folder.resolve())
        settings |= {"trainer.save_freq": save_interval(self.setup)}
        settings["+ray_kwargs.ray_init.address"] = self.options.address or LOCAL["address"]
        lines = overrides(settings)
        write_whole(self.folder / SETTINGS, json.dumps(lines, indent=1) + "\n")
        write_whole(self.folder / COMMAND, self._command_text(lines))

    def _command_text(self, lines: Sequence[str]) -> str:
        exports = [f"export {name}={shlex.quote(value)}" for name, value in environment(self.setup).items()]
        command = " \\\n  ".join(["python -m verl.trainer.main_ppo", *map(shlex.quote, lines)])
        return "\n".join(["#!/bin/sh", "# The same training, started by verl's own main.", *exports, command, ""])

    def recover(self, recorder: StepRecorder) -> None:
        """Record steps that an earlier attempt did, and whose process was killed before it had read them."""
        last = max((int(row["step"]) for row in recorder.store.reader().steps()), default=0)
        for metrics in sorted(self.folder.glob("attempt-*/metrics.jsonl")):
            for row in MetricsFile(metrics).new_rows():
                if last < row["step"] <= self.done:
                    recorder.record(row)
                    last = int(row["step"])

    def run(self, recorder: StepRecorder, on_step: Callable[[int], None]) -> None:
        """Run verl's driver to its end; record every step, and raise where it fails or stands still."""
        command = driver_command(self.folder / SETTINGS)
        metrics = MetricsFile(self.logs / "metrics.jsonl")
        variables = {**environment(self.setup), "VERL_FILE_LOGGER_PATH": str((self.logs / "metrics.jsonl").resolve())}
        log = self.logs / "log.txt"
        with log.open("wb") as stream, started(command, {**os.environ, **variables}, stream) as child:
            deadline, last = time.monotonic() + self.options.start_s, self.done
            while True:
                has_ended = child.poll() is not None  # asked first: what it wrote before is read below
                for row in metrics.new_rows():
                    recorder.record(row)
                    deadline, last = time.monotonic() + self.options.step_s, int(row["step"])
                    on_step(last)
                if has_ended:
                    break
                if time.monotonic() > deadline:
                    raise RunError(f"verl did no step after step {last}: {self._limit(last)}. {tail(log)}")
                time.sleep(POLL_S)
        if child.returncode != 0 or last < self.setup.config.loop.steps:
            raise RunError(
                f"verl ended with code {child.returncode} after step {last} of {self.setup.config.loop.steps}; the "
                f"same command goes on from its newest checkpoint. {tail(log)}"
            )

    def _limit(self, last: int) -> str:
        name = "step_s" if last > self.done else "start_s"
        return f"backend.{name} is {getattr(self.options, name)} s"


def driver_command(settings: Path) -> list[str]:
    return [sys.executable, "-m", f"{__package__}.main", str(settings)]


@contextlib.contextmanager
def started(command: Sequence[str], variables: dict[str, str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a group of its own, and end the group whatever happens."""
    child = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield child
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(STOP_S)


def tail(log: Path) -> str:
    """Return the last lines of a log that say something, which in Ray's name the node, and where the rest is."""
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"Its log, {log}, ends with:\n" + "\n".join(f"  {line[:300]}" for line in lines[-TAIL_LINES:])


# --- checkpoints ------------------------------------------------------------------------------------------------


def newest_step(folder: Path) -> int:
    """Return the step of verl's newest whole checkpoint; 0 without one.

    verl names it in a file once all else is written. While it writes the name, the file is empty.
    """
    latest = folder / LATEST
    if not latest.exists():
        return 0
    return int(latest.read_text(encoding="utf-8") or max(_saved_steps(folder)))


def _saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.name.rpartition("_")[2]) for path in folder.glob("global_step_*"))


def save_interval(setup: TrainSetup) -> int:
    """Return the steps between two checkpoints of verl: one is due before every held-out evaluation."""
    config = setup.config
    interval, every = config.checkpoint.interval(config.loop.steps), config.held_out.every_steps
    return math.gcd(interval, every) if every > 0 else interval


def save_new_checkpoints(attempt: Attempt, store: RunWriter, tokenizer: Any, recorded: int) -> None:
    """Convert the checkpoints of verl that are newer than the run folder's, up to the last `recorded` step."""
    setup, source = attempt.setup, attempt.folder / "checkpoints"
    newest = min(newest_step(source), recorded)
    done = max(map(step_of, checkpoint_folders(store.folder)), default=0)
    # Evaluations come after the training, when the GPUs are free, and need the checkpoints of their steps until then.
    keep = sys.maxsize if setup.config.held_out.every_steps > 0 else setup.config.checkpoint.keep
    for step in _saved_steps(source):
        if done < step <= newest:
            actor = source / f"global_step_{step}" / "actor"
            policy = ShardedPolicy(setup.base, actor, setup.config.lora.alpha)
            position = Position(step, step * setup.config.loop.prompts_per_step)
            store.sync()
            Checkpoints(store.folder, keep).save(position, {"objective": policy.objective_state()}, policy, tokenizer)


def evaluate_checkpoints(setup: TrainSetup, store: RunWriter, progress: Progress) -> None:
    """Make every held-out evaluation that is due, in the order of the steps; then keep as many as asked for."""
    held, last = setup.config.held_out, setup.config.loop.steps
    if held.every_steps == 0:
        return
    for checkpoint in checkpoint_folders(store.folder):
        step = step_of(checkpoint)
        if step % held.every_steps == 0 or step == last:
            setup.engine.open(dataclasses.replace(setup.sampling_source, path=str(checkpoint)))
            try:
                evaluate_held_out(setup, store, progress, checkpoint)
            finally:
                setup.engine.close()
    for old in checkpoint_folders(store.folder)[: -setup.config.checkpoint.keep]:
        assert old.name.startswith(CHECKPOINT_PREFIX)
        shutil.rmtree(old)
