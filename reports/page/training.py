"""Training runs for the page: the metrics of each step, and the groups of rollouts that the run kept."""

from __future__ import annotations

from typing import Any

from harness.runs.folder import RunReader


def training_of(run: RunReader) -> dict[str, Any]:
    """Return steps as columns by metric, and the warnings of the run."""
    steps = run.steps()
    names = list(dict.fromkeys(name for row in steps for name in row if name != "step"))
    return {
        "steps": [row["step"] for row in steps],
        "metrics": {name: [row.get(name) for row in steps] for name in names},
        "warnings": [[row["step"], row["text"]] for row in run.warnings()],
    }
