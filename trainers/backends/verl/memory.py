"""`harness train --backend verl --dry-run`: the memory of one GPU and of one node in each phase of a step.

FSDP2 shards weights, gradients and optimiser states, all float32, over all GPUs; the layers compute in bfloat16 where
loop.precision says so. verl keeps the reference in the processor's memory, and the sampler takes its share of every GPU
while it samples. One layer at a time is gathered whole, with the embeddings and the output layer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from harness.core.errors import UsageError
from harness.core.tensors import ModelShape
from harness.trainers.backends.verl.settings import PASS_FACTOR, longest_sequence, tokens_per_gpu
from harness.trainers.dry_run import DryRun, ModelDimensions, batch_counts, dimensions_of

if TYPE_CHECKING:
    from harness.trainers.backends.verl import Verl
    from harness.trainers.setup import TrainSetup

FLOAT32, ADAM = 4, 8
FEWEST_SEQUENCES = 8
"""Keys and values of so many longest sequences have to fit, or sampling crawls."""


def estimate(setup: TrainSetup, options: Verl.Config) -> DryRun:
    """Return the batch sizes and the memory of a run. Nothing is loaded."""
    counts = {**batch_counts(setup.config, with_greedy=False), "GPUs": options.n_gpus}
    try:
        model = dimensions_of(setup.base, setup.config.lora)
    except (UsageError, OSError, ValueError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[0]
        return DryRun(counts, {}, (*setup.warnings, f"No memory estimate: {first_line}"))
    counts |= {
        "tokens of the longest sequence": longest_sequence(setup, options),
        "tokens of a GPU's micro-batch": tokens_per_gpu(setup, options),
        "completions of a minibatch on a GPU": counts["sequences a minibatch, at most"] // options.n_gpus,
    }
    memory = gpu_memory(setup, options, model, n_own(setup, model.hidden))
    card, needed = options.card_gb * 10**9, memory["at the peak"]
    return DryRun(
        counts,
        {f"{name}, a GPU": value for name, value in memory.items()}
        | {f"{name}, a node": value for name, value in node_memory(setup, options, model).items()},
        (*setup.warnings, *_remarks(setup, options, model)),
        shortage(memory, card, options),
        needed > card,
    )


def n_own(setup: TrainSetup, hidden: int) -> int:
    """Return how many parameters the objective has of its own."""
    objective = setup.config.objective.build()  # the run prepares its own
    objective.prepare(ModelShape(hidden, "cpu"), 0)
    return sum(p.numel() for group in objective.parameters() for p in group.parameters)


def gpu_memory(setup: TrainSetup, options: Verl.Config, model: ModelDimensions, own: int) -> dict[str, int]:
    """Return bytes of one GPU by part, of the three phases, and at the peak."""
    is_lora = model.n_adapters is not None
    trained = model.n_adapters if model.n_adapters is not None else model.n_parameters
    held = model.n_parameters + (trained if is_lora else 0)
    is_half = setup.config.loop.precision == "bfloat16"
    layer_bytes = 2 if is_half else 4
    on_gpu = 0 if options.offload == "always" else 1
    parts = {
        "weights": on_gpu * FLOAT32 * held // options.n_gpus,
        "gradients": on_gpu * FLOAT32 * trained // options.n_gpus,
        "optimiser states": on_gpu * ADAM * trained // options.n_gpus,
        "the objective's own parameters": (2 * FLOAT32 + ADAM) * own,
        "gathered layers": _gathered(model, layer_bytes),
        "activations of a micro-batch": _activations(setup, options, model, layer_bytes),
        "logits of a micro-batch": tokens_per_gpu(setup, options) * model.vocabulary * (3 * layer_bytes + 4),
    }
    passing = PASS_FACTOR * tokens_per_gpu(setup, options) * (model.vocabulary * layer_bytes * 2 + 8 * model.hidden * 2)
    stays = parts["the objective's own parameters"]
    asleep = stays + (parts["weights"] + parts["optimiser states"] if options.offload == "none" else 0)
    sampler = int(options.gpu_memory_utilization * options.card_gb * 10**9)
    phases = {
        "update": sum(parts.values()),
        "pass before the updates": asleep
        + parts["weights"] * (options.offload == "between")
        + parts["gathered layers"]
        + passing,
        "sampling": asleep + sampler,
    }
    engine = {"weights of the sampler": layer_bytes * model.n_parameters // options.tensor_parallel}
    keys = (
        2 * model.n_layers * model.key_value * layer_bytes * longest_sequence(setup, options) // options.tensor_parallel
    )
    engine["keys and values of one longest sequence"] = keys
    return {**parts, **engine, **phases, "at the peak": max(phases.values())}


def _gathered(model: ModelDimensions, layer_bytes: int) -> int:
    """Return two layers (one is fetched ahead), the embeddings and the output layer, whole."""
    outer = 2 * model.vocabulary * model.hidden
    return layer_bytes * (outer + 2 * max(0, model.n_parameters - outer) // model.n_layers)


def _activations(setup: TrainSetup, options: Verl.Config, model: ModelDimensions, layer_bytes: int) -> int:
    tokens = tokens_per_gpu(setup, options)
    one_layer = (6 * model.hidden + 2 * model.query + 2 * model.key_value + 4 * model.intermediate) * layer_bytes
    if not setup.config.loop.gradient_checkpointing:
        return tokens * model.n_layers * one_layer
    inputs = 0 if options.offload_activations else model.n_layers * model.hidden * layer_bytes
    return tokens * (inputs + one_layer)


def node_memory(setup: TrainSetup, options: Verl.Config, model: ModelDimensions) -> dict[str, int]:
    """Return the bytes that a node's processor memory holds."""
    trained = model.n_adapters if model.n_adapters is not None else model.n_parameters
    moved = {"none": 0, "between": FLOAT32 * model.n_parameters + ADAM * trained}
    moved["always"] = moved["between"] + FLOAT32 * trained
    has_reference = setup.with_reference and model.n_adapters is None
    layer_bytes = 2 if setup.config.loop.precision == "bfloat16" else 4
    return {
        "offloaded states": moved[options.offload] // options.nodes,
        "reference": layer_bytes * model.n_parameters // options.nodes if has_reference else 0,
        # Every process reads the whole model before it is sharded, of which one at a time keeps the weights.
        "loading": FLOAT32 * model.n_parameters,
    }


def shortage(memory: dict[str, int], card: int, options: Verl.Config) -> str | None:
    """Return which phase does not fit and what to do, or None."""
    share = int(options.gpu_memory_utilization * card)
    sampler = memory["weights of the sampler"] + FEWEST_SEQUENCES * memory["keys and values of one longest sequence"]
    remedies = {
        "update": "more nodes, offload = 'always', offload_activations = true, or lora.rank",
        "pass before the updates": "offload = 'between', or more nodes",
        "sampling": "a lower gpu_memory_utilization, or offload = 'between'",
    }
    for phase, remedy in remedies.items():
        if memory[phase] > card:
            return (
                f"DOES NOT FIT: {phase} takes about {memory[phase] / 1e9:.3g} GB of a GPU with {card / 1e9:.3g}. Of "
                f"the options of the backend: {remedy}."
            )
    if sampler > share:
        return (
            f"DOES NOT FIT: the sampler takes {sampler / 1e9:.3g} GB for its weights and {FEWEST_SEQUENCES} sequences, "
            f"and gpu_memory_utilization leaves it {share / 1e9:.3g}: raise that or tensor_parallel."
        )
    return None


def _remarks(setup: TrainSetup, options: Verl.Config, model: ModelDimensions) -> list[str]:
    where = f"{options.nodes} x {options.gpus_per_node} GPUs of {options.card_gb} GB"
    found = [
        f"For {where}, with FSDP2 over all of them and {options.rollout} on {options.tensor_parallel} GPU(s) a copy."
    ]
    if not model.is_local:
        found.append(f"{setup.base.path} is not on this machine: its sizes are those on the hub.")
    if setup.config.dynamic_sampling.max_extra_rounds > 0:
        found.append(
            "dynamic_sampling: verl draws until a step is full, without a bound on the rounds "
            f"(dynamic_sampling.max_extra_rounds = {setup.config.dynamic_sampling.max_extra_rounds} has no effect)."
        )
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    held = sum(node_memory(setup, options, model).values()) - node_memory(setup, options, model)["loading"]
    if held > machine:
        found.append(f"This machine has {machine / 1e9:.3g} GB, less than a node holds ({held / 1e9:.3g} GB).")
    return found
