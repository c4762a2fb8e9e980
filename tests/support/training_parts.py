"""Parts of the training tests: a tiny model with random weights, and batches made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from harness.core.protocols import ModelSource
from harness.core.tensors import Batch, PolicyOutputs
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.models.loading import load_module, load_tokenizer, resolve
from harness.trainers.batch import totals_of

VOCABULARY = 110


def tiny_source(random_seed: int | None = 0) -> ModelSource:
    return ModelSource(resolve("countdown-tiny"), device="cpu", random_seed=random_seed)


def tiny_module(random_seed: int | None = 0) -> Any:
    return load_module(tiny_source(random_seed))


def tiny_tokenizer() -> Any:
    return load_tokenizer(tiny_source())


def make_batch(
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[int],
    group_ids: Sequence[int],
    rewards: Sequence[float] | None = None,
    seed: int = 0,
) -> Batch:
    """Random tokens; completions of one group share their prompt."""
    generator = torch.Generator().manual_seed(seed)
    prompts = {group: torch.randint(3, VOCABULARY, (64,), generator=generator) for group in group_ids}
    n_rows, width = len(group_ids), max(completion_lengths)
    longest = max(p + c for p, c in zip(prompt_lengths, completion_lengths, strict=True))
    sequence_ids = torch.zeros(n_rows, longest, dtype=torch.long)
    for row, (p, c, group) in enumerate(zip(prompt_lengths, completion_lengths, group_ids, strict=True)):
        sequence_ids[row, :p] = prompts[group][:p]
        sequence_ids[row, p : p + c] = torch.randint(3, VOCABULARY, (c,), generator=generator)
    lengths = torch.tensor(completion_lengths)
    return Batch(
        sequence_ids=sequence_ids,
        prompt_lengths=torch.tensor(prompt_lengths),
        completion_lengths=lengths,
        completion_mask=torch.arange(width) < lengths[:, None],
        logp_behaviour=None,
        rewards=torch.tensor(rewards if rewards is not None else [float(i % 2) for i in range(n_rows)]),
        group_ids=torch.tensor(group_ids),
        totals=totals_of(lengths, torch.tensor(group_ids)),
        greedy_rewards=torch.tensor([float(group % 2) / 2 for group in group_ids]),
    )


def make_outputs(batch: Batch, hidden_size: int = 8, seed: int = 1) -> PolicyOutputs:
    """Outputs of every need, random, differentiable, in float64."""
    generator = torch.Generator().manual_seed(seed)
    mask = batch.completion_mask

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return PolicyOutputs(
        logp=((-values(*mask.shape).abs() - 0.1) * mask).requires_grad_(),
        logp_reference=(-values(*mask.shape).abs() - 0.1) * mask,
        entropy=values(*mask.shape).abs() * mask,
        prompt_hidden=values(len(mask), hidden_size),
        prompt_last_hidden=values(len(mask), hidden_size),
        completion_hidden=values(*mask.shape, hidden_size) * mask[..., None],
    )


def detached(outputs: PolicyOutputs) -> PolicyOutputs:
    return dataclasses.replace(outputs, logp=outputs.logp.detach())


def graded(problem_id: str, index: int, reward: float, *, finish_reason: Any = "stop") -> Graded[Any]:
    tokens = Tokens(1, 1, (1,), (2,))
    completion = Completion(problem_id, index, 0, "", finish_reason, tokens)
    outcome = "correct" if reward > 0 else "incorrect"
    return Graded(Problem(problem_id, "fake", (), None), completion, Verdict(outcome, reward))
