"""Log-probabilities of given texts: what is scored in which window, and the forward passes that do it.

Texts become windows as in lm-evaluation-harness, so that the numbers are the same: the spaces that end a prompt belong
to the passage, a prompt without text is the token that begins a document, and a document longer than the context is
read in windows that share no scored token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.core.errors import EngineError
from harness.core.types import Completion, Likelihood, Passage, Request, Tokens
from harness.models.chat import prompt_text, text_ids

# Matrix products of fewer rows take another kernel on a processor, which rounds otherwise.
MIN_CPU_ROWS = 32
# Tokens of one forward pass, and numbers in its logits.
PASS_TOKENS = 16_384
PASS_LOGITS = 2**28


@dataclass(frozen=True, slots=True)
class Window:
    """Ids that are read in one go, of which the last `n_scored` count."""

    ids: tuple[int, ...]
    n_scored: int

    @property
    def read(self) -> tuple[int, ...]:
        """What the model is given: nothing follows from the last id."""
        return self.ids[:-1]


def windows(tokenizer: Any, passage: Passage, context: int, where: str) -> list[Window]:
    """The windows of one passage, for a model that reads at most `context` tokens."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not passage.messages:
        return list(_rolling(text_ids(tokenizer, passage.text, False), first, context))
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
    return [Window((*head, *scored), len(scored))]


def _rolling(ids: Sequence[int], first: int, context: int) -> Iterator[Window]:
    """Every id is scored once; a window after the first is filled up with what stands before."""
    whole = [first, *ids]
    for start in range(1, len(whole), context):
        end = min(start + context, len(whole))
        yield Window(tuple(whole[max(0, end - context - 1) : end]), end - start)


def scored(
    request: Request, asked: Sequence[Sequence[Window]], found: Mapping[Window, tuple[float, bool]]
) -> Completion:
    """The answer to a request whose passages are these windows."""
    likelihoods = tuple(
        Likelihood(
            sum(found[window][0] for window in of_passage),
            all(found[window][1] for window in of_passage),
            sum(window.n_scored for window in of_passage),
        )
        for of_passage in asked
    )
    tokens = Tokens(sum(len(window.read) for of_passage in asked for window in of_passage), 0)
    return Completion(request.problem_id, request.index, request.seed, "", "stop", tokens, likelihoods)


@torch.inference_mode()
def logps_of(module: Any, several: Iterable[Window]) -> dict[Window, tuple[float, bool]]:
    """The log-probability of what counts of each, and whether every token was the likeliest.

    Windows that differ in their last token alone, such as the letters of a choice, are read once.
    """
    by_input: dict[tuple[int, ...], list[Window]] = defaultdict(list)
    for window in several:
        by_input[window.read].append(window)
    found: dict[Window, tuple[float, bool]] = {}
    for batch in _batches(module, by_input):
        n_kept = max(window.n_scored for read in batch for window in by_input[read])
        for read, logits in zip(batch, _logits(module, batch, n_kept), strict=True):
            logp = torch.log_softmax(logits, -1)
            found |= {window: _of_window(logp, window) for window in by_input[read]}
    return found


def _of_window(logp: torch.Tensor, window: Window) -> tuple[float, bool]:
    rows = logp[-window.n_scored :]
    ids = torch.tensor(window.ids[-window.n_scored :], device=rows.device)
    return float(rows.gather(1, ids[:, None]).sum()), bool((rows.argmax(-1) == ids).all())


def _batches(module: Any, by_input: Mapping[tuple[int, ...], Sequence[Window]]) -> Iterator[list[tuple[int, ...]]]:
    """Longest first. On a processor inputs of one length only: padding would change rounding, and costs time."""
    batch: list[tuple[int, ...]] = []
    n_kept = 0
    for read in sorted(by_input, key=lambda ids: (-len(ids), ids)):
        n_mine = max(window.n_scored for window in by_input[read])
        n_rows, longest = len(batch) + 1, len(batch[0]) if batch else len(read)
        n_logits = n_rows * max(n_kept, n_mine) * module.config.get_text_config().vocab_size
        is_other = module.device.type == "cpu" and len(read) != longest
        if batch and (is_other or n_rows * longest > PASS_TOKENS or n_logits > PASS_LOGITS):
            yield batch
            batch, n_kept = [], 0
        batch.append(read)
        n_kept = max(n_kept, n_mine)
    if batch:
        yield batch


def _logits(module: Any, batch: Sequence[tuple[int, ...]], n_kept: int) -> torch.Tensor:
    """The last `n_kept` logits of every row, or a few more. (rows, positions, vocabulary)"""
    longest, is_cpu = len(batch[0]), module.device.type == "cpu"
    n_kept = min(longest, max(n_kept, MIN_CPU_ROWS)) if is_cpu else n_kept
    copies = -(-MIN_CPU_ROWS // (n_kept * len(batch))) if is_cpu else 1
    lengths = torch.tensor([len(read) for read in batch] * copies, device=module.device)
    ids = torch.tensor([[0] * (longest - len(read)) + list(read) for read in batch] * copies, device=module.device)
    is_padded = any(len(read) != longest for read in batch)
    mask = (torch.arange(longest, device=ids.device) >= (longest - lengths)[:, None]).long() if is_padded else None
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    output = module(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=n_kept)
    logits: torch.Tensor = output.logits[: len(batch)]
    return logits
