"""Files that survive a kill and a full disk."""

import contextlib
import errno
import itertools
import json
import os
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from harness.core.errors import DiskError, RunFolderError
from harness.runs.jsonl import JsonlFile, disk_error, read_line_at, read_lines, read_raw_lines, write_whole

ROWS = [{"number": 0, "text": "zero"}, {"number": 1, "text": "one"}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


def append(path, *rows):
    file = JsonlFile(path)
    for row in rows:
        file.append(row)
    file.close()


def rows_of(path):
    return list(read_lines(path))


# --- reading ----------------------------------------------------------------------------------------------------


def test_an_absent_journal_is_an_empty_one(path):
    assert rows_of(path) == []
    assert not path.exists()


def test_appended_rows_are_read_oldest_first(path):
    append(path, *ROWS)
    assert rows_of(path) == ROWS


def test_a_row_is_on_the_disk_before_the_journal_is_closed(path):
    file = JsonlFile(path)
    file.append(ROWS[0])
    assert rows_of(path) == ROWS[:1]
    file.close()


def test_appended_line_is_found_at_its_offset(path):
    append(path, *ROWS)
    with path.open("ab") as file:
        file.write(b"torn")
    file = JsonlFile(path)
    texts = ["", "\u00e9\n" * 40, "half \ud800"]
    places = [file.append({"text": text}) for text in texts]
    assert [read_line_at(path, place)["text"] for place in places] == texts
    file.close()
    with pytest.raises(RunFolderError, match="altered while it was in use"):
        read_line_at(path, places[1] + 1)


@pytest.mark.parametrize("n_bytes_lost", range(1, 26))
def test_a_torn_last_line_is_dropped_and_earlier_lines_are_untouched(path, n_bytes_lost):
    append(path, *ROWS)
    whole = path.read_bytes()
    first_line = whole[: whole.index(b"\n") + 1]
    path.write_bytes(whole[: max(len(first_line), len(whole) - n_bytes_lost)])
    assert rows_of(path) == ROWS[:1]


@pytest.mark.parametrize("n_bytes_lost", [1, 5, 25])
def test_an_append_after_a_torn_line_cuts_it_off(path, n_bytes_lost):
    append(path, *ROWS)
    path.write_bytes(path.read_bytes()[:-n_bytes_lost])
    append(path, {"number": 2})
    assert rows_of(path) == [ROWS[0], {"number": 2}]


def test_a_torn_line_longer_than_a_block_is_cut_off_whole(path):
    append(path, ROWS[0])
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"text": "' + b"x" * 200_000)
    append(path, ROWS[1])
    assert rows_of(path) == ROWS


def test_a_torn_line_after_many_blocks_of_whole_ones_is_cut_off_alone(path):
    rows = [{"number": number, "text": "x" * 1000} for number in range(200)]
    append(path, *rows)
    path.write_bytes(path.read_bytes() + b'{"text": "')
    append(path, ROWS[0])
    assert rows_of(path) == [*rows, ROWS[0]]


def test_journal_of_one_torn_line_starts_empty(path):
    path.write_bytes(b'{"number": 0, "te')
    append(path, ROWS[1])
    assert rows_of(path) == ROWS[1:]


def test_an_append_leaves_whole_lines_byte_for_byte(path):
    append(path, *ROWS)
    before = path.read_bytes()
    append(path, {"number": 2})
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "altered", [b"\x00\x00\x00", b"", b"{'number': 1}", b'{"number"', b"[1]", b"1", b'"x"', b"\xff"]
)
def test_an_altered_line_in_the_middle_is_refused_with_path_and_number(path, altered):
    append(path, *ROWS)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + altered + b"\n" + second)
    lines = read_lines(path)
    assert next(lines) == ROWS[0]
    with pytest.raises(RunFolderError, match="altered") as caught:
        next(lines)
    assert f"{path}, line 2 " in str(caught.value)


def test_an_altered_whole_line_at_the_end_is_refused_too(path):
    append(path, ROWS[0])
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    with pytest.raises(RunFolderError, match="line 2 is not JSON"):
        rows_of(path)


def test_a_journal_that_can_not_be_read_is_named(path):
    path.mkdir()
    with pytest.raises(RunFolderError, match=r"can't be read: Is a directory") as caught:
        rows_of(path)
    assert str(path) in str(caught.value)


any_text = st.text(st.characters(), max_size=20)  # surrogates, line separators and NUL among them


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(any_text, any_text | st.floats(allow_nan=False) | st.none(), max_size=3), max_size=4))
def test_journal_round_trips_any_text_in_any_write_mode(path, rows):
    path.unlink(missing_ok=True)
    append(path, *rows)
    # JSON joins a pair of lone surrogates into the character they stand for, so both sides go through it.
    expected = [json.loads(json.dumps(row)) for row in rows]
    assert [json.loads(json.dumps(row)) for row in rows_of(path)] == expected
    JsonlFile(path).rewrite(iter(rows))
    assert rows_of(path) == expected


@pytest.mark.parametrize("text", ["\ud800", "x\udfffy", "\udc80\u2028\x00", "\U0001f600", "\r\n"])
def test_journal_keeps_surrogates_and_line_separators_exactly(path, text):
    append(path, {"text": text}, ROWS[0])
    assert rows_of(path) == [{"text": text}, ROWS[0]]


def test_a_rewritten_journal_goes_on_from_its_new_end(path):
    file = JsonlFile(path)
    file.append(ROWS[0])
    file.rewrite(iter([ROWS[1]]))
    file.append(ROWS[0])
    file.close()
    assert rows_of(path) == [ROWS[1], ROWS[0]]


def test_a_journal_can_be_rewritten_from_its_own_lines(path):
    append(path, *ROWS)
    JsonlFile(path).rewrite(row for row in read_lines(path) if row["number"] == 1)
    assert rows_of(path) == ROWS[1:]


# --- checksums --------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.dictionaries(any_text, any_text, max_size=3), min_size=1, max_size=4), st.data())
def test_a_changed_bit_is_noticed_in_every_line(path, rows, data):
    path.unlink(missing_ok=True)
    append(path, *rows)
    content = bytearray(path.read_bytes())
    assert zlib.crc32(content) == 0, "the sum of the whole file, which makes reading it cheap"
    place = data.draw(st.integers(0, len(content) - 2))
    field = content.rfind(b'"crc"', 0, place + 5)
    assume(not field <= place < field + 7)  # without its name a checksum is an unknown field, and the rest is whole
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(RunFolderError):
        assert [json.loads(json.dumps(row)) for row in rows_of(path)] == [json.loads(json.dumps(row)) for row in rows]


def test_an_altered_line_is_named_by_its_number(path):
    append(path, *({"number": n, "text": "x" * 50} for n in range(9000)))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"number":7001,"text":"x', b'"number":7001,"text":"y'))
    for read in (read_lines, read_raw_lines):
        with pytest.raises(RunFolderError, match=r"rows\.jsonl, line 7002 does not fit its checksum"):
            list(read(path))
    path.write_bytes(content + b'{"torn')
    assert len(rows_of(path)) == 9000


@pytest.mark.parametrize("n_old", [1, 9000])
@pytest.mark.parametrize("length", [50, 300_000])
def test_lines_of_an_earlier_version_have_none_and_those_after_them_are_checked(path, n_old, length):
    old = b"".join(
        json.dumps({"number": n, "text": "x" * (length if n == 0 else 50)}).encode() + b"\n" for n in range(n_old)
    )
    path.write_bytes(old)
    assert len(rows_of(path)) == len(list(read_raw_lines(path))) == n_old
    append(path, {"number": -1, "text": "z" * length})
    assert len(rows_of(path)) == len(list(read_raw_lines(path))) == n_old + 1
    path.write_bytes(path.read_bytes().replace(b'"number":-1', b'"number":-2'))
    with pytest.raises(RunFolderError, match=f"line {n_old + 1} does not fit"):
        list(read_raw_lines(path))


def test_a_line_read_by_its_place_is_checked(path):
    file = JsonlFile(path)
    place = file.append({"text": "one"})
    file.close()
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    with pytest.raises(RunFolderError, match="its checksum does not fit"):
        read_line_at(path, place)


@pytest.mark.parametrize("text", ["\ud800", "\ud83d\ude00", "x\udfffy"])
def test_half_a_surrogate_pair_is_written_as_valid_utf_8(path, text):
    append(path, {"text": text})
    assert json.loads(path.read_bytes().decode("utf-8"))["text"] == json.loads(json.dumps(text))


# --- whole files ------------------------------------------------------------------------------------------------


def test_write_whole_replaces_the_text_and_leaves_nothing_else(tmp_path):
    for text in ("first, which is longer\n", "second\n"):
        write_whole(tmp_path / "file", text)
        assert (tmp_path / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_reader_of_write_whole_keeps_the_old_text_to_the_end(tmp_path):
    write_whole(tmp_path / "file", "old" * 1000)
    with (tmp_path / "file").open() as reader:
        start = reader.read(10)
        write_whole(tmp_path / "file", "new" * 10)
        assert start + reader.read() == "old" * 1000


def test_leftover_temporary_file_does_not_stop_write_whole(tmp_path):
    (tmp_path / "file.tmp").write_text("half a fi")
    write_whole(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("parent", ["absent", "a file"])
def test_write_whole_where_nothing_can_be_written_is_a_disk_error(tmp_path, parent):
    (tmp_path / "a file").write_text("")
    with pytest.raises(DiskError, match=r"could not write .*target"):
        write_whole(tmp_path / parent / "target", "text")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "make it writable"),
        (errno.EROFS, "make it writable"),
    ],
)
def test_disk_error_has_the_cause_the_path_and_a_remedy(tmp_path, number, remedy):
    message = str(disk_error(tmp_path / "file", OSError(number, os.strerror(number))))
    assert str(tmp_path / "file") in message
    assert os.strerror(number) in message
    assert f"{remedy} and run the same command again" in message


def test_disk_error_without_an_error_number_has_a_cause(tmp_path):
    assert "torch stopped" in str(disk_error(tmp_path, OSError("torch stopped")))
    assert "torch stopped" in str(disk_error(tmp_path, RuntimeError("torch stopped")))


# --- a full disk ------------------------------------------------------------------------------------------------

LIMITED = """
    import resource, signal, sys
    from pathlib import Path
    from harness.core.errors import DiskError
    from harness.runs.jsonl import JsonlFile, read_lines, write_whole

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def allow(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))

    path = Path(sys.argv[1])
"""


def in_limited_process(path, program):
    source = textwrap.dedent(LIMITED) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", source, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_journal_on_a_full_disk_fails_with_a_remedy_and_continues_afterwards(path):
    out = in_limited_process(
        path,
        """
        file = JsonlFile(path)
        allow(1000)
        n = 0
        try:
            while True:
                file.append({"number": n, "text": "x" * 80})
                n += 1
        except DiskError as error:
            print(error)
        assert path.stat().st_size == 1000, "the last row must have been torn, or this test tests nothing"
        assert [row["number"] for row in read_lines(path)] == list(range(n))
        allow(soft)
        file.append({"number": n})  # the same process, the same file
        assert [row["number"] for row in read_lines(path)] == list(range(n + 1))
        """,
    )
    assert f"could not write {path}: File too large" in out
    assert "free some space and run the same command again to resume" in out


def test_write_whole_on_a_full_disk_leaves_the_old_text_and_no_half_file(path):
    in_limited_process(
        path,
        """
        write_whole(path, "old")
        allow(1000)
        try:
            write_whole(path, "new" * 1000)
        except DiskError as error:
            assert "free some space" in str(error)
        else:
            raise AssertionError("nothing was refused")
        assert path.read_text() == "old"
        assert [p.name for p in path.parent.iterdir()] == [path.name]
        """,
    )


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, timeout=60).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this machine does not let us mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)


def append_for_ever(file):
    for number in itertools.count():
        file.append({"number": number, "text": "x" * 990})


def test_a_disk_that_is_really_full_stops_a_journal_and_space_lets_it_go_on(tiny_disk):
    ballast, path = tiny_disk / "ballast", tiny_disk / "rows.jsonl"
    ballast.write_bytes(b"x" * 40_000)
    file = JsonlFile(path)
    with pytest.raises(DiskError, match=r"No space left on device; .*free some space"):
        append_for_ever(file)
    with pytest.raises(DiskError, match="No space left on device"):
        write_whole(tiny_disk / "run.json", "x" * 5000)
    n_kept = len(rows_of(path))
    assert 0 < n_kept < 40
    assert sorted(p.name for p in tiny_disk.iterdir()) == ["ballast", "rows.jsonl"]
    ballast.unlink()
    file.append({"number": n_kept})
    file.close()
    assert [row["number"] for row in rows_of(path)] == list(range(n_kept + 1))


WRITER = """
    import sys
    from pathlib import Path
    from harness.runs.jsonl import JsonlFile, write_whole

    folder = Path(sys.argv[1])
    file = JsonlFile(folder / "rows.jsonl")
    print("ready", flush=True)
    for number in range(10**9):
        file.append({"number": number, "text": "x" * (number * 37 % 5000)})
        write_whole(folder / "whole.json", f"{number}" + "y" * 5000 + f"{number}")
"""


def test_a_killed_writer_leaves_whole_rows_and_whole_files(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
    expected_first = 0
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            wait_for_rows(tmp_path / "rows.jsonl", process)
            process.kill()
        numbers = [row["number"] for row in read_lines(tmp_path / "rows.jsonl")]
        assert len(numbers) > expected_first
        start, middle, end = (tmp_path / "whole.json").read_text().partition("y" * 5000)
        assert middle
        assert start == end
        expected_first = len(numbers)


def wait_for_rows(path: Path, process: subprocess.Popen) -> None:
    """Wait until the writer has grown the file by a few rows."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        size = path.stat().st_size
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > size + 20_000:
                return
    raise AssertionError("the writer ended by itself")
