"""LiveCodeBench's files: problems read without their private tests, and those tests decoded one problem at a time.

A line holds up to a hundred megabytes of private tests: base64 of zlib of a pickle of one string of JSON. So a problem
remembers where its line is, and the tests are read when somebody asks for them.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.graders._program_reference import ProgramTest
from harness.tasks._program_tests import tests_of

MOST_BYTES = 1 << 30
_KEY = b'"private_test_cases"'


@dataclass(frozen=True, slots=True)
class LineTests:
    """The tests of the problem on one line of a file: the public ones, and the private ones where there are any."""

    path: Path
    offset: int
    length: int

    def read(self) -> Sequence[ProgramTest]:
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            line = stream.read(self.length)
        where = f"the line at byte {self.offset} of {self.path}"
        rest, private = cut_private(line, where)
        public = parsed(rest, where)["public_test_cases"]
        del rest, line
        public_tests = tests_of(public, "sample", where) if public is not None else ()
        return (*public_tests, *(tests_of(decoded(private, where), "private", where) if private else ()))


def problems_of(path: Path) -> Iterator[tuple[dict[str, Any], LineTests, bool]]:
    """Every problem with its public fields, where its tests are, and whether there are private ones."""
    offset = 0
    try:
        with path.open("rb") as stream:
            for line in stream:
                if line.strip():
                    where = f"the line at byte {offset} of {path}"
                    rest, private = cut_private(line, where)
                    yield parsed(rest, where), LineTests(path, offset, len(line)), bool(private)
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error}") from error


def parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{where} is no JSON ({error}): fetch it again (`harness fetch livecodebench --again`)"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is not an object; the file is not the one expected")
    return record


def cut_private(line: bytes, where: str) -> tuple[bytes, bytes]:
    """The line with its private tests emptied, and what they were: JSON text between the quotes, not yet unescaped."""
    key = line.find(_KEY)
    if key < 0:
        return line, b""
    start = line.find(b'"', key + len(_KEY)) + 1
    end = line.find(b'"', start)
    while end >= 0 and _is_escaped(line, end):
        end = line.find(b'"', end + 1)
    if start == 0 or end < 0:
        raise DataError(f"{where} is cut short: fetch it again (`harness fetch livecodebench --again`)")
    return line[:start] + line[end:], line[start:end]


def _is_escaped(line: bytes, position: int) -> bool:
    before = position
    while line[before - 1 : before] == b"\\":
        before -= 1
    return (position - before) % 2 == 1


# --- the private form ---------------------------------------------------------------------------------------------


class _StringOnly(pickle.Unpickler):
    """Admits what a pickled string needs, and nothing that could name a class or call it."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and may hold nothing but a string")


def decoded(private: bytes, where: str) -> str:
    """The JSON text of private tests, which are written plainly or as base64, zlib and a pickled string."""
    text = json.loads(b'"' + private + b'"')
    if text.lstrip().startswith("["):
        return str(text)
    try:
        squeezed = base64.b64decode(text, validate=True)
        unsqueezer = zlib.decompressobj()
        pickled = unsqueezer.decompress(squeezed, MOST_BYTES)
        if unsqueezer.unconsumed_tail or not unsqueezer.eof:
            raise ValueError("it is cut short, or larger than 1 GiB")
        value = _StringOnly(io.BytesIO(pickled)).load()
    except (
        zlib.error,
        pickle.UnpicklingError,
        ValueError,
        EOFError,
        IndexError,
        AttributeError,
    ) as error:
        raise DataError(f"the private tests of {where} can't be decoded: {error}") from error
    if not isinstance(value, str):
        raise DataError(f"the private tests of {where} are a {type(value).__name__}, not a string")
    return value
