"""Logs of inspect_ai: `.eval` archives, read without inspect_ai, and its JSON logs."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.types import Verdict
from harness.data.rows import Record, RowFile, unreadable
from harness.interop.imports.base import (
    Format,
    Origin,
    ProblemKeys,
    Row,
    RowSource,
    Sample,
    finish_reason_of,
    question_of,
    text_of,
    verdict_of_score,
    whole,
)

HEADER = "header.json"
SAMPLES = "samples/"
ZSTANDARD, DEFLATED = 93, 8
"""Compression methods of zip. inspect_ai writes the first, which Python's own reader knows only from 3.14 on."""
VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
FIELDS = ("id", "epoch", "input", "output", "scores", "error")
SAMPLING = {"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}


class InspectLog(Format):
    """A sample and epoch are a row. A sample that ended with an error has no completion."""

    name = "inspect"
    title = "inspect_ai"

    def open(self, path: Path) -> RowSource:
        return EvalArchive.open(path) if is_inspect_archive(path) else RowFile.open(path)

    def recognises(self, rows: Sequence[Row]) -> bool:
        if len(rows) == 1 and {"eval", "plan", "samples"} <= rows[0].keys():
            return True
        return all({"id", "epoch", "output", "scores"} <= row.keys() for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        for sample in row.get("samples", [row]):
            yield _sample(sample)

    def origin(self, path: Path, rows: Sequence[Row]) -> Origin:
        header = EvalArchive.open(path).header() if is_inspect_archive(path) else rows[0]
        spec = header["eval"]
        version = spec.get("packages", {}).get("inspect_ai")
        options = {**spec.get("model_generate_config", {}), **header.get("plan", {}).get("config", {})}
        sampling = {ours: options[theirs] for theirs, ours in SAMPLING.items() if options.get(theirs) is not None}
        if options.get("stop_seqs"):
            sampling["stop"] = list(options["stop_seqs"])
        tool = f"{self.title} {version}" if version is not None else self.title
        return Origin(tool, spec.get("model"), sampling)


def _sample(sample: Row) -> Sample:
    choices = sample["output"].get("choices") or []
    first = choices[0] if choices and not sample.get("error") else None
    usage = sample["output"].get("usage") or {}
    epoch: int = sample["epoch"]
    return Sample(
        ProblemKeys(str(sample["id"]), text=question_of(sample["input"])),
        text_of(first["message"]["content"]) if first is not None else None,
        epoch - 1,
        finish_reason_of(first.get("stop_reason")) if first is not None else None,
        whole(usage.get("input_tokens")),
        whole(usage.get("output_tokens")),
        dict(_verdicts(sample.get("scores") or {})) if first is not None else {},
    )


def _verdicts(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Verdict]]:
    """Yield the verdict of each scorer; a scorer with several values has one for each."""
    for scorer, score in scores.items():
        value, answer = score["value"], score.get("answer")
        values = {f".{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {"": value}
        for key, one in values.items():
            number = VALUES.get(one, one) if isinstance(one, str) else one
            if number is not None and not isinstance(number, (bool, int, float)):
                continue  # a text or a list, which is neither right nor wrong
            found = verdict_of_score(number)
            extracted = answer if isinstance(answer, str) else None
            yield f"inspect:{scorer}{key}", Verdict(found.outcome, found.reward, extracted, found.reason)


def _sample_and_epoch(name: str) -> tuple[str, int]:
    """Return the parts of a name such as `samples/ID_epoch_2.json`, by which epoch 10 follows 9."""
    sample, _, epoch = name.removesuffix(".json").rpartition("_epoch_")
    return (sample, int(epoch)) if epoch.isdecimal() else (name, 0)


# --- the archive ------------------------------------------------------------------------------------------------


def is_inspect_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name == HEADER or name.startswith(SAMPLES) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return path.suffix == ".eval"


@dataclass(frozen=True, slots=True)
class EvalArchive:
    """The zip archive of one evaluation: a header and a JSON file for each sample and epoch."""

    path: Path
    members: Mapping[str, zipfile.ZipInfo]

    @classmethod
    def open(cls, path: Path) -> EvalArchive:
        try:
            with zipfile.ZipFile(path) as archive:
                members = {member.filename: member for member in archive.infolist()}
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is not a log of inspect_ai: {error}; was it cut off?") from None
        except OSError as error:
            raise unreadable(path, error) from None
        if HEADER not in members:
            raise DataError(f"{path} has no {HEADER}: its evaluation has not ended, or it was cut off")
        return cls(path, members)

    def at(self, number: int) -> str:
        return f"{self.path}, sample {number}"

    def header(self) -> Mapping[str, Any]:
        header: Mapping[str, Any] = self._json(HEADER)
        return header

    def rows(self) -> Iterator[tuple[int, Record]]:
        """Yield the fields of each sample that are needed; its events, which take most of the room, are skipped."""
        names = (name for name in self.members if name.startswith(SAMPLES) and name.endswith(".json"))
        for number, name in enumerate(sorted(names, key=_sample_and_epoch), 1):
            sample = self._json(name)
            yield number, {field: sample[field] for field in FIELDS if field in sample}

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._content(self.members[name]))
        except (ValueError, OSError, zlib.error, struct.error) as error:
            raise DataError(f"{self.path} is damaged: {name} can't be read ({error})") from None

    def _content(self, member: zipfile.ZipInfo) -> bytes:
        import pyarrow

        with self.path.open("rb") as file:
            file.seek(member.header_offset)
            name_bytes, extra_bytes = struct.unpack("<26x2H", file.read(30))
            file.seek(name_bytes + extra_bytes, 1)
            content = file.read(member.compress_size)
        if member.compress_type == ZSTANDARD:
            content = pyarrow.decompress(content, member.file_size, codec="zstd", asbytes=True)
        elif member.compress_type == DEFLATED:
            content = zlib.decompress(content, -zlib.MAX_WBITS)
        if zlib.crc32(content) != member.CRC:
            raise ValueError("wrong checksum")
        return content
