"""Programs written for evalplus and LiveCodeBench: samples, and the results of their own judges."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.types import Verdict
from harness.interop.imports.base import Format, Origin, ProblemKeys, Row, Sample, text_of, verdict_of_score

_LCB_NAME = re.compile(r"_(\d+)_(\d+(?:\.\d+)?)(?:_eval_all|_eval)?\.json$")


class EvalPlusSamples(Format):
    """evalplus' `samples.jsonl`: `task_id`, and a whole `solution` or a `completion` that goes on after the prompt."""

    name = "evalplus"
    title = "evalplus"

    def recognises(self, rows: Sequence[Row]) -> bool:
        return all("task_id" in row and ("solution" in row or "completion" in row) for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        is_whole = row.get("solution") is not None
        program = row["solution"] if is_whole else row["completion"]
        if not isinstance(program, str):
            raise ValueError(f"a program is text, not {type(program).__name__}")
        yield Sample(ProblemKeys(str(row["task_id"])), program, is_program=True, continues_prompt=not is_whole)


class EvalPlusResults(Format):
    """evalplus' `eval_results.json`: the solutions with the status that evalplus gave them."""

    name = "evalplus-results"
    title = "evalplus"

    def recognises(self, rows: Sequence[Row]) -> bool:
        return len(rows) == 1 and isinstance(rows[0].get("eval"), Mapping) and "hash" in rows[0]

    def read(self, row: Row) -> Iterator[Sample]:
        for task_id, results in row["eval"].items():
            for result in results:
                verdicts = {
                    f"evalplus:{name}": _status(result[f"{name}_status"])
                    for name in ("base", "plus")
                    if result.get(f"{name}_status") is not None
                }
                yield Sample(ProblemKeys(task_id), result["solution"], is_program=True, verdicts=verdicts)


def _status(status: str) -> Verdict:
    return verdict_of_score(status == "pass")


class LiveCodeBenchOutputs(Format):
    """LiveCodeBench's list of problems with `output_list`, and `graded_list` after its evaluation."""

    name = "livecodebench"
    title = "LiveCodeBench"

    def recognises(self, rows: Sequence[Row]) -> bool:
        return all({"question_id", "output_list"} <= row.keys() for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        outputs: Sequence[Any] = row["output_list"]
        graded = row.get("graded_list")
        if graded is not None and len(graded) != len(outputs):
            raise ValueError(f"`graded_list` has {len(graded)} entries and `output_list` {len(outputs)}")
        keys = ProblemKeys(str(row["question_id"]), text=row.get("question_content"))
        for index, output in enumerate(outputs):
            verdicts = {"livecodebench:graded": verdict_of_score(graded[index])} if graded is not None else {}
            yield Sample(keys, text_of(output), index, verdicts=verdicts)

    def origin(self, path: Path, rows: Sequence[Row]) -> Origin:  # noqa: ARG002
        """Return the temperature in the file's name and the model in its folder's, where LiveCodeBench puts them."""
        found = _LCB_NAME.search(path.name)
        if found is None:
            return Origin(self.title)
        return Origin(self.title, path.resolve().parent.name, {"temperature": float(found[2])})
