"""Cut passages into windows of tokens whose log-probabilities are scored.

The windows are those of lm-evaluation-harness, so that the numbers are the same: spaces at the end of a prompt belong
to the passage, a prompt without text is the token that begins a document, and a document longer than the context is
read in windows that share no scored token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import EngineError
from harness.core.types import Completion, Likelihood, Passage, Request, Tokens
from harness.models.chat import prompt_text, text_ids


@dataclass(frozen=True, slots=True)
class ScoringWindow:
    """Ids that are read in one forward pass, of which the last `n_scored` count."""

    ids: tuple[int, ...]
    n_scored: int

    @property
    def input_ids(self) -> tuple[int, ...]:
        """The ids without the last one, after which nothing is predicted."""
        return self.ids[:-1]


def request_windows(tokenizer: Any, request: Request, context: int) -> list[list[ScoringWindow]]:
    """Return the windows of every passage of a request."""
    where = repr(request.problem_id)
    return [scoring_windows(tokenizer, passage, context, where) for passage in request.passages]


def scoring_windows(tokenizer: Any, passage: Passage, context: int, where: str) -> list[ScoringWindow]:
    """Return the windows of one passage, for a model that reads at most `context` tokens."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not passage.messages:
        return list(_rolling_windows(text_ids(tokenizer, passage.text, False), first, context))
    prompt, is_templated = prompt_text(tokenizer, passage.messages)
    if prompt == "":
        scored = text_ids(tokenizer, passage.text, True)
        head = scored[:1] if scored[:1] == [first] else [first]
        scored = scored[1:] if scored[:1] == [first] else scored
    else:
        bare = prompt.rstrip()
        whole = text_ids(tokenizer, prompt + passage.text, is_templated)
        head = text_ids(tokenizer, bare, is_templated)
        scored = whole[len(head) :]
    if not head or not scored:
        raise EngineError(f"{where} asks for the likelihood of {passage.text!r}, which has no token after its prompt")
    if len(head) + len(scored) > context + 1:
        raise EngineError(
            f"{where} has a prompt and a passage of {len(head) + len(scored)} tokens, more than the model's context of "
            f"{context}; ask with fewer examples in the prompt"
        )
    return [ScoringWindow((*head, *scored), len(scored))]


def _rolling_windows(ids: Sequence[int], first: int, context: int) -> Iterator[ScoringWindow]:
    """Yield windows that score every id once; a window after the first is filled up with the ids before it."""
    whole = [first, *ids]
    for start in range(1, len(whole), context):
        end = min(start + context, len(whole))
        yield ScoringWindow(tuple(whole[max(0, end - context - 1) : end]), end - start)


def scored_completion(
    request: Request,
    windows_of: Sequence[Sequence[ScoringWindow]],
    scores: Mapping[ScoringWindow, tuple[float, bool]],
) -> Completion:
    """Return the completion of a request that asks for likelihoods, from the windows of its passages."""
    likelihoods = tuple(
        Likelihood(
            sum(scores[window][0] for window in windows),
            all(scores[window][1] for window in windows),
            sum(window.n_scored for window in windows),
        )
        for windows in windows_of
    )
    tokens = Tokens(sum(len(window.input_ids) for windows in windows_of for window in windows), 0)
    return Completion(request.problem_id, request.index, request.seed, "", "stop", tokens, likelihoods)
