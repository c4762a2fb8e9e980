"""lm-eval's `samples_TASK_TIME.jsonl`, written with --log_samples: a line for each document and filter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.interop.imports.base import (
    Format,
    Origin,
    ProblemKeys,
    Row,
    Sample,
    question_of,
    verdict_of_score,
    whole,
)

QUESTION_FIELDS = ("question", "problem", "Problem", "prompt", "query", "text")
RESULT_FIELDS = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter")


class LmEvalSamples(Format):
    """The filters of a document share its completions, so these are taken once, and the scores of all filters."""

    name = "lm-eval"
    title = "lm-eval"

    def __init__(self) -> None:
        self._first_filter: str | None = None

    def recognises(self, rows: Sequence[Row]) -> bool:
        return all({"doc_id", "doc", "resps"} <= row.keys() for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        pipeline = row.get("filter", "none")
        if self._first_filter is None:
            self._first_filter = pipeline
        keys = _keys(row)
        replies = _replies(row["resps"])
        verdicts = {f"lm-eval:{name},{pipeline}": verdict_of_score(score) for name, score in _scores(row).items()}
        for index, reply in enumerate(replies):
            scored = verdicts if len(replies) == 1 else {}  # lm-eval scores the replies of a document together
            yield Sample(keys, reply, index, verdicts=scored, is_repeat=pipeline != self._first_filter)

    def origin(self, path: Path, rows: Sequence[Row]) -> Origin:
        """Return the sampling of the requests, and the model and version of the results file in the same folder."""
        results = _results_of(path)
        version, settings = results.get("lm_eval_version"), results.get("config", {})
        model = results.get("model_name") or settings.get("model_args")
        tool = f"lm-eval {version}" if version is not None else self.title
        return Origin(tool, str(model) if model else None, _sampling(rows))


def _keys(row: Row) -> ProblemKeys:
    doc = row["doc"]
    asked = next((doc[name] for name in QUESTION_FIELDS if isinstance(doc.get(name), str)), None)
    arguments = _first_request(row)
    text = asked if asked is not None else question_of(arguments.get("arg_0"))
    return ProblemKeys(_id(doc), whole(row["doc_id"]), text)


def _id(doc: Mapping[str, Any]) -> str | None:
    found = next((doc[name] for name in ("id", "ID", "task_id", "unique_id", "question_id") if name in doc), None)
    return str(found) if isinstance(found, (str, int)) else None


def _first_request(row: Row) -> Mapping[str, Any]:
    arguments = row.get("arguments", ())
    first: Any = next(iter(arguments.values() if isinstance(arguments, Mapping) else arguments), {})
    if isinstance(first, Mapping):
        return first
    return {f"arg_{place}": value for place, value in enumerate(first)}


def _replies(responses: Any) -> list[str]:
    if len(responses) != 1 or not all(isinstance(reply, str) for reply in responses[0]):
        raise ValueError("`resps` holds log-likelihoods, not texts; only generated completions can be imported")
    return list(responses[0])


def _scores(row: Row) -> dict[str, float]:
    names = row.get("metrics", [name for name in row if name not in RESULT_FIELDS])
    return {name: float(row[name]) for name in names if isinstance(row.get(name), (bool, int, float))}


def _sampling(rows: Sequence[Row]) -> dict[str, Any]:
    options = _first_request(rows[0]).get("arg_1")
    if not isinstance(options, Mapping):
        return {}
    found: dict[str, Any] = {}
    if options.get("do_sample") is False:
        found["temperature"] = 0.0
    elif options.get("temperature") is not None:
        found["temperature"] = float(options["temperature"])
    found |= {name: options[name] for name in ("top_p", "top_k", "min_p") if options.get(name) is not None}
    if isinstance(options.get("max_gen_toks"), int):
        found["max_tokens"] = options["max_gen_toks"]
    if options.get("until"):
        found["stop"] = [options["until"]] if isinstance(options["until"], str) else list(options["until"])
    return found


def _results_of(path: Path) -> Mapping[str, Any]:
    """Return the results file of the same evaluation; empty if it is not in the folder or can't be read."""
    time = path.name.removesuffix(".jsonl").rpartition("_")[2]
    try:
        found = json.loads(path.with_name(f"results_{time}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
