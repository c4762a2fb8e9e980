"""Find the problem of MATH that each pair of MATH-Perturb was made from, and write the ids of both.

    python tools/match_math_perturb.py

The published files give the split and subject of an original, not its text. Every original has level 5. Of those, the
one that shares most runs of three tokens with the simple or the hard perturbation is taken. The pairs were read: the
runner-up is never close.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness.commands.overlap import tokens
from harness.core import config
from harness.data.files import locate, read_records
from harness.tasks import math_perturb
from harness.tasks._base.dataset import Row

RUN = 3


def runs(text: str) -> Counter[tuple[str, ...]]:
    words = tokens(text)
    return Counter(zip(*(words[start:] for start in range(RUN)), strict=False))


def likeness(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
    """Return the Dice coefficient of two bags of runs."""
    return 2 * (one & other).total() / max(1, one.total() + other.total())


def candidates() -> list[tuple[Row, str, Counter[tuple[str, ...]]]]:
    """Return the problems of MATH of level 5 with their split and runs."""
    task = config.parse_plugin("tasks", {"id": "math_perturb", "variant": "original"}).build()
    rows = math_perturb.every_original(*map(locate, task.files()["test"]))
    return [(row, split, runs(row.problem)) for row, split in rows if row.tags["level"] == "5"]


def main() -> None:
    originals = candidates()
    records = {
        variant: {str(record["problem_id"]): record for record in read_records(locate(file), math_perturb.COLUMNS)}
        for variant, file in math_perturb.FILES.items()
    }
    lines = []
    for key, simple in records["simple"].items():
        perturbed = [runs(records[variant][key]["problem"]) for variant in ("simple", "hard")]
        found = [
            (max(likeness(mine, theirs) for mine in perturbed), row.id)
            for row, split, theirs in originals
            if split == simple["original_split"] and row.tags["subject"] == simple["type"]
        ]
        score, original = max(found)
        if score < 0.3:
            print(f"{key}: best likeness {score:.2f}; read this pair")
        lines.append(f"{key}\t{original}\n")
    Path(math_perturb.ORIGINALS).write_text("".join(lines), encoding="utf-8")
    print(f"{math_perturb.ORIGINALS}: {len(lines)} pairs")


if __name__ == "__main__":
    main()
