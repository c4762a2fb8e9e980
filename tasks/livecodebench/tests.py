"""Read LiveCodeBench's files: problems without their private tests, and private tests one problem at a time.

A line holds up to a hundred megabytes of private tests: base64 of zlib of a pickle of one string of JSON. A problem
therefore stores the byte range of its private tests, and reads them on demand.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.core.errors import DataError
from harness.graders.code.reference import ProgramTest
from harness.tasks._base.program_tests import tests_of

MOST_BYTES = 1 << 30
PIECE_BYTES = 1 << 20
_PRIVATE = re.compile(rb'"private_test_cases"\s*:\s*"')
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)  # a JSON string up to its closing quote


@dataclass(frozen=True, slots=True)
class LineTests:
    """The public and private tests of the problem on one line of a file.

    The private tests are the bytes from `start` to `end`: the content of a JSON string.
    """

    path: Path
    offset: int
    length: int
    start: int
    end: int

    def read(self) -> Sequence[ProgramTest]:
        where = f"the line at byte {self.offset} of {self.path}"
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                before, private = stream.read(self.start - self.offset), stream.read(self.end - self.start)
                after = stream.read(self.offset + self.length - self.end)
        except OSError as error:
            raise DataError(f"{self.path} can't be read: {error}") from error
        public = parsed(before + after, where)["public_test_cases"]
        public_tests = tests_of(public, "sample", where) if public is not None else ()
        return (*public_tests, *(tests_of(decoded(private, where), "private", where) if private else ()))


def problems_of(path: Path) -> Iterator[tuple[dict[str, Any], LineTests, bool]]:
    """Yield each problem's public fields, its tests, and whether it has private tests."""
    offset = 0
    try:
        with path.open("rb") as stream:
            while first := stream.readline(PIECE_BYTES):
                where = f"the line at byte {offset} of {path}"
                line, length, start, end = _line(first, stream, where)
                tests = LineTests(path, offset, length, offset + start, offset + end)
                if line.strip():
                    yield _public(parsed(line, where), where), tests, end > start
                offset += length
    except OSError as error:
        raise DataError(f"{path} can't be read: {error}") from error


def _line(piece: bytes, stream: IO[bytes], where: str) -> tuple[bytes, int, int, int]:
    """Return the line that begins with `piece` without its private tests, its full length, and their start and end.

    Private tests are skipped chunk by chunk, so they are never in memory.
    """
    line = piece
    while (found := _PRIVATE.search(line)) is None:
        piece = _next(stream, piece)
        if not piece:
            return line, len(line), len(line), len(line)
        line += piece
    start = end = found.end()
    head, rest = line[:start], line[start:]
    while True:
        passed = _inside(rest)
        end, rest = end + passed, rest[passed:]
        if rest.startswith(b'"'):
            break
        piece = _next(stream, piece)
        if not piece:
            raise DataError(f"{where} is cut short: {ADVICE}")
        rest += piece
    while piece := _next(stream, piece):
        rest += piece
    return head + rest, end + len(rest), start, end


def _next(stream: IO[bytes], piece: bytes) -> bytes:
    """Read on in the line that `piece` belongs to."""
    return b"" if piece.endswith(b"\n") else stream.readline(PIECE_BYTES)


def _inside(text: bytes) -> int:
    """Return the number of leading bytes that belong to the JSON string in which `text` begins."""
    quote = text.find(b'"')
    end = quote if quote >= 0 else len(text)
    if b"\\" not in text[:end]:  # base64 has no escapes, and the expression is ten times slower
        return end
    found = _INSIDE.match(text)
    return found.end() if found is not None else 0


ADVICE = "fetch it again (`harness fetch livecodebench --again`)"


def parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}): {ADVICE}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is not an object; this is not the expected file")
    return record


def _public(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Check that the record has no private tests left: if they were a string, they have been cut out."""
    private = record.get("private_test_cases")
    if private is not None and private != "":
        raise DataError(f"the private tests of {where} are a {type(private).__name__}, not a text")
    return record


# --- private tests ---------------------------------------------------------------------------------------------


def decoded(private: bytes, where: str) -> str:
    """Return the JSON text of private tests, which are plain or base64 of zlib of a pickled string."""
    try:
        text = json.loads(b'"' + private + b'"')
        if text.lstrip().startswith("["):
            return str(text)
        decompressor = zlib.decompressobj()
        pickled = decompressor.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
        if decompressor.unconsumed_tail or not decompressor.eof:
            raise ValueError("it is cut short, or larger than 1 GiB")
        return unpickled(pickled)
    except (zlib.error, ValueError) as error:
        raise DataError(f"the private tests of {where} can't be decoded: {error}") from error


# Opcodes without a value: the protocol, the length of a frame, and memo positions.
_ASIDE = rb"(?:\x80[\x02-\x05]|\x95.{8}|\x94|q.|r.{4}|p[0-9]+\n)*+"
_STRING = re.compile(_ASIDE + rb"(?:V([^\n]*)\n|\x8c(.)|X(.{4})|\x8d(.{8}))", re.DOTALL)
_END = re.compile(_ASIDE + rb"\.", re.DOTALL)


def unpickled(pickled: bytes) -> str:
    """Return the string that a pickle consists of. Raises ValueError for any other pickle.

    Python's unpickler is not used: it executes what the file says, and even when it may load no class it allocates
    whatever lengths and memo positions the file gives.
    """
    found = _STRING.match(pickled)
    if found is None:
        raise ValueError("it is not a pickled string")
    if found.lastindex == 1:
        text, end = found.group(1).decode("raw-unicode-escape"), found.end()
    else:
        end = min(found.end() + int.from_bytes(found.group(found.lastindex or 0), "little"), len(pickled))
        text = pickled[found.end() : end].decode("utf-8", "surrogatepass")
    if _END.fullmatch(pickled, end) is None:
        raise ValueError("it is cut short, or holds more than a string")
    return text
