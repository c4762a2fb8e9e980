"""Standings of contests from a frozen file, as `harness standings` writes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.metrics.base.ratings import Row


@dataclass(frozen=True, slots=True)
class Contest:
    """Official standings, best first, and what its problems were worth; nothing where each counts as one."""

    rows: Sequence[Row]
    points: Mapping[str, float]

    def worth(self, index: str) -> float | None:
        """Of the problem A, B1 ... Raises DataError where the contest has points and none for it."""
        if self.points and index not in self.points:
            raise DataError(f"the standings tell the points of {', '.join(self.points)}, and not of {index}")
        return self.points.get(index)


@dataclass(frozen=True, slots=True)
class Standings:
    """What a file holds, and which file it is."""

    name: str
    sha256: str
    contests: Mapping[str, Contest]

    @classmethod
    def read(cls, path: str) -> Standings:
        try:
            data = Path(path).read_bytes()
            found = json.loads(data)
            if found["format"] != 1:
                raise DataError(f"{path} is of format {found['format']}, and only 1 is read here")
            contests = {key: _contest(value) for key, value in found["contests"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} can't be read as standings ({type(error).__name__}: {error}); `harness standings FILE` makes "
                "such a file"
            ) from None
        return cls(Path(path).name, hashlib.sha256(data).hexdigest(), contests)


def _contest(value: Mapping[str, Mapping[str, float] | Sequence[Sequence[float]]]) -> Contest:
    rows, points = value["rows"], value["points"]
    assert isinstance(points, Mapping) and isinstance(rows, Sequence)
    return Contest([Row(*map(float, row)) for row in rows], {index: float(worth) for index, worth in points.items()})
