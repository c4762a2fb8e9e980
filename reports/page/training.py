"""Training runs for the page: the metrics of each step, and groups of the rollouts that the run kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.errors import RunFolderError
from harness.core.types import is_finite_number
from harness.reports.page.pack import ChunkWriter
from harness.reports.page.tokens import TokenTexts
from harness.reports.run_config import run_config
from harness.runs.folder import RunReader
from harness.runs.jsonl import parse_line, read_raw_lines
from harness.runs.schema import BAD_ROW

ROLLOUTS = "rollouts.jsonl"
MOST_STEPS, MOST_GROUPS, MOST_OF_A_GROUP = 24, 8, 64
"""Steps of one run whose rollouts are in the page, groups of each step, and samples of each group."""
_BEGIN, _END = b'{"begin":', b'{"end":'


def training_of(run: RunReader, chunks: ChunkWriter, most_tokens: int) -> dict[str, Any]:
    """Return steps as columns by metric, the warnings, and the chunk of each step whose rollouts are in the page."""
    steps = run.steps()
    names = list(dict.fromkeys(name for row in steps for name in row if name != "step"))
    texts = TokenTexts([str(run.folder), run_config(run).model], 0)
    groups = {step: chunks.add(found) for step, found in _groups(run, texts, most_tokens)}
    return {
        "steps": [row["step"] for row in steps],
        "metrics": {name: [row.get(name) for row in steps] for name in names},
        "warnings": [[row["step"], row["text"]] for row in run.warnings()],
        "groups": list(groups.items()),
        "most_groups": MOST_GROUPS,
        "pieces": texts.to_plain(),
    }


def _groups(run: RunReader, texts: TokenTexts, most_tokens: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield chosen steps with groups of their rollouts, one step in memory at a time."""
    path = run.folder / ROLLOUTS
    chosen = _spread([parse_line(line)["end"] for line in read_raw_lines(path) if line.startswith(_END)])
    step, groups = None, dict[str, dict[str, Any]]()
    try:
        for line in read_raw_lines(run.lines(ROLLOUTS)):
            if line.startswith(_BEGIN):
                step, groups = parse_line(line)["begin"], {}
                texts.left = most_tokens // len(chosen) if chosen else 0
            elif line.startswith(_END):
                if step in chosen:
                    yield step, list(groups.values())
                step = None
            elif step in chosen:
                _add(groups, parse_line(line), texts)
    except BAD_ROW as error:
        raise RunFolderError(f"{path} can't be understood ({type(error).__name__}: {error})") from None


def _spread(steps: list[int]) -> set[int]:
    """Return the steps, or as many of them as the page takes, at equal distances with the first and the last."""
    if len(steps) <= MOST_STEPS:
        return set(steps)
    return {steps[round(i * (len(steps) - 1) / (MOST_STEPS - 1))] for i in range(MOST_STEPS)}


def _add(groups: dict[str, dict[str, Any]], row: Mapping[str, Any], texts: TokenTexts) -> None:
    completion, verdict = row["completion"], row["verdict"]
    problem = completion["problem_id"]
    if row.get("part") == "greedy" or (problem not in groups and len(groups) >= MOST_GROUPS):
        return
    group = groups.setdefault(problem, {"problem": problem, "samples": [], "left_out": row.get("part") == "left_out"})
    if len(group["samples"]) < MOST_OF_A_GROUP:
        reward = verdict["reward"] if is_finite_number(verdict["reward"]) else None
        tokens = completion["tokens"]
        group["samples"].append(
            [
                completion["index"],
                completion["text"],
                reward,
                verdict["outcome"],
                verdict.get("extracted"),
                verdict.get("reason", ""),
                completion["finish_reason"],
                tokens["n_completion"],
                texts.row(tokens),
            ]
        )
