"""What a config's batch words multiply to, and the memory that training will need, by arithmetic: `--dry-run`.

Memory is what stays (weights, gradients, the optimiser's moments, the reference) and the largest of what comes and
goes: the activations of a micro-batch with the logits of a chunk, the pass before the updates, the cache of keys and
values while sampling. For one token a layer keeps 6 hidden + 2 query + 2 key-value + 4 intermediate numbers, counted
on models of the Llama and Qwen families with scaled-dot-product attention. tests/unit/test_forecast.py holds the sum
to a factor of 1.6 of what a run took on a processor.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.core.errors import UsageError
from harness.core.models import load_tokenizer, pick_device
from harness.core.prompts import prompt_ids
from harness.core.protocols import ModelSource
from harness.core.training import ModelShape
from harness.trainers.learner import FROZEN_FACTOR
from harness.trainers.logprob import CHUNK_ELEMENTS
from harness.trainers.lora import n_parameters
from harness.trainers.refusals import reads_reference
from harness.trainers.settings import LoraConfig, TrainConfig

if TYPE_CHECKING:
    from harness.trainers.run import Parts

ROOM = 1.5
"""A cache grows by halves: so much more than it holds may be set aside."""
N_PROMPTS_READ = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model, as far as memory goes."""

    n_parameters: int
    n_layers: int
    hidden: int
    intermediate: int
    query: int
    key_value: int
    vocabulary: int
    bytes_each: int
    longest: int | None = None
    """The sequence it was made for."""
    n_adapters: int | None = None
    """Parameters of the adapters, if those are trained and the rest is not."""

    @property
    def kept_by_layer(self) -> int:
        """Bytes that a layer keeps of a token for the backward pass."""
        numbers = 6 * self.hidden + 2 * self.query + 2 * self.key_value + 4 * self.intermediate
        return numbers * self.bytes_each

    @property
    def passing_layer(self) -> int:
        """Bytes of a token that are alive at once in a layer where nothing is kept."""
        return (3 * self.hidden + 3 * self.intermediate) * self.bytes_each


@dataclass(frozen=True, slots=True)
class Forecast:
    """Counts, bytes by name, and what a person should be told."""

    counts: Mapping[str, int]
    memory: Mapping[str, int]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """For a person; each line may stand in a TOML file."""
        numbers = {name: f"{value:,}" for name, value in self.counts.items()}
        sizes = {name: f"{value / 1e9:,.3g} GB" for name, value in self.memory.items()}
        width = max(map(len, [*numbers, *sizes]))
        told = [f"# {name:{width}}  {text}" for name, text in (*numbers.items(), *sizes.items())]
        return [*told, *(f"# {remark}" for remark in self.remarks)]


# --- counts -----------------------------------------------------------------------------------------------------


def counts(config: TrainConfig, *, with_greedy: bool) -> dict[str, int]:
    loop = config.loop
    sequences = loop.prompts_per_step * loop.samples_per_prompt
    updates = loop.minibatches_per_step * loop.epochs
    per_step = sequences + (loop.prompts_per_step if with_greedy else 0)
    rounds = 1 + config.dynamic_sampling.max_extra_rounds
    told = {
        "prompts a step": loop.prompts_per_step,
        "samples a prompt": loop.samples_per_prompt,
        "sequences a step": sequences,
        "minibatches a step": loop.minibatches_per_step,
        "sequences a minibatch, at most": math.ceil(loop.prompts_per_step / loop.minibatches_per_step)
        * loop.samples_per_prompt,
        "optimiser updates a step": updates,
        "optimiser updates of the run": updates * loop.steps,
        "tokens a micro-batch": loop.tokens_per_microbatch,
        "completions of the run": per_step * loop.steps,
    }
    if rounds > 1:
        told["completions of the run, at most"] = (rounds * sequences + per_step - sequences) * loop.steps
    return told


# --- memory -----------------------------------------------------------------------------------------------------


def shape_of(source: ModelSource, lora: LoraConfig | None = None) -> Shape:
    """From the model's config alone: its parameters are laid out and never filled."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # Nothing is fetched for a forecast: a model that is not here yet has none.
    config = AutoConfig.from_pretrained(source.path, revision=source.revision, local_files_only=True)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    shape = shape_from(config, sum(p.numel() for p in module.parameters()), getattr(torch, source.dtype).itemsize)
    if lora is None or lora.rank == 0:
        return shape
    return dataclasses.replace(shape, n_adapters=n_parameters(module, lora))


def shape_from(config: Any, n_parameters: int, bytes_each: int) -> Shape:
    head = getattr(config, "head_dim", None)
    head = head if head is not None else config.hidden_size // config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None)
    return Shape(
        n_parameters=n_parameters,
        n_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        query=head * config.num_attention_heads,
        key_value=head * (groups if groups is not None else config.num_attention_heads),
        vocabulary=config.vocab_size,
        bytes_each=bytes_each,
        longest=getattr(config, "max_position_embeddings", None),
    )


def memory(
    config: TrainConfig,
    shape: Shape,
    *,
    n_own: int,
    has_reference: bool,
    longest_prompt: int,
    max_tokens: int,
    batch_rows: int | None,
) -> dict[str, int]:
    """Bytes by part, and at the peak. `n_own`: parameters of the objective; `batch_rows`: decoded at once here."""
    loop, longest = config.loop, longest_prompt + max_tokens
    n_sequences = loop.prompts_per_step * loop.samples_per_prompt
    weights, adapters = shape.n_parameters * shape.bytes_each, shape.n_adapters
    trained = weights + 4 * n_own if adapters is None else 4 * (adapters + n_own)
    # A reference is the model under the adapters; once it is reset, it is other adapters.
    remembered = weights if adapters is None else 4 * adapters * config.reference.is_ever_reset
    stays = {
        "weights": trained if adapters is None else weights + trained,
        "gradients": trained,
        "optimiser states": 2 * trained,
        "reference": remembered if has_reference else 0,
    }
    n_trained = counts(config, with_greedy=False)["sequences a minibatch, at most"]
    tokens = min(max(loop.tokens_per_microbatch, longest), n_trained * longest)
    frozen_tokens = min(max(FROZEN_FACTOR * loop.tokens_per_microbatch, longest), n_sequences * longest)
    passes = {
        "activations of a micro-batch": activations(shape, tokens, is_recomputed=loop.gradient_checkpointing),
        "logits of a chunk": logits(shape, min(tokens, n_sequences * max_tokens)),
        "pass before the updates": frozen_tokens * shape.passing_layer,
        "keys and values while sampling": cache(shape, min(batch_rows, n_sequences), longest) if batch_rows else 0,
    }
    *update, frozen, sampling = passes.values()
    return {**stays, **passes, "at the peak": sum(stays.values()) + max(sum(update), frozen, sampling)}


def activations(shape: Shape, tokens: int, *, is_recomputed: bool) -> int:
    """What the layers keep of a micro-batch, with the gradients of the one in work."""
    if is_recomputed:
        return tokens * (shape.n_layers * shape.hidden * shape.bytes_each + 2 * shape.kept_by_layer)
    return tokens * (shape.n_layers + 1) * shape.kept_by_layer


def logits(shape: Shape, tokens: int) -> int:
    """Logits, their normalised form and their gradient, float32, and the output layer's gradient as it is summed."""
    chunk = min(CHUNK_ELEMENTS, tokens * shape.vocabulary)
    return 3 * 4 * max(chunk, shape.vocabulary) + shape.vocabulary * shape.hidden * shape.bytes_each


def cache(shape: Shape, rows: int, length: int) -> int:
    held = 2 * shape.n_layers * shape.key_value * shape.bytes_each * length
    return int(rows * (ROOM * held + 3 * 4 * shape.vocabulary))


# --- all of it --------------------------------------------------------------------------------------------------


def forecast(config: TrainConfig, parts: Parts) -> Forecast:
    """Everything that can be told of a run before it begins."""
    told = counts(config, with_greedy="greedy_reward" in parts.objective.needs)
    try:
        shape = shape_of(parts.base, config.lora)
        longest = longest_prompt(parts)
    except (UsageError, OSError, ValueError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[0]
        return Forecast(told, {}, (*parts.advice, f"The memory can't be told beforehand: {first_line}"))
    rows = getattr(config.engine.options, "batch_rows", None)
    parts.objective.prepare(ModelShape(shape.hidden, "cpu"), 0)
    own = sum(p.numel() for group in parts.objective.parameters() for p in group.parameters)
    max_tokens = config.sampling.over(parts.task.sampling).max_tokens
    needed = memory(
        config,
        shape,
        n_own=own,
        has_reference=reads_reference(config, parts.objective),
        longest_prompt=longest,
        max_tokens=max_tokens,
        batch_rows=rows,
    )
    told |= {"tokens of the longest prompt seen": longest, "tokens of the longest sequence": longest + max_tokens}
    remarks = _remarks(config, needed, longest + max_tokens, shape.longest, rows, parts.base.device)
    return Forecast(told, needed, (*parts.advice, *remarks))


def longest_prompt(parts: Parts) -> int:
    tokenizer = load_tokenizer(parts.base)
    problems = itertools.islice(parts.task.problems("train", 0), N_PROMPTS_READ)
    return max(len(prompt_ids(tokenizer, problem.messages)) for problem in problems)


def _remarks(
    config: TrainConfig,
    needed: Mapping[str, int],
    longest: int,
    made_for: int | None,
    batch_rows: int | None,
    device: str,
) -> list[str]:
    said = []
    if made_for is not None and longest > made_for:
        said.append(f"A sequence may have {longest} tokens, and the model was made for {made_for}.")
    if longest > config.loop.tokens_per_microbatch:
        said.append(
            f"A sequence may have {longest} tokens, more than loop.tokens_per_microbatch = "
            f"{config.loop.tokens_per_microbatch}: such a one is a micro-batch of its own."
        )
    if config.loop.precision == "bfloat16":
        said.append("The sum is that of float32: less is kept in bfloat16, beside half as much again for the weights.")
    if config.loop.compile:
        said.append("What compiled layers keep is not known beforehand; the sum is that without loop.compile.")
    if batch_rows is None:
        said.append("The memory of the engine is not in this sum.")
    room = available_bytes(pick_device(device))
    if needed["at the peak"] > room:
        said.append(_does_not_fit(needed, room, pick_device(device)))
    return said


def _does_not_fit(needed: Mapping[str, int], room: int, device: str) -> str:
    stays = sum(needed[name] for name in ("weights", "gradients", "optimiser states", "reference"))
    remedy = (
        "the model is too large to be trained here at all"
        if stays > room
        else "lower loop.tokens_per_microbatch or engine.batch_rows, or set loop.gradient_checkpointing = true"
    )
    return f"DOES NOT FIT: {needed['at the peak'] / 1e9:.3g} GB are needed and {device} has {room / 1e9:.3g}: {remedy}."


def available_bytes(device: str) -> int:
    """All memory of a device; of a processor, what the machine or its control group has."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(text)) if text.isdecimal() else machine
