"""Rows kept after the first reading: the same rows, read again when file or code changes, or when they are damaged."""

from __future__ import annotations

import json

import pytest

from harness.tasks._base.row_cache import cached_rows


@pytest.fixture
def reading(tmp_path, monkeypatch):
    """How often the rows were read, in the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, code = tmp_path / "data.parquet", tmp_path / "code.py"
    file.write_text("1 2 3")
    code.write_text("first")
    times = []

    def load():
        def read():
            times.append(1)
            return [(word, len(times)) for word in file.read_text().split()]

        return cached_rows("numbers", [file], [code], read, lambda *values: tuple(values), list)

    return file, code, times, load


def test_cached_rows_are_parsed_once(reading):
    _, _, times, load = reading
    first = load()
    assert load() == first == [("1", 1), ("2", 1), ("3", 1)]
    assert len(times) == 1


def test_changed_file_or_changed_code_invalidates_the_row_cache(reading):
    file, code, times, load = reading
    load()
    file.write_text("4 5")
    assert [word for word, _ in load()] == ["4", "5"]
    code.write_text("other")
    load()
    assert len(times) == 3


def test_damaged_row_cache_is_rebuilt(reading, tmp_path):
    _, _, times, load = reading
    load()
    (kept,) = (tmp_path / "cache/harness/rows").iterdir()
    checksum, content = kept.read_text().split("\n")
    assert json.loads(content)[0] == ["1", 1]
    for damage in (checksum + "\n" + content.replace("1", "9"), checksum, content[:5], ""):
        kept.write_text(damage)
        assert [word for word, _ in load()] == ["1", "2", "3"]
    assert len(times) == 5


def test_rows_are_read_without_a_writable_cache(reading, tmp_path):
    _, _, times, load = reading
    (tmp_path / "cache").write_text("in the way")
    assert load()
    assert load()
    assert len(times) == 2
