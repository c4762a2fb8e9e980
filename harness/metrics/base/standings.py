"""Contest standings from the frozen file that `harness standings` writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.metrics.base.ratings import StandingsRow


@dataclass(frozen=True, slots=True)
class Contest:
    """Official standings, best first, and the points of the problems; no points where each problem counts as one."""

    rows: Sequence[StandingsRow]
    points: Mapping[str, float]

    def worth(self, index: str) -> float | None:
        """Return the points of the problem A, B1 ... Raise DataError where only other problems have points."""
        if self.points and index not in self.points:
            raise DataError(f"the standings have the points of {', '.join(self.points)}, and not of {index}")
        return self.points.get(index)


@dataclass(frozen=True, slots=True)
class Standings:
    """The contests of a file, with the file's name and hash."""

    name: str
    sha256: str
    contests: Mapping[str, Contest]

    @classmethod
    def read(cls, path: str) -> Standings:
        try:
            data = Path(path).read_bytes()
            found = json.loads(data)
            if found["format"] != 1:
                raise DataError(f"{path} has format {found['format']}, and only format 1 can be read")
            contests = {key: _contest(value) for key, value in found["contests"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} can't be read as standings ({type(error).__name__}: {error}); `harness standings FILE` writes "
                "such a file"
            ) from None
        return cls(Path(path).name, hashlib.sha256(data).hexdigest(), contests)


def _contest(value: Mapping[str, Mapping[str, float] | Sequence[Sequence[float]]]) -> Contest:
    rows, points = value["rows"], value["points"]
    assert isinstance(points, Mapping) and isinstance(rows, Sequence)
    points = {index: float(worth) for index, worth in points.items()}
    return Contest([StandingsRow(*map(float, row)) for row in rows], points)
