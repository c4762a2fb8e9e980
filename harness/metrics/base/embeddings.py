"""Embeddings of whole texts by a sentence-transformers model: windows pooled, and cached on disk by content.

The cache is one SQLite file for each model in the folder `embeddings` of the harness's cache, `~/.cache/harness` unless
XDG_CACHE_HOME says otherwise. Remove the folder to clear it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.config import incidental
from harness.core.errors import ConfigError, PluginError
from harness.core.extras import is_installed, require
from harness.data.download import cache_root
from harness.metrics.base.diversity import FEWEST, Diversity, Part, right_of
from harness.metrics.base.grouping import Means, ProblemSamples
from harness.models.loading import fingerprint, open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

POOLING = "windows-1"
"""Version of how windows are cut and pooled, part of the key of the cache."""
SPARE = 8
"""Tokens of a window that stay free, since a text cut in two may be split into other tokens."""


class Embeddings(Diversity):
    """Base of the measures of embeddings: a subclass defines `of_directions` for unit vectors of one problem's texts.

    Next to each value are three controls at the same size: `_floor` is that of one text repeated, `_ceiling` that of
    texts of as many different problems, and `_random` that of texts of all problems dealt at random.
    """

    loads_model: ClassVar[bool] = True
    """A comparison that looks for a metric by name does not try this one unless its id is given."""
    depends_on_size: ClassVar[bool] = True
    """Whether the value changes with the number of samples; if not, two are enough for a control."""

    config: Config

    @dataclass(frozen=True, slots=True)
    class Config(Diversity.Config):
        model: str = "sentence-transformers/all-MiniLM-L6-v2"
        """A directory or hub id that sentence-transformers opens."""
        device: str = incidental(default="auto")

    def __init__(self, config: Config, encoder: Encoder | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else Encoder(config.model, config.device)
        self._rows: Mapping[str, Rows] = {}

    def check(self) -> None:
        """Load the model and embed a word, so that a model that can't be used is refused at once."""
        self.encoder.check()

    def of_directions(self, directions: NDArray[np.float64]) -> float:
        raise NotImplementedError

    def value(self, features: Sequence[Any]) -> float | None:
        import numpy as np

        return self.of_directions(np.stack(features))

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        texts = {p.problem_id: [item.completion.load().text for item in p.graded] for p in problems if p.n_graded > 1}
        # Sorted, so that no bit depends on the order of arrival.
        different = sorted({text for found in texts.values() for text in found})
        directions = dict(zip(different, self.encoder.directions(different), strict=True)) if different else {}
        features = {problem: [directions[text] for text in found] for problem, found in texts.items()}
        right = {p.problem_id: right_of(p, features[p.problem_id]) for p in problems if p.problem_id in features}
        self._features, self._places = features, {problem: place for place, problem in enumerate(features)}
        self._pools = {"": list(features.values()), "_correct": [found for found in right.values() if found]}
        return list(super().means(problems))

    def features(self, problem: ProblemSamples) -> Sequence[Any] | None:
        return self._features.get(problem.problem_id)

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:
        fewest = None if self.depends_on_size else FEWEST
        for part in super().parts(problem, features):
            yield part
            if part.features:
                pool = self._pools[part.suffix]
                controls = controls_of(pool, self._places[problem.problem_id], part.features)
                for name, found in controls.items():
                    is_short = len(found) < len(part.features)  # a ceiling of fewer problems than samples
                    yield Part(f"{part.suffix}_{name}", found, part.are_right, fewest if is_short else None)

    def cards(self) -> Mapping[str, Mapping[str, Any]]:
        return {"encoder": self.encoder.card()}


def controls_of(pool: Sequence[Sequence[Any]], place: int, features: Sequence[Any]) -> dict[str, list[Any]]:
    """Return as many vectors as a problem has: one repeated, one of each of other problems, and random ones."""
    from random import Random

    from harness.core.seeds import derive

    n = len(features)
    source = Random(derive(0, "random partition", place))
    # Neighbours in the order of ids may be alike, so the other problems are drawn.
    chosen = source.sample(pool, min(n, len(pool)))
    everything = [row for found in pool for row in found]
    ceiling = [found[place % len(found)] for found in chosen]
    return {"floor": [features[0]] * n, "ceiling": ceiling, "random": source.sample(everything, n)}


@dataclass
class Encoder:
    """A sentence-transformers model, loaded for the first text that the cache lacks."""

    model: str
    device: str = "auto"
    cache_folder: Path | None = None
    """None for the documented one."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("texts", "cached", "windows", "longer"), 0))

    def __post_init__(self) -> None:
        if not is_installed("embed"):
            _sentence_transformers()  # which raises
        self._opened: Any = None

    def directions(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return a unit vector for each text. Windows of a long text are averaged, weighted by their tokens."""
        import numpy as np

        from harness.stats.diversity import unit_rows

        with _Cache(self._cache_path()) as cache:
            keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
            known = cache.get(keys)
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
            made = dict(zip(missing, self._embed(list(missing.values())), strict=True)) if missing else {}
            cache.put(made)
            known |= made
        self.counts["texts"] += len(texts)
        self.counts["cached"] += len(texts) - len(missing)
        found = np.stack([known[key] for key in keys]).astype(np.float64)
        return unit_rows(found)

    def check(self) -> None:
        self._embed(["word"])

    def card(self) -> dict[str, Any]:
        identity = {key: value for key, value in fingerprint(self.model).items() if key == "fingerprint"}
        return {"model": self.model, **identity, "long texts": "in windows, averaged by their tokens"}

    def _embed(self, texts: Sequence[str]) -> Rows:
        """Return the pooled vector of each text: [texts, dimensions]."""
        import numpy as np

        opened = self._open()
        cut = windows_of(opened, texts)
        flat = [window for windows in cut for window in windows]
        rows = opened.encode([text for text, _ in flat], convert_to_numpy=True, show_progress_bar=False)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise PluginError(f"{self.model} embeds a text as zero or not a number; choose another model")
        weights = np.array([n_tokens for _, n_tokens in flat], dtype=np.float64)[:, None]
        starts = np.cumsum([0, *(len(windows) for windows in cut[:-1])])
        self.counts["windows"] += len(flat)
        self.counts["longer"] += sum(len(windows) > 1 for windows in cut)
        pooled: Rows = np.add.reduceat(rows / lengths * weights, starts).astype(np.float32)
        return pooled

    def _open(self) -> Any:
        if self._opened is None:
            device = self.device if self.device != "auto" else None
            # As sentence-transformers completes a name.
            is_whole = "/" in self.model or os.path.isdir(self.model)
            path = self.model if is_whole else f"sentence-transformers/{self.model}"
            try:
                self._opened = open_model(
                    path, None, lambda place: _sentence_transformers().SentenceTransformer(place, device=device)
                )
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(f"the embedding model {self.model!r} can't be opened: {reason}") from error
        return self._opened

    def _cache_path(self) -> Path:
        identity = repr((POOLING, self.model, sorted(fingerprint(self.model).items())))
        folder = self.cache_folder if self.cache_folder is not None else cache_root() / "embeddings"
        return folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.sqlite"


def _sentence_transformers() -> Any:
    """Import the package, which takes seconds. A name that no model has is refused before."""
    return require("embed", "a measure of embeddings")


def windows_of(opened: Any, texts: Sequence[str]) -> list[list[tuple[str, int]]]:
    """Cut each text into windows that the model reads whole, each with its number of tokens.

    A cut is made before a word if there is one in the last quarter of the window.
    """
    most = opened.max_seq_length
    if most is None or not math.isfinite(most):
        return [[(text, 1)] for text in texts]
    size = max(1, int(most) - opened.tokenizer.num_special_tokens_to_add() - SPARE)
    encoded = opened.tokenizer(
        list(texts), add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
    )
    return [_cut(text, spans, size) for text, spans in zip(texts, encoded["offset_mapping"], strict=True)]


def _cut(text: str, spans: Sequence[tuple[int, int]], size: int) -> list[tuple[str, int]]:
    if len(spans) <= size:
        return [(text, max(1, len(spans)))]
    found, start = [], 0
    while start < len(spans):
        end = min(start + size, len(spans))
        if end < len(spans):
            between = range(end, max(start + 1, end - size // 4), -1)
            end = next((place for place in between if text[spans[place][0] - 1].isspace()), end)
        found.append((text[spans[start][0] : spans[end - 1][1]], end - start))
        start = end
    return found


class _Cache:
    """Vectors by key in a SQLite file. A file that can't be written costs the cache and not the values."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> _Cache:
        with contextlib.suppress(OSError, sqlite3.Error):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, timeout=30)
            self._database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Rows]:
        import numpy as np

        found: dict[bytes, Rows] = {}
        for start in range(0, len(keys) if self._database is not None else 0, 500):
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            with contextlib.suppress(sqlite3.Error):
                rows = self._database.execute(f"SELECT key, row FROM vectors WHERE key IN ({marks})", some)  # type: ignore[union-attr]
                found |= {key: np.frombuffer(row, dtype=np.float32) for key, row in rows}
        return found

    def put(self, rows: Mapping[bytes, Rows]) -> None:
        if self._database is not None and rows:
            with contextlib.suppress(sqlite3.Error), self._database:
                pairs = [(key, row.tobytes()) for key, row in rows.items()]
                self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", pairs)
