"""`harness train --dry-run`: effective batch sizes and a memory estimate, without loading the model.

Peak memory is what stays (weights, optimiser states, reference, an engine's own weights) plus the largest of three: an
update (gradients, activations of a micro-batch, logits of a chunk), the pass before it, and sampling (the key-value
cache). Activations are those of a Llama or Qwen decoder layer with scaled-dot-product attention. On a CPU the estimate
is within a factor of 1.5 of the measured peak; docs/explanations/training.md has the table.

A run consults the same estimate before it loads anything. It warns where memory is short, and does not start where the
estimate is more than `REFUSED_ABOVE` times the memory there is.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.core.errors import ConfigError, UsageError
from harness.core.progress import Progress
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
REFUSED_ABOVE = 1.5
"""The estimate is right within this factor, so a run that needs more cannot fit."""
CARD_GB = 80
KEPT = ("weights", "gradients", "optimiser states", "reference")

QWEN2_SHAPES = {
    "Qwen/Qwen2.5-7B": (152_064, 28, 3584, 18_944, 28, 4),
    "Qwen/Qwen2.5-32B": (152_064, 64, 5120, 27_648, 40, 8),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (152_064, 28, 3584, 18_944, 28, 4),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (151_936, 28, 1536, 8960, 12, 2),
}
"""Vocabulary, layers, hidden and intermediate size, heads and key-value heads of the models in published recipes, from
their config.json on the hub: for a dry run before the model is downloaded."""
ASSUMED_PROMPT_TOKENS = 2048
"""The longest prompt where the tokenizer is not downloaded: `max_prompt_length` of FlowRL's scripts."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """Counts, bytes by name, and remarks to print."""

    counts: Mapping[str, int]
    memory: Mapping[str, int]
    remarks: tuple[str, ...]
    shortage: str | None = None
    """How much memory is missing and what to do about it, where the device has less than the estimate."""
    is_refused: bool = False
    """Whether so much is missing that the run does not start."""

    def lines(self) -> list[str]:
        """Return lines to print, each a TOML comment."""
        numbers = {name: f"{value:,}" for name, value in self.counts.items()}
        sizes = {name: f"{value / 1e9:,.3g} GB" for name, value in self.memory.items()}
        width = max(map(len, [*numbers, *sizes]))
        table = [f"# {name:{width}}  {text}" for name, text in (*numbers.items(), *sizes.items())]
        shortage = [self.shortage] if self.shortage is not None else []
        return [*table, *(f"# {remark}" for remark in (*self.remarks, *shortage))]

    def check(self, progress: Progress, *, ignore_memory: bool) -> None:
        """Warn if the run may not fit into memory, and refuse it if it cannot."""
        if self.shortage is None:
            return
        if self.is_refused and not ignore_memory:
            raise ConfigError(f"{self.shortage} --ignore-memory starts the run nevertheless")
        progress.warn(self.shortage)


def dry_run(config: TrainConfig, setup: TrainSetup) -> DryRun:
    """Return the batch sizes of a run and its estimated memory. Nothing is loaded but the tokenizer."""
    counts = batch_counts(config, with_greedy="greedy_reward" in setup.objective.needs)
    try:
        model = dimensions_of(setup.base, config.lora)
        prompt_tokens = longest_prompt(setup) if model.is_local else ASSUMED_PROMPT_TOKENS
    except (UsageError, OSError, ValueError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[0]
        return DryRun(counts, {}, (*setup.warnings, f"No memory estimate: {first_line}"))
    objective = config.objective.build()  # the run prepares its own
    objective.prepare(ModelShape(model.hidden, "cpu"), 0)
    n_own = sum(p.numel() for group in objective.parameters() for p in group.parameters)
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
        engine_has_copy=setup.engine.copies_policy,
    )
    counts |= {"tokens of the longest prompt seen": prompt_tokens, "tokens of the longest sequence": longest}
    needed, device = memory["at the peak"], pick_device(setup.base.device)
    available = available_bytes(device)
    return DryRun(
        counts,
        memory,
        (*setup.warnings, *_remarks(config, setup, model, needed, longest)),
        _shortage(memory, available, device) if needed > available else None,
        needed > REFUSED_ABOVE * available,
    )


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
    is_local: bool = True
    """Whether the model's own config was read; else it is one of `QWEN2_SHAPES`."""


def estimate_memory(
    config: TrainConfig,
    model: ModelDimensions,
    *,
    n_own: int,
    has_reference: bool,
    prompt_tokens: int,
    max_tokens: int,
    rows_at_once: int | None,
    engine_has_copy: bool = False,
) -> dict[str, int]:
    """Return bytes by part, and at the peak, for prompts and completions of this length.

    `n_own` is the number of the objective's own parameters, `rows_at_once` how many completions the engine decodes at
    once in this memory (None: its memory is its own). An engine with a copy of the weights takes them and the keys and
    values of one completion at least.
    """
    lasting = _lasting(config, model, n_own=n_own, has_reference=has_reference)
    passing = _passing(config, model, prompt_tokens, max_tokens)
    activations, logits, first_pass = passing.values()
    is_cpu, is_bfloat16 = pick_device(config.model.device) == "cpu", config.loop.precision == "bfloat16"
    rows = min(rows_at_once, _n_sequences(config)) if rows_at_once is not None else int(engine_has_copy)
    copied = model.n_parameters * (2 if is_bfloat16 else model.weight_bytes) if engine_has_copy else 0
    number_bytes = 2 if is_bfloat16 and not (is_cpu and rows_at_once is not None) else model.weight_bytes
    cached = 2 * model.n_layers * model.key_value * number_bytes * (prompt_tokens + max_tokens)
    # A cache grows by halves. A CPU hands memory out when it is written, a GPU when it is asked for.
    growth = 1.5 if rows_at_once is not None and not is_cpu else 1
    sampling = int(rows * (growth * cached + 3 * 4 * model.vocabulary))
    update = lasting["gradients"] + activations + logits  # gradients are dropped after the update
    kept = sum(lasting.values()) - lasting["gradients"] + copied
    peak = kept + max(update, first_pass, sampling)
    engine = {"weights of the engine": copied} if engine_has_copy else {}
    return {**lasting, **engine, **passing, "keys and values while sampling": sampling, "at the peak": peak}


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
    from transformers import AutoModelForCausalLM

    config, is_local = _model_config(source)
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
        longest=getattr(config, "max_position_embeddings", None) if is_local else None,
        n_adapters=n_parameters(module, lora) if lora is not None and lora.rank > 0 else None,
        is_local=is_local,
    )


def _model_config(source: ModelSource) -> tuple[Any, bool]:
    """Return the config of a model, and whether it is the model's own."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            source.path, revision=source.revision, local_files_only=True, trust_remote_code=source.trust_remote_code
        ), True
    except OSError:
        if source.path not in QWEN2_SHAPES:
            raise
    vocabulary, layers, hidden, intermediate, heads, groups = QWEN2_SHAPES[source.path]
    shape = {"vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": intermediate}
    counts = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": groups}
    return AutoConfig.for_model("qwen2", **shape, **counts), False


def longest_prompt(setup: TrainSetup) -> int:
    tokenizer = load_tokenizer(setup.base)
    problems = itertools.islice(setup.task.problems("train", 0), N_PROMPTS_READ)
    return max(len(prompt_ids(tokenizer, problem.messages)) for problem in problems)


# --- remarks ----------------------------------------------------------------------------------------------------


def _remarks(
    config: TrainConfig, setup: TrainSetup, model: ModelDimensions, needed: int, longest: int
) -> Iterator[str]:
    if not model.is_local:
        yield (
            f"{setup.base.path} is not on this machine: its sizes are those on the hub, and the longest prompt is "
            f"taken to have {ASSUMED_PROMPT_TOKENS} tokens."
        )
    if model.longest is not None and longest > model.longest:
        yield f"A sequence may have {longest} tokens, and the model was made for {model.longest}."
    if longest > config.loop.tokens_per_microbatch:
        yield (
            f"A sequence may have {longest} tokens, more than loop.tokens_per_microbatch = "
            f"{config.loop.tokens_per_microbatch}: such a sequence is a micro-batch of its own."
        )
    if config.loop.compile:
        yield "The estimate is that without loop.compile; compiled layers keep other activations."
    if setup.engine.copies_policy:
        yield (
            f"The engine {config.engine.id!r} is counted with its weights and the keys and values of one completion; "
            "it takes more where there is more."
        )
    elif setup.engine.n_at_once is None:
        yield f"The estimate does not include the memory of the engine {config.engine.id!r}."
    if needed > CARD_GB * 1e9:
        yield (
            f"That is the memory of at least {math.ceil(needed / 1e9 / CARD_GB)} cards of {CARD_GB} GB. This loop uses "
            "one device and splits no model over several."
        )


def _shortage(memory: Mapping[str, int], available: int, device: str) -> str:
    remedy = (
        "the model is too large to be trained here at all"
        if sum(memory[name] for name in KEPT) > available
        else "lower loop.tokens_per_microbatch or engine.batch_rows, or set loop.gradient_checkpointing = true"
    )
    needed = memory["at the peak"]
    verdict = "DOES NOT FIT" if needed > REFUSED_ABOVE * available else "MAY NOT FIT"
    return f"{verdict}: about {needed / 1e9:.3g} GB are needed and {device} has {available / 1e9:.3g}: {remedy}."


def available_bytes(device: str) -> int:
    """Return a GPU's memory, or for a CPU the memory of the machine or of its control group."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(text)) if text.isdecimal() else machine
