"""`harness train --dry-run`: effective batch sizes and a memory estimate, without loading the model.

Peak memory is what stays (weights, gradients, optimiser states, reference) plus the larger of what an update needs
(activations of a micro-batch, logits of a chunk), what the pass before it needs, and what sampling needs (the
key-value cache). Activations are those of a Llama or Qwen decoder layer with scaled-dot-product attention. On a CPU
the estimate is within a factor of 1.5 of the measured peak; docs/explanations/training.md has the table.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.core.errors import UsageError
from harness.core.protocols import ModelSource
from harness.core.tensors import ModelShape
from harness.models.chat import prompt_ids
from harness.models.loading import load_tokenizer, pick_device
from harness.trainers.checks import reads_reference
from harness.trainers.config import LoraConfig, TrainConfig
from harness.trainers.learner import NO_GRADIENT_FACTOR
from harness.trainers.policy.lora import n_parameters
from harness.trainers.policy.model import chunk_rows

if TYPE_CHECKING:
    from harness.trainers.setup import TrainSetup

N_PROMPTS_READ = 64
KEPT = ("weights", "gradients", "optimiser states", "reference")


@dataclass(frozen=True, slots=True)
class DryRun:
    """Counts, bytes by name, and remarks to print."""

    counts: Mapping[str, int]
    memory: Mapping[str, int]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return lines to print, each a TOML comment."""
        numbers = {name: f"{value:,}" for name, value in self.counts.items()}
        sizes = {name: f"{value / 1e9:,.3g} GB" for name, value in self.memory.items()}
        width = max(map(len, [*numbers, *sizes]))
        table = [f"# {name:{width}}  {text}" for name, text in (*numbers.items(), *sizes.items())]
        return [*table, *(f"# {remark}" for remark in self.remarks)]


def dry_run(config: TrainConfig, setup: TrainSetup) -> DryRun:
    """Return the batch sizes of a run and its estimated memory. Nothing is loaded but the tokenizer."""
    counts = batch_counts(config, with_greedy="greedy_reward" in setup.objective.needs)
    try:
        model = dimensions_of(setup.base, config.lora)
        prompt_tokens = longest_prompt(setup)
    except (UsageError, OSError, ValueError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[0]
        return DryRun(counts, {}, (*setup.warnings, f"No memory estimate: {first_line}"))
    setup.objective.prepare(ModelShape(model.hidden, "cpu"), 0)
    n_own = sum(p.numel() for group in setup.objective.parameters() for p in group.parameters)
    max_tokens = config.sampling.over(setup.task.sampling).max_tokens
    longest = prompt_tokens + max_tokens
    memory = estimate_memory(
        config,
        model,
        n_own=n_own,
        has_reference=reads_reference(config, setup.objective),
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        rows_at_once=setup.engine.n_at_once,
    )
    counts |= {"tokens of the longest prompt seen": prompt_tokens, "tokens of the longest sequence": longest}
    return DryRun(counts, memory, (*setup.warnings, *_remarks(config, setup, memory, longest, model.longest)))


def batch_counts(config: TrainConfig, *, with_greedy: bool) -> dict[str, int]:
    """Return how many prompts, sequences and updates a step and the whole run have."""
    loop = config.loop
    sequences = _n_sequences(config)
    updates = loop.minibatches_per_step * loop.epochs
    per_step = sequences + (loop.prompts_per_step if with_greedy else 0)
    extra_rounds = config.dynamic_sampling.max_extra_rounds
    counts = {
        "prompts a step": loop.prompts_per_step,
        "samples a prompt": loop.samples_per_prompt,
        "sequences a step": sequences,
        "minibatches a step": loop.minibatches_per_step,
        "sequences a minibatch, at most": minibatch_prompts(config) * loop.samples_per_prompt,
        "optimiser updates a step": updates,
        "optimiser updates of the run": updates * loop.steps,
        "tokens a micro-batch": loop.tokens_per_microbatch,
        "completions of the run": per_step * loop.steps,
    }
    if extra_rounds > 0:
        counts["completions of the run, at most"] = (extra_rounds * sequences + per_step) * loop.steps
    return counts


def minibatch_prompts(config: TrainConfig) -> int:
    return math.ceil(config.loop.prompts_per_step / config.loop.minibatches_per_step)


def _n_sequences(config: TrainConfig) -> int:
    return config.loop.prompts_per_step * config.loop.samples_per_prompt


# --- memory -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelDimensions:
    """The numbers of a model's config that its memory depends on."""

    n_parameters: int
    n_layers: int
    hidden: int
    intermediate: int
    query: int
    key_value: int
    vocabulary: int
    weight_bytes: int
    longest: int | None = None
    """The longest sequence the model was made for."""
    n_adapters: int | None = None
    """Parameters of the LoRA adapters; None where all weights are trained."""


def estimate_memory(
    config: TrainConfig,
    model: ModelDimensions,
    *,
    n_own: int,
    has_reference: bool,
    prompt_tokens: int,
    max_tokens: int,
    rows_at_once: int | None,
) -> dict[str, int]:
    """Return bytes by part, and at the peak, for prompts and completions of this length.

    `n_own` is the number of the objective's own parameters, `rows_at_once` how many completions the engine decodes at
    once in this memory (None: its memory is its own).
    """
    lasting = _lasting(config, model, n_own=n_own, has_reference=has_reference)
    rows = min(rows_at_once, _n_sequences(config)) if rows_at_once is not None else 0
    cached = 2 * model.n_layers * model.key_value * model.weight_bytes * (prompt_tokens + max_tokens)
    passing = _passing(config, model, prompt_tokens, max_tokens)
    activations, logits, first_pass = passing.values()
    sampling = int(rows * (1.5 * cached + 3 * 4 * model.vocabulary))  # a cache grows by halves
    peak = sum(lasting.values()) + max(activations + logits, first_pass, sampling)
    return {**lasting, **passing, "keys and values while sampling": sampling, "at the peak": peak}


def _lasting(config: TrainConfig, model: ModelDimensions, *, n_own: int, has_reference: bool) -> dict[str, int]:
    weights = model.n_parameters * model.weight_bytes
    if model.n_adapters is None:
        trained = held = weights + 4 * n_own
        copied = weights
    else:  # the reference is the base model, and after a reset a copy of the adapters
        trained = 4 * (model.n_adapters + n_own)
        held = weights + trained
        copied = 4 * model.n_adapters if config.reference.is_ever_reset else 0
    return {
        "weights": held,
        "gradients": trained,
        "optimiser states": 2 * trained,
        "reference": copied if has_reference else 0,
    }


def _passing(config: TrainConfig, model: ModelDimensions, prompt_tokens: int, max_tokens: int) -> dict[str, int]:
    loop, each, longest = config.loop, model.weight_bytes, prompt_tokens + max_tokens
    # Autocast keeps a bfloat16 copy of the weights for as long as a pass lasts.
    cast, layer_bytes = (2 * model.n_parameters, 2) if loop.precision == "bfloat16" else (0, each)
    # Bytes of one token. Norms and attention keep their inputs as the weights are, the MLP as the layers compute.
    kept = (6 * model.hidden + 2 * model.query + 2 * model.key_value) * each + 4 * model.intermediate * layer_bytes
    alive = 3 * model.hidden * each + 3 * model.intermediate * layer_bytes
    # With checkpointing a layer's input stays, and one layer at a time is computed again.
    checkpointed = kept + model.n_layers * model.hidden * each
    n_prompts = minibatch_prompts(config)
    n_update = min(max(1, loop.tokens_per_microbatch // longest), n_prompts * loop.samples_per_prompt)
    n_pass = min(max(1, NO_GRADIENT_FACTOR * loop.tokens_per_microbatch // longest), _n_sequences(config))
    # Completions share the hidden states of their prompt, except where layers are computed again or compiled.
    n_read = n_update if loop.gradient_checkpointing or loop.compile else min(n_update, n_prompts)
    tokens = n_update * max_tokens + n_read * prompt_tokens
    device_type = pick_device(config.model.device).partition(":")[0]
    n_scored = min(chunk_rows(model.vocabulary, model.hidden, device_type), n_update * max_tokens)
    return {
        "activations of a micro-batch": cast
        + tokens * (checkpointed if loop.gradient_checkpointing else model.n_layers * kept),
        # The logits, normalised, their gradient, and the gradient of the output layer as it is summed.
        "logits of a chunk": 3 * 4 * n_scored * model.vocabulary + model.vocabulary * model.hidden * each,
        "pass before the updates": cast + n_pass * longest * alive,
    }


def dimensions_of(source: ModelSource, lora: LoraConfig | None = None) -> ModelDimensions:
    """Read a model's config and count its parameters; weights are neither read nor downloaded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source.path, revision=source.revision, local_files_only=True)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    head = getattr(config, "head_dim", None)
    head = head if head is not None else config.hidden_size // config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None)
    return ModelDimensions(
        n_parameters=sum(p.numel() for p in module.parameters()),
        n_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        query=head * config.num_attention_heads,
        key_value=head * (groups if groups is not None else config.num_attention_heads),
        vocabulary=config.vocab_size,
        weight_bytes=getattr(torch, source.dtype).itemsize,
        longest=getattr(config, "max_position_embeddings", None),
        n_adapters=n_parameters(module, lora) if lora is not None and lora.rank > 0 else None,
    )


def longest_prompt(setup: TrainSetup) -> int:
    tokenizer = load_tokenizer(setup.base)
    problems = itertools.islice(setup.task.problems("train", 0), N_PROMPTS_READ)
    return max(len(prompt_ids(tokenizer, problem.messages)) for problem in problems)


# --- remarks ----------------------------------------------------------------------------------------------------


def _remarks(
    config: TrainConfig, setup: TrainSetup, memory: Mapping[str, int], longest: int, made_for: int | None
) -> list[str]:
    remarks = []
    if made_for is not None and longest > made_for:
        remarks.append(f"A sequence may have {longest} tokens, and the model was made for {made_for}.")
    if longest > config.loop.tokens_per_microbatch:
        remarks.append(
            f"A sequence may have {longest} tokens, more than loop.tokens_per_microbatch = "
            f"{config.loop.tokens_per_microbatch}: such a sequence is a micro-batch of its own."
        )
    if config.loop.compile:
        remarks.append("The estimate is that without loop.compile; compiled layers keep other activations.")
    if setup.engine.n_at_once is None:
        remarks.append(f"The estimate does not include the memory of the engine {config.engine.id!r}.")
    device = pick_device(setup.base.device)
    if memory["at the peak"] > (available := available_bytes(device)):
        remarks.append(_does_not_fit(memory, available, device))
    return remarks


def _does_not_fit(memory: Mapping[str, int], available: int, device: str) -> str:
    remedy = (
        "the model is too large to be trained here at all"
        if sum(memory[name] for name in KEPT) > available
        else "lower loop.tokens_per_microbatch or engine.batch_rows, or set loop.gradient_checkpointing = true"
    )
    return (
        f"DOES NOT FIT: {memory['at the peak'] / 1e9:.3g} GB are needed and {device} has {available / 1e9:.3g}: "
        f"{remedy}."
    )


def available_bytes(device: str) -> int:
    """Return a GPU's memory, or for a CPU the memory of the machine or of its control group."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(text)) if text.isdecimal() else machine
