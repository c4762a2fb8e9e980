"""verl's metrics as rows of steps.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

ROW, ACTOR = "harness/row/", "actor/harness/"
PHASES = {
    "sample_s": ("gen",),
    "score_s": ("old_log_prob", "ref", "values", "adv"),
    "update_s": ("update_actor",),
    "sync_s": ("update_weights",),
    "wall_s": ("step",),
}


def step_row(step: int, data: Mapping[str, float]) -> dict[str, float]:
    """Return the row of a step: what our driver and workers measured, verl's loss, and its timings."""
    row: dict[str, float] = {"step": step}
    row |= {name.removeprefix(ROW): float(value) for name, value in data.items() if name.startswith(ROW)}
    for name, value in data.items():
        kind, _, metric = name.removeprefix(ACTOR).partition("/")
        metric = metric.lower()  # see `engine.metric_name`
        if not name.startswith(ACTOR):
            continue
        if kind == "sum" and (weight := data[name.replace("/sum/", "/weight/", 1)]):
            row[metric] = float(value) / float(weight)
        elif kind == "max":
            row[f"{metric}_max"] = float(value)
        elif kind == "mean":
            row[metric] = float(value)
    row |= {"step": step, "loss": float(data["actor/loss"])}
    if filled := data.get("harness/mean/rows_that_fill_up"):
        row["rows_that_fill_up"] = float(filled)
    for name, parts in PHASES.items():
        row[name] = sum(float(data.get(f"timing_s/{part}", 0.0)) for part in parts)
    n_tokens = row.get("n_tokens", 0.0)
    row["tokens_per_s"] = n_tokens / max(row["wall_s"], 1e-9)
    row["sampled_tokens_per_s"] = n_tokens / max(row["sample_s"], 1e-9)
    return row


class MetricsFile:
    """The file that verl's logger appends to; it gives each line once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new_rows(self) -> Iterator[dict[str, float]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                entry = json.loads(line)
                if "actor/loss" in entry["data"]:
                    yield step_row(int(entry["step"]), entry["data"])
