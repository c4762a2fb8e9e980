"""TRL's GRPOTrainer on one or several processes: DDP, FSDP2 or DeepSpeed by accelerate, vLLM colocated or as a server.

    accelerate launch --num_processes 8 -m harness train RECIPE --backend trl --out runs/a

A subclass of that trainer takes our steps: completions are graded by our graders, `objective.advantages` sees whole
groups in every process, `objective.loss` is the loss of a micro-batch. So a run learns what it learns in our own loop,
whatever the number of processes, and leaves the same run folder, which the first process writes.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.core import extras
from harness.core.config import incidental
from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.core.protocols import Backend
from harness.core.types import Bounds
from harness.models.loading import pick_device
from harness.runs.folder import RunReader
from harness.trainers.backends.trl.world import explain_lost_process, join, n_processes
from harness.trainers.config import TrainConfig
from harness.trainers.dry_run import DryRun, dry_run
from harness.trainers.setup import TrainSetup
from harness.trainers.train import explain_out_of_memory


class Trl(Backend):
    @dataclass(frozen=True, slots=True)
    class Config:
        sampler: Literal["engine", "transformers", "vllm_colocate", "vllm_server"] = "engine"
        """`engine` is the recipe's engine in each process; the others are TRL's own: `generate` of transformers, vLLM
        in the trainer's processes, and vLLM behind `trl vllm-serve`."""
        arguments: Mapping[str, Any] = field(default_factory=dict)
        """Further arguments of TRL's GRPOConfig, such as those of vLLM: `vllm_server_base_url`,
        `vllm_gpu_memory_utilization`. What the recipe decides is refused here."""
        wait_s: Annotated[float, Bounds(gt=0), "such as 3600"] = incidental(default=3600.0)
        """The longest wait for another process. A held-out evaluation, for which the others wait, must be shorter."""

    config: Config

    def check(self, setup: TrainSetup) -> None:
        config, objective, sampler = setup.config, setup.objective, self.config.sampler
        name = f"the objective {config.objective.id!r}"
        of_trl = sampler != "engine"
        refused = {
            f"{name} learns from demonstrations, and TRL's GRPOTrainer from samples: use --backend loop": (
                objective.source == "demonstrations"
            ),
            f"{name} needs a greedy completion of each prompt, and TRL's samplers draw at one temperature: set "
            "backend.sampler = 'engine', or take 'rloo', whose baseline is made of samples": (
                of_trl and "greedy_reward" in objective.needs
            ),
            "loop.compile compiles our own forward pass, which TRL's replaces: leave it out": config.loop.compile,
            "loop.logp_old = 'engine' asks for log-probabilities, and generate of transformers returns none: set "
            "loop.logp_old = 'auto'": sampler == "transformers" and config.loop.logp_old == "engine",
            "TRL's samplers know no stop strings (sampling.stop): set backend.sampler = 'engine'": (
                of_trl and bool(config.sampling.over(setup.task.sampling).stop)
            ),
        }
        for reason in (reason for reason, holds in refused.items() if holds):
            raise ConfigError(reason)
        n = n_processes()
        if config.loop.prompts_per_step < n:
            raise ConfigError(
                f"loop.prompts_per_step = {config.loop.prompts_per_step} is less than the {n} processes, of which each "
                "samples problems of its own: raise it, or start fewer processes"
            )
        self._refuse_other_precision(config.loop.precision)
        extras.require("trl", "--backend trl")
        if sampler in ("vllm_colocate", "vllm_server"):
            extras.require("vllm", f"backend.sampler = {sampler!r}")

    def _refuse_other_precision(self, precision: str) -> None:
        """Raise where the launcher's config asks for another precision, which accelerate would apply."""
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        wanted = "bf16" if precision == "bfloat16" else "no"
        if launched not in ("no", wanted):
            raise ConfigError(
                f"the launcher sets mixed precision {launched!r}, and loop.precision is {precision!r}: set "
                f"mixed_precision: '{wanted}' in accelerate's config, or change loop.precision"
            )

    def estimate(self, setup: TrainSetup) -> DryRun:
        """Return the estimate of one process that holds a whole model, with what is divided among the processes."""
        found, n = dry_run(setup.config, setup), n_processes()
        n_prompts = math.ceil(setup.config.loop.prompts_per_step / n)
        counts = {**found.counts, "processes": n, "prompts a process, at most": n_prompts}
        remark = "Memory is that of each process with DDP; FSDP2 divides what stays among them."
        return dataclasses.replace(found, counts=counts, remarks=(*found.remarks, remark))

    def train(self, setup: TrainSetup, folder: Path, progress: Progress, *, ignore_memory: bool) -> RunReader:
        world = join(on_cpu=pick_device(setup.base.device) == "cpu", wait_s=self.config.wait_s)
        if not world.is_main:
            progress = Progress(quiet=True, stream=io.StringIO())
        with explain_lost_process(world), explain_out_of_memory():
            from harness.trainers.backends.trl.session import train

            train(setup, self.config, world, folder, progress, ignore_memory=ignore_memory)
            world.leave()
        return RunReader.read(folder)

    def export(self, setup: TrainSetup) -> TrainConfig:
        """Return the recipe for a script of a user's own, with what it does not load; refuse what TRL's loop can't."""
        from harness.trainers.backends.trl.grpo_arguments import arguments_of, check_recipe

        sampling = dataclasses.replace(
            setup.config.sampling, temperature=setup.temperature, max_tokens=setup.max_tokens
        )  # tasks have their own
        config = dataclasses.replace(setup.config, sampling=sampling)
        check_recipe(config, setup.objective)
        arguments_of(config)
        return config


BACKEND = Trl
