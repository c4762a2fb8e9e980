"""Outputs of generation services: NeMo-Skills' JSONL and the Batch API of OpenAI."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.interop.imports.base import (
    Format,
    Origin,
    ProblemKeys,
    Row,
    Sample,
    finish_reason_of,
    text_of,
    verdict_of_score,
    whole,
)

_NUMBERED = re.compile(r"^(?P<id>.+?)(?:[-_:/#|]+(?:sample|s|n|rs)?)(?P<index>\d+)$")


class NemoSkills(Format):
    """NeMo-Skills' `output-rsN.jsonl`: the problem's row with `generation`, and verdicts where it was judged."""

    name = "nemo-skills"
    title = "NeMo-Skills"

    def recognises(self, rows: Sequence[Row]) -> bool:
        marks = ("expected_answer", "num_generated_tokens", "predicted_answer", "generation_time", "test_cases")
        return all("generation" in row and any(mark in row for mark in marks) for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        verdicts = {}
        if "symbolic_correct" in row:
            verdicts["nemo-skills:symbolic_correct"] = verdict_of_score(row["symbolic_correct"])
        if isinstance(row.get("judgement"), str):
            verdicts["nemo-skills:judgement"] = verdict_of_score(_is_yes(row["judgement"]))
        found = next((row[name] for name in ("id", "task_id", "problem_id") if name in row), None)
        yield Sample(
            ProblemKeys(str(found) if found is not None else None, text=row.get("problem", row.get("question"))),
            text_of(row["generation"]),
            finish_reason=finish_reason_of(row.get("finish_reason")),
            n_prompt=whole(row.get("num_input_tokens")),
            n_completion=whole(row.get("num_generated_tokens")),
            verdicts=verdicts,
        )


def _is_yes(judgement: str) -> bool:
    """Return whether the last word after `Judgement:` is Yes, as NeMo-Skills' judge prompt asks for."""
    return judgement.rpartition("udgement:")[2].strip().lower().startswith("yes")


class OpenAIBatch(Format):
    """The output file of a batch. `custom_id` is the problem's id, alone or followed by a sample number: `ID-3`."""

    name = "openai-batch"
    title = "OpenAI batch"

    def recognises(self, rows: Sequence[Row]) -> bool:
        return all("custom_id" in row and ("response" in row or "error" in row) for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        custom_id = str(row["custom_id"])
        numbered = _NUMBERED.match(custom_id)
        keys = ProblemKeys(custom_id, stem=numbered["id"] if numbered is not None else None)
        index = int(numbered["index"]) if numbered is not None else None
        response = row.get("response")
        if not isinstance(response, Mapping) or response.get("status_code") != 200:
            yield Sample(keys, None, index)
            return
        body = response["body"]
        usage = body.get("usage") or {}
        n_prompt = whole(usage.get("prompt_tokens", usage.get("input_tokens")))
        n_completion = whole(usage.get("completion_tokens", usage.get("output_tokens")))
        choices = list(_choices(body))
        for place, (text, reason) in enumerate(choices):
            yield Sample(
                keys,
                text,
                index if len(choices) == 1 else place,
                finish_reason_of(reason),
                n_prompt,
                n_completion if len(choices) == 1 else None,  # counted for all choices together
            )

    def origin(self, path: Path, rows: Sequence[Row]) -> Origin:  # noqa: ARG002
        bodies = [row["response"].get("body") for row in rows if isinstance(row.get("response"), Mapping)]
        models = [body["model"] for body in bodies if isinstance(body, Mapping) and "model" in body]
        return Origin(self.title, models[0] if models else None)


def _choices(body: Mapping[str, Any]) -> Iterator[tuple[str | None, Any]]:
    """Yield the text and the finish reason of each choice, of the chat, completions and responses endpoints."""
    if "output" in body:
        parts = [part for item in body["output"] if item.get("type") == "message" for part in item["content"]]
        details = body.get("incomplete_details") or {}
        yield "".join(part.get("text", "") for part in parts), details.get("reason", "stop")
        return
    for choice in body["choices"]:
        text = text_of(choice["message"].get("content")) if "message" in choice else choice["text"]
        yield text if text is not None else "", choice.get("finish_reason")
