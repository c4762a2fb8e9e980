"""Groups of completions that a training keeps for its report, with their log-probabilities.

A step keeps its first groups in the order of the prompts, before any is left out, so that they are a fair sample.
Together they stay below a number of bytes, which is spread over the steps: where groups are large, fewer steps keep
some. Which are kept depends only on the sizes of those before, so a resumed run keeps the same as an unbroken one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.types import Graded, KeptGroup, KeptSample
from harness.runs.folder import RunWriter

DECIMALS = 4
"""Of a log-probability."""

Trained = Mapping[tuple[str, int], tuple[float, float]]
"""Problem and index of a completion that is trained on -> its shaped reward and its advantage."""


@dataclass(slots=True, kw_only=True)
class GroupKeeper:
    """Appends groups of some steps to the run folder."""

    store: RunWriter
    decode: Callable[[Sequence[int]], str]
    """Returns the text of token ids."""
    n_steps: int
    every_steps: int
    per_step: int
    most_bytes: int
    n_bytes: int = 0
    """The size of the groups so far."""
    _has_noted: bool = False

    def is_due(self, step: int) -> bool:
        return step in (1, self.n_steps) or step % self.every_steps == 0

    def keep(self, step: int, sampled: Sequence[Graded[Any]], trained: Trained) -> None:
        """Append the first groups of a step, as many as have room."""
        groups = itertools.groupby(sampled, key=lambda item: item.problem.id)
        n_before, n_places = (self.per_step * n for n in (self._due_before(step), self._due_before(self.n_steps) + 1))
        for place, (_, items) in enumerate(itertools.islice(groups, self.per_step), n_before):
            # The place of a group has its share of the bytes; one that is larger takes those of the places after it.
            has_room = self.n_bytes * n_places <= self.most_bytes * place
            n_bytes = self._append(step, list(items), trained) if has_room else 0
            if n_bytes == 0:
                self._note(step, place - n_before)
                return
            self.n_bytes += n_bytes

    def _due_before(self, step: int) -> int:
        return (step - 1) // self.every_steps + (step > 1 and self.every_steps > 1)

    def _append(self, step: int, items: Sequence[Graded[Any]], trained: Trained) -> int:
        problem, prompt_ids = items[0].problem, items[0].completion.tokens.prompt_ids
        texts = [message.content for message in problem.messages]
        if not texts and prompt_ids is not None:  # rollouts of a file
            texts = [self.decode(prompt_ids)]
        group = KeptGroup(
            step=step,
            task=problem.task,
            problem_id=problem.id,
            prompt="\n\n".join(texts),
            samples=[kept_sample(item, trained.get((item.problem.id, item.completion.index))) for item in items],
        )
        return self.store.append_group(group, self.most_bytes - self.n_bytes)

    def _note(self, step: int, n_kept: int) -> None:
        if not self._has_noted:
            self.store.log(
                f"step {step} kept {n_kept} of {self.per_step} groups, since they are large: rollouts.groups_mb = "
                f"{self.most_bytes / 1e6:g} is spread over the run"
            )
        self._has_noted = True


def kept_sample(item: Graded[Any], trained: tuple[float, float] | None) -> KeptSample:
    """Return what is kept of a graded completion. `trained` has its shaped reward and its advantage."""
    completion, verdict = item.completion.load(), item.verdict
    tokens = completion.tokens
    shaped_reward, advantage = trained if trained is not None else (None, None)
    return KeptSample(
        index=completion.index,
        text=completion.text,
        finish_reason=completion.finish_reason,
        n_tokens=tokens.n_completion,
        outcome=verdict.outcome,
        reward=verdict.reward,
        extracted=verdict.extracted,
        reason=verdict.reason,
        is_trained=trained is not None,
        shaped_reward=_finite(shaped_reward, 6),
        advantage=_finite(advantage, 6),
        token_ids=tokens.completion_ids,
        logp=None if tokens.logp_behaviour is None else [_finite(value, DECIMALS) for value in tokens.logp_behaviour],
    )


def _finite(value: float | None, decimals: int) -> float | None:
    """Return a rounded number; None for one that JSON does not have."""
    return round(value, decimals) + 0.0 if value is not None and math.isfinite(value) else None  # and not -0.0
