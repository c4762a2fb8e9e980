"""verl on Ray: the objective in verl's FSDP2 workers, sampling by its vLLM or SGLang servers, on one node or several.

verl (0.9) is a package with pins of its own and is installed apart from the rest: `harness doctor` prints how.

The driver draws the prompts of a step in the order of our own loop, has them sampled and graded, computes old and
reference log-probabilities with verl's workers, and then everything of the objective that has no gradient
(`advantages`), where whole groups are. Each worker calls `loss` on its micro-batches, divided by the totals of the
whole minibatch. A learned log Z or a critic is computed from the hidden states of verl's own pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.core.config import incidental
from harness.core.progress import Progress
from harness.core.protocols import Backend

if TYPE_CHECKING:
    from harness.runs.folder import RunReader
    from harness.trainers.dry_run import DryRun


class Verl(Backend):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        nodes: int = incidental(default=1)
        gpus_per_node: int = incidental(default=8)
        address: str | None = incidental(default=None)
        """The Ray cluster, such as `auto` on one of its nodes; None starts one on this machine."""
        rollout: Literal["vllm", "sglang"] = "vllm"
        """The sampler."""
        tensor_parallel: int = incidental(default=1)
        """GPUs of one copy of the model in sampling."""
        gpu_memory_utilization: float = incidental(default=0.6)
        """The share of a GPU that the sampler takes while it samples."""
        max_num_seqs: int = incidental(default=256)
        """Completions that one copy of the model samples at a time."""
        max_prompt_tokens: int = 2048
        """The longest prompt; a longer one is refused."""
        attention: Literal["flash_attention_2", "sdpa"] = incidental(default="flash_attention_2")
        """flash_attention_2 needs the package flash-attn and packs sequences; sdpa pads them."""
        card_gb: int = incidental(default=80)
        """Memory of one GPU, for the estimate of `--dry-run`."""
        offload: Literal["none", "between", "always"] = incidental(default="none")
        """Move to the processor's memory: `between`, the policy's weights and optimiser states while they are not
        needed; `always`, those and the gradients, and the optimiser steps on the processor. Slower, and the only way
        to train a model whose states do not fit."""
        offload_activations: bool = incidental(default=False)
        """Keep the inputs of checkpointed layers in the processor's memory."""
        reward_workers: int = incidental(default=8)
        """Processes that grade. Each loads the problems of the run."""
        start_s: int = incidental(default=1800)
        """Seconds until the first step has to be done."""
        step_s: int = incidental(default=7200)
        """Seconds that any later step may take."""

        def __post_init__(self) -> None:
            counts = (
                "nodes",
                "gpus_per_node",
                "tensor_parallel",
                "max_num_seqs",
                "max_prompt_tokens",
                "reward_workers",
            )
            if low := [name for name in (*counts, "start_s", "step_s") if getattr(self, name) < 1]:
                raise ValueError(f"{', '.join(low)} must be at least 1")
            if not 0 < self.gpu_memory_utilization < 1:
                raise ValueError("gpu_memory_utilization must lie between 0 and 1")
            if self.n_gpus % self.tensor_parallel:
                raise ValueError("tensor_parallel must divide the number of GPUs, nodes x gpus_per_node")

        @property
        def n_gpus(self) -> int:
            return self.nodes * self.gpus_per_node

    config: Config

    def check(self, setup: Any) -> None:
        from harness.trainers.backends.verl.checks import check

        check(setup, self.config)

    def estimate(self, setup: Any) -> DryRun:
        from harness.trainers.backends.verl.memory import estimate

        return estimate(setup, self.config)

    def train(self, setup: Any, folder: Path, progress: Progress, *, ignore_memory: bool) -> RunReader:
        from harness.trainers.backends.verl.launch import train

        return train(setup, self.config, folder, progress, ignore_memory=ignore_memory)

    def export(self, setup: Any, folder: Path) -> tuple[list[str], dict[str, str]]:
        """Write the prompts into a folder; return verl's settings and the environment, for a launcher of one's own."""
        from harness.models.loading import load_tokenizer
        from harness.trainers.backends.verl.data import PROMPTS, write_prompts
        from harness.trainers.backends.verl.settings import environment, environment_settings, overrides, settings_of

        write_prompts(
            setup.config, setup.task, load_tokenizer(setup.base), folder / PROMPTS, self.config.max_prompt_tokens
        )
        settings = settings_of(setup, self.config, folder)
        kept = {name: value for name, value in settings.items() if name not in environment_settings(setup)}
        return overrides({**kept, "trainer.default_local_dir": "checkpoints"}), environment(setup)


BACKEND = Verl
