"""Graded completions as padded tensors, cut into minibatches and micro-batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import EngineError, RunError
from harness.core.protocols import Need
from harness.core.tensors import Batch, Totals
from harness.core.types import Graded


def collate(
    graded: Sequence[Graded[Any]],
    device: str,
    greedy_rewards: Sequence[float] | None = None,
    needs: frozenset[Need] = frozenset(),
) -> Batch:
    """Return completions as one padded batch in the given order. Completions of one problem form a group.

    The classes of completions are in it where they are in the objective's `needs`.
    """
    prompts = [_ids(item.completion.tokens.prompt_ids) for item in graded]
    completions = [_ids(item.completion.tokens.completion_ids) for item in graded]
    prompt_lengths = torch.tensor([len(ids) for ids in prompts])
    completion_lengths = torch.tensor([len(ids) for ids in completions])
    width = int(completion_lengths.max())
    numbers = {problem_id: i for i, problem_id in enumerate(dict.fromkeys(item.problem.id for item in graded))}
    batch = Batch(
        sequence_ids=_padded([[*p, *c] for p, c in zip(prompts, completions, strict=True)], torch.long),
        prompt_lengths=prompt_lengths,
        completion_lengths=completion_lengths,
        completion_mask=torch.arange(width) < completion_lengths[:, None],
        logp_behaviour=_logp_behaviour(graded),
        rewards=torch.tensor([_reward(item) for item in graded]),
        group_ids=torch.tensor([numbers[item.problem.id] for item in graded]),
        totals=Totals(len(graded), int(completion_lengths.sum())),
        greedy_rewards=torch.tensor(greedy_rewards) if greedy_rewards is not None else None,
        classes=_classes(graded, needs),
    )
    moved: Batch = map_tensors(batch, lambda tensor: tensor.to(device))
    return moved


def _ids(ids: Sequence[int] | None) -> list[int]:
    if not ids:
        raise EngineError("the engine gave a completion without token ids; training needs them")
    return list(ids)


def _reward(item: Graded[Any]) -> float:
    reward = item.verdict.reward
    assert reward is not None, "ungraded completions are dropped before a batch is made"
    if not math.isfinite(reward):
        raise RunError(f"the grader gave a completion of {item.problem.id} the reward {reward}; a reward is a number")
    return reward


def _classes(graded: Sequence[Graded[Any]], needs: frozenset[Need]) -> Tensor | None:
    if not needs & {"solution_classes", "answer_classes"}:
        return None
    texts = [_solution(item) if "solution_classes" in needs else item.verdict.extracted for item in graded]
    pairs = [(item.problem.id, text) for item, text in zip(graded, texts, strict=True)]
    numbers = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    return torch.tensor([numbers[pair] if pair[1] is not None else -1 for pair in pairs])


def _solution(item: Graded[Any]) -> str | None:
    solution: str | None = item.verdict.details.get("solution")
    if solution is None and item.verdict.outcome == "correct":
        raise RunError(
            f"the verdict of a right completion of {item.problem.id} does not name its solution, by which the "
            "objective's advantage compares it: set objective.advantage.classes = 'answer', or choose another advantage"
        )
    return solution


def _logp_behaviour(graded: Sequence[Graded[Any]]) -> Tensor | None:
    rows = [item.completion.tokens.logp_behaviour for item in graded]
    if any(row is None for row in rows):
        return None
    return _padded([list(row) for row in rows if row is not None], torch.float32)


def _padded(rows: Sequence[Sequence[Any]], dtype: torch.dtype) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)


# --- division ---------------------------------------------------------------------------------------------------


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the dataclass with every tensor in it changed, those in its mappings included."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            changes[field.name] = change(item)
        elif isinstance(item, dict):
            changes[field.name] = {key: change(tensor) for key, tensor in item.items()}
    return dataclasses.replace(value, **changes)


def select(value: Any, rows: Tensor) -> Any:
    """Return some rows of a Batch, PolicyOutputs or Advantages."""
    return map_tensors(value, lambda tensor: tensor[rows])


def minibatches(batch: Batch, n_minibatches: int, trained: Tensor | None = None) -> Iterator[tuple[Tensor, Totals]]:
    """Yield the `trained` rows of each minibatch with its totals; None is all. Groups stay whole and in order."""
    groups = torch.unique(batch.group_ids, sorted=True)
    for part in groups.tensor_split(n_minibatches):
        is_in = torch.isin(batch.group_ids, part)
        rows = (is_in if trained is None else is_in & trained.to(is_in.device)).nonzero()[:, 0]
        if len(rows):
            yield rows, totals_of(batch.completion_lengths[rows], batch.group_ids[rows])


def totals_of(completion_lengths: Tensor, group_ids: Tensor) -> Totals:
    """Return the totals of a minibatch, given the length and the group of each of its completions."""
    by_prompt = group_ids.bincount(completion_lengths.float())  # float32 counts exactly to 16 million tokens
    return Totals(len(completion_lengths), int(completion_lengths.sum()), by_prompt)


def microbatches(batch: Batch, rows: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Cut rows into pieces of at most `max_tokens` padded tokens (or one sequence), the longest first."""
    lengths = (batch.prompt_lengths + batch.completion_lengths)[rows]
    ordered = rows[lengths.argsort(descending=True, stable=True)]
    start = 0
    while start < len(ordered):
        longest = int((batch.prompt_lengths + batch.completion_lengths)[ordered[start]])
        size = max(1, max_tokens // longest)
        yield ordered[start : start + size]
        start += size


def microbatch(batch: Batch, rows: Tensor, totals: Totals) -> Batch:
    """Return rows as a batch, trimmed to their longest sequence, with the totals of their minibatch.

    The completion axis keeps its width, so that tensors of the whole batch still line up.
    """
    part = select(batch, rows)
    longest = int((part.prompt_lengths + part.completion_lengths).max())
    trimmed: Batch = dataclasses.replace(part, totals=totals, sequence_ids=part.sequence_ids[:, :longest])
    return trimmed
