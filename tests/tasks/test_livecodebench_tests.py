"""LiveCodeBench's private tests: decoded from both forms, one problem at a time, and nothing of them is ever run."""

import base64
import contextlib
import copyreg
import json
import os
import pickle
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from official_shapes import livecodebench_row, squeezed, squeezed_pickle, write

from harness.core.errors import DataError
from harness.graders.code.reference import ProgramTest
from harness.tasks.livecodebench import _tolerance
from harness.tasks.livecodebench import tests as _livecodebench_tests
from harness.tasks.livecodebench.tests import decoded, problems_of, unpickled

PRIVATE = [
    {"input": "3 4\n", "output": "7\n", "testtype": "stdin"},
    {"input": 'a "quoted" \\ \u2028 line\n', "output": "\u00e9\n", "testtype": "stdin"},
]
SAMPLE = ProgramTest("1\n", "2\n", "sample")
DECODED = [ProgramTest(test["input"], test["output"], "private") for test in PRIVATE]


def one(path):
    ((record, tests, has_private),) = problems_of(path)
    return record, tests, has_private


# --- both forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_compressed_private_tests_are_read_for_every_pickle_protocol(tmp_path, protocol):
    path = write(tmp_path / "test5.jsonl", [livecodebench_row("abc", squeezed(PRIVATE, protocol))])
    assert one(path)[1].read() == (SAMPLE, *DECODED)


def test_plain_private_tests_are_read(tmp_path):
    path = write(tmp_path / "test.jsonl", [livecodebench_row("abc", json.dumps(PRIVATE))])
    record, tests, has_private = one(path)
    assert has_private
    assert tests.read() == (SAMPLE, *DECODED)
    assert "3 4" not in json.dumps(record)


def test_other_fields_of_a_livecodebench_row_are_unchanged(tmp_path):
    row = livecodebench_row("abc", squeezed(PRIVATE), metadata='{"func_name": "solve"}', starter_code="class Solution:")
    record, _, _ = one(write(tmp_path / "test.jsonl", [row]))
    assert record == {**row, "private_test_cases": ""}


@pytest.mark.parametrize("private", [None, ""])
def test_row_without_private_tests_keeps_its_sample_tests(tmp_path, private):
    record, tests, has_private = one(write(tmp_path / "test.jsonl", [livecodebench_row("abc", private)]))
    assert not has_private
    assert record["question_id"] == "abc"
    assert tests.read() == (SAMPLE,)


def test_null_private_tests_are_empty_and_change_nothing_else(tmp_path):
    row = {**livecodebench_row("abc", "x"), "private_test_cases": None}
    record, tests, has_private = one(write(tmp_path / "test.jsonl", [row]))
    assert record == row
    assert not has_private
    assert tests.read() == (SAMPLE,)


@pytest.mark.parametrize("private", [[], [{"input": "1", "output": "2"}], 7, {}])
def test_private_tests_that_are_not_text_are_refused(tmp_path, private):
    row = {**livecodebench_row("abc", "x"), "private_test_cases": private}
    with pytest.raises(DataError, match="private tests"):
        one(write(tmp_path / "test.jsonl", [row]))


def test_null_public_tests_leave_the_private_ones(tmp_path):
    row = livecodebench_row("abc", squeezed(PRIVATE), public_test_cases=None)
    assert list(one(write(tmp_path / "test.jsonl", [row]))[1].read()) == DECODED


def test_each_row_gets_its_own_private_tests(tmp_path):
    path = tmp_path / "test.jsonl"
    lines = []
    for number in range(6):
        row = livecodebench_row(f"abc{number}", squeezed([{"input": f"{number}", "output": "\u00e9"}]))
        lines.append(json.dumps(row, ensure_ascii=number % 2 == 0) + ("\n\n" if number == 2 else "\r\n"))
    path.write_bytes("".join(lines).encode().rstrip())  # the last line has no end
    found = list(problems_of(path))
    assert [record["question_id"] for record, _, _ in found] == [f"abc{number}" for number in range(6)]
    for number, (_, tests, _) in reversed(list(enumerate(found))):
        assert tests.read() == (SAMPLE, ProgramTest(str(number), "\u00e9", "private"))


def test_spaces_around_the_json_colon_are_accepted(tmp_path):
    path = tmp_path / "test.jsonl"
    row = livecodebench_row("abc", squeezed(PRIVATE))
    path.write_text(json.dumps(row, separators=(", ", " : ")) + "\n")
    assert one(path)[1].read() == (SAMPLE, *DECODED)


# --- damaged ----------------------------------------------------------------------------------------------------


def test_truncated_livecodebench_line_is_refused(tmp_path):
    path = write(tmp_path / "test.jsonl", [livecodebench_row("abc", squeezed(PRIVATE))])
    whole = path.read_bytes().rstrip()
    for length in range(1, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"fetch it again|not the one expected"):
            one(path)


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 50, 1000])
def test_chunk_boundaries_within_a_line_change_nothing(tmp_path, monkeypatch, piece_bytes):
    privates = [squeezed(PRIVATE), json.dumps(PRIVATE), None, "", squeezed(PRIVATE)]
    rows = [livecodebench_row(f"abc{n}", private) for n, private in enumerate(privates)]
    path = write(tmp_path / "test.jsonl", rows)
    monkeypatch.setattr(_livecodebench_tests, "PIECE_BYTES", piece_bytes)
    found = list(problems_of(path))
    expected = [{**row, "private_test_cases": ""} if "private_test_cases" in row else row for row in rows]
    assert [record for record, _, _ in found] == expected
    assert [tests.read() for _, tests, _ in found] == [(SAMPLE, *DECODED) if text else (SAMPLE,) for text in privates]


@pytest.mark.parametrize("line", [b"[1]\n", b"nonsense\n", b'{"a": "\xff\xfe"}\n', b'"text"\n'])
def test_line_that_is_not_an_object_is_refused(tmp_path, line):
    (tmp_path / "test.jsonl").write_bytes(line)
    with pytest.raises(DataError, match="line at byte 0"):
        list(problems_of(tmp_path / "test.jsonl"))


def test_missing_livecodebench_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        list(problems_of(tmp_path / "test.jsonl"))


def wrong(text):
    return json.dumps(text)[1:-1].encode()


GOOD = squeezed(PRIVATE)


@pytest.mark.parametrize(
    "private",
    [
        wrong("not base64!"),
        wrong(GOOD[:-5]),
        wrong(GOOD[4:]),
        wrong(GOOD + "===="),
        wrong("é" + GOOD),
        wrong(base64.b64encode(b"no zlib").decode()),
        wrong(base64.b64encode(zlib.compress(pickle.dumps("x"))[:-4]).decode()),
        wrong(base64.b64encode(zlib.compress(pickle.dumps("x"))[:-1]).decode()),
        wrong(squeezed_pickle(b"")),
        wrong(squeezed_pickle(pickle.dumps(json.dumps(PRIVATE))[:-30])),
        b"\\x00",
        b"\xff\xfe",
        b"a\nb",
    ],
)
def test_undecodable_private_tests_are_refused(private):
    with pytest.raises(DataError, match="line 1"):
        decoded(private, "line 1")


def test_decoded_text_that_is_not_a_list_of_tests_is_refused(tmp_path):
    for pickled in ("nonsense", json.dumps({"inputs": ["1"], "outputs": []}), json.dumps([{"input": "1"}]), "5", "[5]"):
        path = write(tmp_path / "test.jsonl", [livecodebench_row("abc", squeezed_pickle(pickle.dumps(pickled)))])
        with pytest.raises(DataError, match="tests of"):
            one(path)[1].read()


@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps], ids=["C", "Python"])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickled_string_is_read_as_pickle_reads_it(dumps, protocol):
    lengths = (0, 1, 2, 255, 256, 257, 65535, 65536, 65537, 70_000, 200_000)
    for text in ["a\nb\\c", "\u2028\x85\r\n\t\x00\x1a", "\U0001f600\ud800é", *("é" * n for n in lengths)]:
        pickled = dumps(text, protocol)
        assert pickle.loads(pickled) == text
        assert unpickled(pickled) == text


def test_a_flipped_byte_is_refused_or_leaves_a_text():
    """For any content of the file, the result is a text or a DataError."""
    generator = random.Random(0)
    pickled = pickle.dumps(json.dumps(PRIVATE))
    opcodes = b"".join(value for name, value in vars(pickle).items() if name.isupper() and isinstance(value, bytes))
    for _ in range(3000):
        changed = bytearray(pickled)
        for _ in range(generator.randint(1, 4)):
            place = generator.choice([generator.randrange(14), generator.randrange(len(changed))])
            changed[place] = generator.choice([generator.randrange(256), generator.choice(opcodes)])
        with contextlib.suppress(DataError):
            assert isinstance(decoded(wrong(squeezed_pickle(bytes(changed))), "line 1"), str)


def test_programs_of_random_opcodes_are_refused_or_leave_a_text():
    generator = random.Random(1)
    opcodes = [value for name, value in vars(pickle).items() if name.isupper() and isinstance(value, bytes)]
    arguments = [b"", b"\x01", b"\x00\x00\x00\x00", b"os\nsystem\n", b"1\n", b"\x02ab", b"'a'\n", b"\x7f" * 8]
    for _ in range(5000):
        pieces = [generator.choice(opcodes) + generator.choice(arguments) for _ in range(generator.randint(1, 8))]
        with contextlib.suppress(DataError):
            assert isinstance(decoded(wrong(squeezed_pickle(b"".join([b"\x80\x04", *pieces, b"."]))), "line 1"), str)


# --- malicious --------------------------------------------------------------------------------------------------


class Runs:
    """Pickles as a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def hostile(canary: Path):
    make = f"__import__('os').mkdir({str(canary)!r})"
    yield "a call of os.system", pickle.dumps(Runs(os.system, f"mkdir {canary}"))
    yield "a call of exec", pickle.dumps(Runs(exec, make))
    yield "a call of eval, protocol 0", pickle.dumps(Runs(eval, make), 0)
    yield "a call in a list", pickle.dumps(["[", Runs(exec, make)])
    yield "a class", pickle.dumps(Path)
    yield "an instance", pickle.dumps(ProgramTest("a", "b", "private"))
    yield "a builtin", b"cbuiltins\nstr\n."
    yield "a call by the old opcode", b"(S'" + f"mkdir {canary}".encode() + b"'\nios\nsystem\n."
    yield "a call by object", b"(cos\nsystem\nS'" + f"mkdir {canary}".encode() + b"'\no."
    yield "a stacked global", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    yield "a persistent id", b"\x80\x04\x8c\x02idQ."
    yield "a persistent id, protocol 0", b"Pid\n."
    yield "a call of a text", b"\x80\x04\x8c\x02os\x8c\x06system\x85R."
    yield "a text built upon", b"\x80\x04\x8c\x02os}\x8c\x01a\x8c\x01bsb."
    yield "a text as a mapping", b"\x80\x04\x8c\x02os\x8c\x01a\x8c\x01bs."
    yield "a text as a list", b"\x80\x04\x8c\x02os\x8c\x01aa."
    yield "a text as a set", b"\x80\x04\x8c\x02os(\x8c\x01a\x90."
    yield "an extension", b"\x80\x04\x82\xf0."
    yield "a buffer from elsewhere", b"\x80\x05\x97."
    yield "a list", pickle.dumps([json.dumps(PRIVATE)])
    yield "bytes", pickle.dumps(json.dumps(PRIVATE).encode())
    yield "nothing", pickle.dumps(None)
    yield "a number", pickle.dumps(10**50)
    yield "an absent memo", b"\x80\x04h\x07."
    yield "an absent memo, protocol 0", b"gx\n."
    yield "an impossible protocol", b"\x80\x7f\x8c\x01a."
    yield "a text of impossible length", b"\x80\x04\x8d" + b"\xff" * 8 + b"a."
    yield "a text of a terabyte", b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"a."
    yield "an array of a terabyte", b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"a."
    yield "a memo of a billion", b"\x80\x04\x8c\x01ar\xff\xff\xff\x7f."
    yield "a number of many digits", b"I" + b"9" * 100_000 + b"\n."
    yield "nested lists", b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."


@pytest.mark.parametrize("what", [what for what, _ in hostile(Path("canary"))])
def test_malicious_pickle_is_refused_without_executing_it(tmp_path, what):
    canary = tmp_path / "canary"
    pickled = dict(hostile(canary))[what]
    path = write(tmp_path / "test.jsonl", [livecodebench_row("abc", squeezed_pickle(pickled))])
    with pytest.raises(DataError, match="tests of the line at byte 0"):
        one(path)[1].read()
    assert not canary.exists()


def test_malicious_pickle_would_execute_under_pickle_loads(tmp_path):
    """The pickles above do run when they are loaded by what loads anything."""
    canary = tmp_path / "canary"
    for what, pickled in hostile(canary):
        if what.startswith("a call of") and what != "a call of a text":
            pickle.loads(pickled)
            assert canary.exists(), what
            canary.rmdir()


def test_pickle_with_a_registered_extension_is_refused():
    copyreg.add_extension("os", "system", 0xF1)
    try:
        with pytest.raises(DataError):
            decoded(wrong(squeezed_pickle(b"\x80\x04\x82\xf1\x8c\x04true\x85R.")), "line 1")
    finally:
        copyreg.remove_extension("os", "system", 0xF1)


# --- memory -----------------------------------------------------------------------------------------------------


ITERATE = """
import sys
from pathlib import Path
from harness.tasks.livecodebench.tests import problems_of
print(sum(has_private and len(record) for record, _, has_private in problems_of(Path(sys.argv[1]))))
# Not getrusage: what the process was forked from would count.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def run_fresh(program, path):
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *said, kilobytes = done.stdout.splitlines()
    return said, int(kilobytes) / 1024


def test_decompression_bomb_is_stopped_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(_livecodebench_tests, "MOST_BYTES", 1 << 20)
    squeezer = zlib.compressobj(9)
    bomb = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(64)) + squeezer.flush()
    assert len(bomb) < 1 << 17
    with pytest.raises(DataError, match="cut short, or larger than"):
        decoded(wrong(base64.b64encode(bomb).decode()), "line 1")


def test_reading_a_file_of_large_lines_needs_little_memory(tmp_path):
    """Three lines of 110 MB each, as the largest of the published ones are."""
    path = tmp_path / "test6.jsonl"
    head, tail = json.dumps(livecodebench_row("abc", "HERE")).encode().split(b"HERE")
    try:
        with path.open("wb") as stream:
            for _ in range(3):
                stream.write(head)
                for _ in range(110):
                    stream.write(b"QUJD" * (1 << 18))
                stream.write(tail + b"\n")
        (n_fields,), megabytes = run_fresh(ITERATE, path)
    finally:
        path.unlink()
    assert int(n_fields) == 3 * 11
    assert megabytes < 300


# --- the tolerance of a statement -------------------------------------------------------------------------------

STATED = {
    "when the relative or absolute error from the true value is at most 10 ^ {-5}.": (1e-5, "either"),
    "correct if the absolute or relative error from the true value does not exceed 10^{-6}.": (1e-6, "either"),
    "if its absolute or relative error from the true answer is at most 10^{-9}": (1e-9, "either"),
    "Answers with an absolute or relative error of at most 10^{-9} from the true answer are correct.": (1e-9, "either"),
    "considered correct if the absolute error from the true value is at most 10 ^ {-8}.": (1e-8, "absolute"),
    "Your output is correct if its relative error is at most 10^{-4}.": (1e-4, "relative"),
    "Answers within 10^-5 of the actual answer will be accepted": (1e-5, "absolute"),
    "Print the absolute value. There is an error. The answer is at most 10^{9}.": None,
    "Print the largest x within 10^5 steps.": None,
}


@pytest.mark.parametrize("statement", STATED)
def test_the_tolerance_is_read_from_the_statement(statement):
    found = _tolerance(f"Let $N$ be given.\n{statement}\n")
    if STATED[statement] is None:
        assert found == {}
    else:
        tolerance, kind = STATED[statement]
        assert found == {"comparison": "close_lines", "tolerance": tolerance, "tolerance_kind": kind}
