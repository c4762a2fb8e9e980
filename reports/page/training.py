"""Training runs for the page: the metrics of each step, and groups of the rollouts that the run kept.

They are those of groups.jsonl, which a run keeps by default, and of rollouts.jsonl where it saved all of them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.core.errors import RunFolderError
from harness.core.types import KeptGroup, KeptSample, is_finite_number
from harness.reports.page.pack import ChunkWriter
from harness.reports.page.tokens import TokenTexts
from harness.reports.run_config import run_config
from harness.runs.folder import RunReader
from harness.runs.jsonl import parse_line, read_raw_lines
from harness.runs.schema import BAD_ROW

GROUPS, ROLLOUTS = "groups.jsonl", "rollouts.jsonl"
MOST_STEPS, MOST_GROUPS, MOST_OF_A_GROUP = 24, 8, 64
"""Steps of one run whose rollouts are in the page, groups of each step, and samples of each group."""
_BEGIN, _END = b'{"begin":', b'{"end":'
_STEP_OF_GROUP, _STEP_OF_END = re.compile(rb'\{"step":(\d+),'), re.compile(rb'\{"end":(\d+),')


def training_of(run: RunReader, chunks: ChunkWriter, most_tokens: int) -> dict[str, Any]:
    """Return steps as columns by metric, the warnings, and the chunk of each step whose rollouts are in the page."""
    steps = run.steps()
    names = list(dict.fromkeys(name for row in steps for name in row if name != "step"))
    texts = TokenTexts([str(run.folder), run_config(run).model], 0)
    saved, kept = _steps(run, ROLLOUTS, _STEP_OF_END), _steps(run, GROUPS, _STEP_OF_GROUP)
    chosen = _spread(sorted(saved | kept))
    groups: dict[int, int] = {}
    for step, found in itertools.chain(_saved(run, chosen & saved), _kept(run, chosen - saved)):
        texts.left = most_tokens // len(chosen)
        groups[step] = chunks.add([_plain(group, texts) for group in itertools.islice(found, MOST_GROUPS)])
    return {
        "steps": [row["step"] for row in steps],
        "metrics": {name: [row.get(name) for row in steps] for name in names},
        "warnings": [[row["step"], row["text"]] for row in run.warnings()],
        "groups": sorted(groups.items()),
        "pieces": texts.to_plain(),
    }


def _steps(run: RunReader, name: str, beginning: re.Pattern[bytes]) -> set[int]:
    """Return the steps that a file of rollouts has, which are in the lines that begin so."""
    return {int(found[1]) for line in read_raw_lines(run.folder / name) if (found := beginning.match(line))}


def _spread(steps: list[int]) -> set[int]:
    """Return the steps, or as many of them as the page takes, at equal distances with the first and the last."""
    if len(steps) <= MOST_STEPS:
        return set(steps)
    return {steps[round(i * (len(steps) - 1) / (MOST_STEPS - 1))] for i in range(MOST_STEPS)}


def _plain(group: KeptGroup, texts: TokenTexts) -> dict[str, Any]:
    return {
        "problem": group.problem_id,
        "prompt": group.prompt,
        "left_out": not any(sample.is_trained for sample in group.samples),
        "samples": [_plain_sample(sample, texts) for sample in group.samples[:MOST_OF_A_GROUP]],
    }


def _plain_sample(sample: KeptSample, texts: TokenTexts) -> list[Any]:
    return [
        sample.index,
        sample.text,
        sample.reward if is_finite_number(sample.reward) else None,
        sample.outcome,
        sample.extracted,
        sample.reason,
        sample.finish_reason,
        sample.n_tokens,
        texts.row({"completion_ids": sample.token_ids, "logp_behaviour": sample.logp}),
        sample.shaped_reward,
        sample.advantage,
    ]


def _kept(run: RunReader, chosen: set[int]) -> Iterator[tuple[int, Iterable[KeptGroup]]]:
    """Yield chosen steps with their groups in groups.jsonl."""
    for step, groups in itertools.groupby(run.groups() if chosen else (), key=lambda group: group.step):
        if step in chosen:
            yield step, groups


# --- rollouts.jsonl, which has no advantages and no prompts ------------------------------------------------------


def _saved(run: RunReader, chosen: set[int]) -> Iterator[tuple[int, Iterable[KeptGroup]]]:
    """Yield chosen steps with their groups in rollouts.jsonl, one step in memory at a time."""
    path = run.lines(ROLLOUTS)
    step, groups = None, dict[str, KeptGroup]()
    try:
        for line in read_raw_lines(path) if chosen else ():
            if line.startswith(_BEGIN):
                step, groups = parse_line(line)["begin"], {}
            elif line.startswith(_END):
                if step in chosen:
                    yield step, groups.values()
                step = None
            elif step in chosen:
                _add(step, groups, parse_line(line))
    except BAD_ROW as error:
        raise RunFolderError(f"{path} can't be understood ({type(error).__name__}: {error})") from None


def _add(step: int, groups: dict[str, KeptGroup], row: Mapping[str, Any]) -> None:
    completion, verdict = row["completion"], row["verdict"]
    problem = completion["problem_id"]
    if row["part"] == "greedy" or (problem not in groups and len(groups) >= MOST_GROUPS):
        return
    group = groups.setdefault(problem, KeptGroup(step, row["task"], problem, "", []))
    group.samples.append(
        KeptSample(
            index=completion["index"],
            text=completion["text"],
            finish_reason=completion["finish_reason"],
            n_tokens=completion["tokens"]["n_completion"],
            outcome=verdict["outcome"],
            reward=verdict["reward"],
            extracted=verdict["extracted"],
            reason=verdict["reason"],
            is_trained=row["part"] == "chosen",
            token_ids=completion["tokens"]["completion_ids"],
            logp=completion["tokens"]["logp_behaviour"],
        )
    )
