"""Embedding distance: the mean cosine distance between the right completions of a problem, by a sentence model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from harness.core.config import incidental
from harness.core.errors import ConfigError, PluginError
from harness.core.extras import require
from harness.metrics.base.grouping import MeanOverProblems, Means, ProblemSamples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST = 2.0
"""Cosine distance of opposite directions."""


class Embedded(NamedTuple):
    """Embeddings, one row per text, with how much of the texts the model read."""

    rows: NDArray[np.floating[Any]]
    n_cut: int
    """Number of texts longer than the model reads."""
    most_tokens: int | None
    """Tokens that the model reads of a text; None without a limit."""


class Encoder(Protocol):
    def embed(self, texts: Sequence[str]) -> Embedded: ...


class EmbeddingDistance(MeanOverProblems):
    """The mean over problems of the mean of 1 - cos(a, b) over all pairs of the right completions' embeddings.

    Problems with fewer than two right completions have no pair; they are left out and counted. The model reads only the
    beginning of completions longer than its limit; the estimate's method gives their number. Equal texts are at
    distance 0. Distant texts may still be one solution in other words.
    """

    loads_model: ClassVar[bool] = True
    """A comparison that looks for a metric by name does not try this one unless its id is given."""

    config: Config

    @dataclass(frozen=True, slots=True)
    class Config:
        model: str = "sentence-transformers/all-MiniLM-L6-v2"
        """A directory or hub id that sentence-transformers opens."""
        device: str = incidental(default="auto")

    def __init__(self, config: Config, encoder: Encoder | None = None) -> None:
        super().__init__(config)
        self._encoder = encoder if encoder is not None else SentenceModel(config.model, config.device)

    def check(self) -> None:
        """Load the model and embed a word, so that a model that can't be used is refused at once."""
        self._directions(self._encoder.embed(["word"]))

    def means(self, problems: Sequence[ProblemSamples]) -> list[Means]:
        used = [problem for problem in problems if problem.n_correct >= 2]
        if not used:
            return []
        texts = {problem.problem_id: _right_texts(problem) for problem in used}
        # Sorted, so that no bit depends on the order of arrival.
        different = sorted({text for of_problem in texts.values() for text in of_problem})
        embedded = self._encoder.embed(different)
        directions = dict(zip(different, self._directions(embedded), strict=True))
        values = [_mean_distance([directions[text] for text in texts[problem.problem_id]]) for problem in used]
        notes = (*_left_out(len(problems) - len(used)), self._coverage(embedded, len(different)))
        return [Means("embedding_distance", used, values, LARGEST, notes)]

    def _directions(self, embedded: Embedded) -> NDArray[np.float64]:
        import numpy as np

        rows = np.asarray(embedded.rows, dtype=np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise PluginError(
                f"{self.config.model} embeds a text as zero or not a number; choose another embedding_distance.model"
            )
        found: NDArray[np.float64] = rows / lengths
        return found

    def _coverage(self, embedded: Embedded, n_texts: int) -> str:
        most = f"{embedded.most_tokens} tokens" if embedded.most_tokens is not None else "any length"
        return f"{self.config.model} reads {most}, and {embedded.n_cut} of {n_texts} different texts are longer"


class SentenceModel:
    """A sentence-transformers model, loaded on first use."""

    def __init__(self, model: str, device: str) -> None:
        self.model, self.device = model, device
        require("embed", "the metric embedding_distance")

    def embed(self, texts: Sequence[str]) -> Embedded:
        opened = self._opened()
        rows = opened.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        most = opened.max_seq_length
        if most is None or not math.isfinite(most):
            return Embedded(rows, 0, None)
        ids = opened.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return Embedded(rows, sum(len(of_text) > most for of_text in ids), int(most))

    def _opened(self) -> Any:
        made = require("embed", "the metric embedding_distance").SentenceTransformer
        try:
            return made(self.model, device=self.device if self.device != "auto" else None)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"the embedding model {self.model!r} can't be opened: {reason}") from error


def _right_texts(problem: ProblemSamples) -> list[str]:
    return [item.completion.load().text for item in problem.graded if item.verdict.outcome == "correct"]


def _left_out(n_problems: int) -> tuple[str, ...]:
    return (f"{n_problems} problems with fewer than 2 right completions left out",) if n_problems else ()


def _mean_distance(directions: Sequence[NDArray[np.float64]]) -> float:
    """Return the mean distance over all pairs of unit vectors.

    The squared length of their sum is n plus twice the sum of the pairs' cosines.
    """
    import numpy as np

    n, total = len(directions), np.sum(directions, axis=0)
    mean_cosine = (float(total @ total) - n) / (n * (n - 1))
    return min(LARGEST, max(0.0, 1 - mean_cosine))


METRIC = EmbeddingDistance
