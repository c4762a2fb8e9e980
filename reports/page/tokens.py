"""Log-probabilities of tokens for the page, with the text of each token if the tokenizer is on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.protocols import ModelSource
from harness.models.loading import load_tokenizer, resolve

MOST_TOKENS = 1_500_000
"""Tokens of a report whose log-probabilities are in its page. Each run has the same part."""
FIRST_SAMPLES = 4
"""Samples of a problem that have them: those with a lower index."""


class TokenTexts:
    """Texts of the token ids of one run that the page shows, and how many more may be shown."""

    def __init__(self, models: Iterable[str | None], most: int) -> None:
        """Take the tokenizer of the first of the models that is a folder on this machine."""
        self._models = [name for name in models if name is not None]
        self._tokenizer: Any = None
        self._is_open = False
        self.left = most
        self._texts: dict[int, str] = {}

    def row(self, tokens: Mapping[str, Any], index: int = 0) -> list[Any] | int:
        """Return ids and log-probabilities of a stored completion; 0 if it has none or the page has enough."""
        ids, logp = tokens.get("completion_ids"), tokens.get("logp_behaviour")
        if not ids or not logp or len(ids) != len(logp) or index >= FIRST_SAMPLES or len(ids) > self.left:
            return 0
        self.left -= len(ids)
        for token in ids:
            self._note(token)
        return [ids, [round(value, 3) if value is not None and math.isfinite(value) else None for value in logp]]

    def to_plain(self) -> dict[int, str]:
        return self._texts

    def _note(self, token: int) -> None:
        if not self._is_open:
            self._is_open, self._tokenizer = True, _tokenizer(self._models)
        if self._tokenizer is not None and token not in self._texts:
            self._texts[token] = self._tokenizer.decode([token])


def _tokenizer(models: Iterable[str]) -> Any:
    for name in models:
        try:
            if Path(path := resolve(name)).is_dir():
                return load_tokenizer(ModelSource(path))
        except HarnessError:
            continue
    return None
