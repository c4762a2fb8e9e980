"""Damaged run folders: each damage is one clear error, or harmless; never a traceback, never another number."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from altered_runs import scripted_run

from harness.cli import main
from harness.runs import schema

OLD = Path(__file__).parent / "old_run"
DEEP = b"[" * 200_000 + b"]" * 200_000

# --- damages of bytes, which checksums must notice ------------------------------------------------------------------


def digit_changed(content: bytes) -> bytes:
    """Change a digit of a number in the middle."""
    digits = [i for i, byte in enumerate(content) if chr(byte) in "12345678"]
    place = digits[len(digits) // 2]
    return content[:place] + (b"9" if content[place : place + 1] != b"9" else b"1") + content[place + 1 :]


def bit_flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "digit changed": digit_changed,
    "bit flipped": bit_flipped,
    "middle cut out": lambda content: content[: len(content) // 3] + content[len(content) // 2 :],
    "half": lambda content: content[: len(content) // 2],
    "end torn": lambda content: content[:-3],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "zeros at the end": lambda content: content[: len(content) // 2] + bytes(len(content) // 2),
    "not UTF-8": lambda content: content[: len(content) // 2] + b"\xff\xfe" + content[len(content) // 2 :],
    "text in front": lambda content: b"nonsense\n" + content,
    "conflict marks": lambda content: b"<<<<<<< HEAD\n" + content + b"=======\n" + content,
    "carriage returns": lambda content: content.replace(b"\n", b"\r\n"),
    "null": lambda content: b"null\n",
    "list": lambda content: b"[1]\n",
    "deep": lambda content: DEEP + b"\n",
}
EVAL_FILES = ["run.json", "config.toml", "completions.jsonl", "verdicts.jsonl", "metrics.json"]

# --- damages of fields, which hold without checksums too ------------------------------------------------------------

ABSENT = object()
VALUES: dict[str, Any] = {
    "null": None,
    "list": [1],
    "object": {"a": 1},
    "text": "1",
    "true": True,
    "fraction": 0.5,
    "negative": -7,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "huge": 10**400,
    "absent": ABSENT,
}
FIELDS: dict[str, list[tuple[str, ...]]] = {
    "verdicts.jsonl": [("outcome",), ("reward",), ("index",), ("grader",), ("details",), ("unknown",)],
    "completions.jsonl": [("text",), ("index",), ("tokens",), ("tokens", "n_completion"), ("finish_reason",)],
    "metrics.json": [("countdown",), ("countdown", "0", "value"), ("countdown", "0", "n_problems")],
    "run.json": [
        ("data",),
        ("data", "countdown"),
        ("data", "countdown", "sampling"),
        ("seeds",),
        ("format",),
        ("error",),
    ],
    "steps.jsonl": [("step",), ("reward",), ("wall_s",)],
}


def changed(value: Any, path: tuple[str, ...], new: Any) -> Any:
    """Return decoded JSON with the value at a path replaced."""
    head, *rest = path
    if isinstance(value, list):
        return [changed(item, tuple(rest), new) if rest else new for item in value]
    if rest:
        return {**value, head: changed(value[head], tuple(rest), new)}
    kept = {key: item for key, item in value.items() if key != head}
    return kept if new is ABSENT else {**kept, head: new}


def with_field(content: bytes, name: str, path: tuple[str, ...], new: Any) -> bytes:
    if not name.endswith("l"):
        return json.dumps(changed(json.loads(content), path, new)).encode()
    first, *rest = content.splitlines(keepends=True)
    return b"".join([json.dumps(changed(json.loads(first), path, new)).encode() + b"\n", *rest])


# --- the runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of this version, and the runs of an earlier one, which have no checksums."""
    return {"new": scripted_run(tmp_path_factory.mktemp("new")), "old": OLD / "eval-a", "train": OLD / "train"}


@pytest.fixture(scope="module")
def reports(originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The numbers of the undamaged runs."""
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    for name, original in originals.items():
        shutil.copytree(original, folder / name / "run")
        assert main(["report", str(folder / name / "run"), "--out", str(folder / name / "report")]) == 0
        found[name] = numbers(folder / name / "report")
    return found


def numbers(report: Path) -> str:
    """Return the tables of numbers of a report."""
    tables = sorted(path for path in report.glob("*.csv") if path.name.startswith(("results", "graders", "training")))
    return "".join(path.read_text() for path in tables)


@contextlib.contextmanager
def deadline(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError("it hangs")

    former = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def read_all(run: Path, expected: str, capsys: pytest.CaptureFixture[str], *, kind: str) -> list[int]:
    """Report, audit and show the run; return the exit codes. An exception of a command fails the test by itself."""
    capsys.readouterr()
    codes = []
    commands = [["report", str(run), "--out", str(run.parent / "report")], ["show", str(run)]]
    if kind != "train":
        commands += [["audit", str(run)], ["grade", str(run), "--quiet"]]
    for command in commands:
        with deadline(60):
            codes.append(main(command))
        errors = capsys.readouterr().err.splitlines()
        errors = [line for line in errors if not line.startswith(("warning: ", "skipped"))]
        assert codes[-1] in (0, 2), (command, errors)
        if codes[-1] == 2:
            assert len(errors) == 1 and errors[0].startswith("harness: ") and len(errors[0]) < 1000, errors
            assert run.name in errors[0], "it names the file"
    if codes[0] == 0:
        assert numbers(run.parent / "report") == expected, "another number"
    return codes


def test_a_damaged_name_of_the_checksum_is_one_clear_error(
    originals: dict[str, Path], reports: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(originals["new"], tmp_path / "run"))
    file = run / "completions.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"crc"', b'"\xffrc"', 1))
    assert 2 in read_all(run, reports["new"], capsys, kind="new")


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize("name", EVAL_FILES)
def test_damaged_bytes_are_one_clear_error_or_harmless(
    name: str,
    damage: str,
    originals: dict[str, Path],
    reports: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(originals["new"], tmp_path / "run"))
    (run / name).write_bytes(BYTES[damage]((run / name).read_bytes()))
    codes = read_all(run, reports["new"], capsys, kind="new")
    is_harmless = (name, damage) == ("run.json", "carriage returns")  # the checksum is of the fields
    assert 2 in codes or is_harmless, "no command noticed it"
    resumes_or_refuses(run, originals["new"], capsys)


def resumes_or_refuses(run: Path, original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of the run again restores what is lost, or refuses."""
    with deadline(60):
        code = main(["eval", "--config", str(original.parent / "c.toml"), "--out", str(run), "--quiet"])
    errors = capsys.readouterr().err.splitlines()
    assert code in (0, 2), errors
    if code == 2:
        assert len([line for line in errors if not line.startswith("warning: ")]) == 1
    else:
        assert (run / "metrics.json").read_bytes() == (original / "metrics.json").read_bytes()
        assert schema.record_from_json((run / "run.json").read_text())


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("name", "path"),
    [pytest.param(name, path, id=f"{name}:{'.'.join(path)}") for name, paths in FIELDS.items() for path in paths],
)
def test_wrong_fields_in_runs_without_checksums_are_one_clear_error_or_harmless(
    name: str,
    path: tuple[str, ...],
    value: str,
    originals: dict[str, Path],
    reports: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind = "train" if name == "steps.jsonl" else "old"
    run = Path(shutil.copytree(originals[kind], tmp_path / "run"))
    before = (run / name).read_bytes()
    if path == ("unknown",) and value == "absent":
        pytest.skip("an unknown field that is absent is no damage")
    (run / name).write_bytes(with_field(before, name, path, VALUES[value]))
    is_valid = is_value_valid(path, value)
    expected = reports[kind]
    codes = read_all(run, expected, capsys, kind=kind) if not is_valid else [2]
    assert 2 in codes, "no command noticed it"


def is_value_valid(path: tuple[str, ...], value: str) -> bool:
    """Return whether a row with this value is one that could have been written: nothing can notice it."""
    valid: dict[tuple[str, ...], set[str]] = {
        ("reward",): {"fraction", "negative", "absent"},
        ("wall_s",): {"fraction", "negative", "NaN", "infinite", "absent"},
        ("error",): {"null", "text", "absent"},
        ("details",): {"object", "absent"},
        ("grader",): {"text"},
        ("text",): {"text"},
        ("countdown",): {"absent"},
        ("countdown", "0", "value"): {"fraction", "negative"},
        ("data",): set(),
        ("data", "countdown"): {"object", "absent"},
        ("data", "countdown", "sampling"): {"object", "absent"},
        ("seeds",): {"object"},
    }
    return value in valid.get(path, set())


# --- special files ----------------------------------------------------------------------------------------------------


def special(kind: str, path: Path, outside: Path) -> None:
    """Put something that is not a file in place of a file."""
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    if kind == "link":
        outside.write_bytes(content)
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to(outside)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize("kind", ["link", "dangling link", "device", "pipe", "folder"])
@pytest.mark.parametrize("name", [*EVAL_FILES, "log.txt", "run.lock", "run.json.tmp", "metrics.json.tmp"])
def test_special_files_are_neither_written_through_nor_waited_for(
    name: str,
    kind: str,
    originals: dict[str, Path],
    reports: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, outside = Path(shutil.copytree(originals["new"], tmp_path / "run")), tmp_path / "outside"
    special(kind, run / name, outside)
    before = outside.read_bytes() if outside.exists() else None
    codes = []
    with deadline(60):
        codes.append(main(["report", str(run), "--out", str(tmp_path / "report")]))
        codes.append(main(["grade", str(run), "--quiet"]))
        codes.append(main(["eval", "--config", str(originals["new"].parent / "c.toml"), "--out", str(run), "--quiet"]))
    assert set(codes) <= {0, 1, 2}
    assert (outside.read_bytes() if outside.exists() else None) == before, "something was written through the link"
    if codes[0] == 0:
        assert numbers(tmp_path / "report") == reports["new"]
    if name in EVAL_FILES:
        assert 2 in codes, "no command noticed it"
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("harness: ")]
    assert len(errors) == sum(code != 0 for code in codes)


# --- an edit by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "old", "new"), [
    ("completions.jsonl", b"nonsense", b"4*9=36;36+2=38"),
    ("verdicts.jsonl", b'"outcome":"incorrect","reward":0.0', b'"outcome":"correct","reward":1.0'),
    ("metrics.json", b'"value": 0', b'"value": 1'),
    ("config.toml", b"n = 3", b"n = 300"),
    ("run.json", b'"status": "done"', b'"status": "failed"'),
])  # fmt: skip
def test_an_edit_by_hand_that_is_valid_is_noticed_and_named(
    name: str, old: bytes, new: bytes, originals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(originals["new"], tmp_path / "run"))
    content = (run / name).read_bytes()
    assert old in content
    (run / name).write_bytes(content.replace(old, new, 1))
    capsys.readouterr()
    codes = [main(["report", str(run), "--out", str(tmp_path / "report")]), main(["audit", str(run)])]
    captured = capsys.readouterr()
    assert 2 in codes
    line = ", line " if name.endswith("l") and name != "config.toml" else ""
    assert f"{run / name}{line}" in captured.err and ("checksum" in captured.err or "digest" in captured.err)


@pytest.mark.parametrize("file", ["completions.jsonl", "verdicts.jsonl"])
def test_resuming_a_run_that_cannot_be_read_changes_nothing_in_it(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scripted_run(tmp_path)
    lines = (run / file).read_bytes().splitlines(keepends=True)
    (run / file).write_bytes(b"".join([lines[0], lines[1].replace(b"countdown", b"countdawn"), *lines[2:]]))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert main(["eval", "--config", str(tmp_path / "c.toml"), "--out", str(run)]) == 2
    assert f"{file}, line 2 does not fit its checksum" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
