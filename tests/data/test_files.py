"""Data files: where they are looked for, how they are read, and how a bad one is reported."""

import csv
import os
from pathlib import Path

import pytest
from official_shapes import write

from harness.core.errors import DataError
from harness.core.types import DataFile
from harness.data import files as data
from harness.data.files import read_records

ROWS = [{"id": str(number), "text": f'line one,\n"line" two \u2212{number}', "more": "x"} for number in range(10)]
FORMS = ("jsonl", "json", "csv", "parquet", "jsonl.gz", "json.gz", "csv.gz")


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_file_format_gives_the_same_rows(tmp_path, form):
    path = write(tmp_path / f"rows.{form}", ROWS)
    found = [{"id": row["id"], "text": row["text"]} for row in read_records(path, ["id", "text"])]
    assert found == [{"id": row["id"], "text": row["text"]} for row in ROWS]


def test_parquet_reader_reads_only_the_named_columns_and_fields(tmp_path):
    rows = [{"id": "a", "much": "x" * 1000, "nested": {"kept": 1, "left": 2}, "list": [{"kept": 1, "left": 2}]}]
    path = write(tmp_path / "rows.parquet", rows)
    found = list(read_records(path, ["id", "nested.kept", "list.list.element.kept"], optional=["absent"]))
    assert found == [{"id": "a", "nested": {"kept": 1}, "list": [{"kept": 1}]}]


REPEATING = [
    {"text": text, "list": [{"said": said}], "nested": {"n": n}, "other": number}
    for number, (text, said, n) in enumerate([*[("a", "x", 1), ("a", "y", 1), ("b", None, 2)] * 3, ("a", "x", None)])
]


def test_repeats_are_left_out_and_the_order_is_kept(tmp_path):
    path = write(tmp_path / "rows.parquet", REPEATING)
    columns = ["text", "list.list.element.said", "nested.n"]
    every = list(read_records(path, columns))
    assert len(every) == 10
    assert list(read_records(path, columns, skip_repeats=True)) == [*every[:3], every[9]]
    assert len(list(read_records(path, ["text"], skip_repeats=True))) == 2


@pytest.mark.parametrize("lists", [[[1, 2], [], [1]], [[1], None, [1]], [[1, 2]] * 3])
def test_rows_whose_repeats_are_costly_to_find_are_all_kept(tmp_path, lists):
    path = write(tmp_path / "rows.parquet", [{"text": "a", "list": one} for one in lists])
    assert [row["list"] for row in read_records(path, ["text", "list"], skip_repeats=True)] == lists


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_repeats_are_kept_in_formats_other_than_parquet(tmp_path, form):
    path = write(tmp_path / f"rows.{form}", [{"id": "a"}] * 3)
    assert len(list(read_records(path, ["id"], skip_repeats=True))) == 3


@pytest.mark.parametrize("form", FORMS)
def test_missing_field_error_names_the_existing_ones(tmp_path, form):
    path = write(tmp_path / f"rows.{form}", ROWS)
    with pytest.raises(DataError, match=r"has no field 'answer' \(it has id") as caught:
        list(read_records(path, ["id", "answer"]))
    assert str(path) in str(caught.value)


def test_field_missing_from_one_row_is_reported_with_the_row(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"id": 1, "answer": 2}, {"id": 2}])
    with pytest.raises(DataError, match=r"row 2 .* has no field 'answer'"):
        list(read_records(path, ["answer"]))


@pytest.mark.parametrize("form", FORMS)
def test_truncated_file_is_refused_with_a_remedy(tmp_path, form):
    path = write(tmp_path / f"rows.{form}", ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    if form == "csv":  # cut inside a quoted text
        path.write_bytes(whole[: whole.rindex(b'""line') + 3])
    with pytest.raises(DataError, match="fetch it again"):
        list(read_records(path, ["id"]))


@pytest.mark.parametrize("form", FORMS)
def test_file_of_another_format_is_refused(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n\xff\xfe")
    with pytest.raises(DataError, match="rows"):
        list(read_records(path, ["id"]))


@pytest.mark.parametrize("form", ["jsonl.gz", "csv.gz"])
def test_a_flipped_bit_in_a_compressed_file_is_refused(tmp_path, form):
    path = write(tmp_path / f"rows.{form}", ROWS)
    whole = bytearray(path.read_bytes())
    for position in range(20, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            list(read_records(path, ["id"]))


def test_a_parquet_file_with_a_damaged_page_is_refused(tmp_path):
    path = write(tmp_path / "rows.parquet", [{"id": os.urandom(40).hex()} for _ in range(200)])
    whole = bytearray(path.read_bytes())
    whole[4:60] = b"\xff" * 56
    path.write_bytes(whole)
    with pytest.raises(DataError, match="damaged"):
        list(read_records(path, ["id"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "[1, 2]\n"),
        ("a.json", '{"id": 1}'),
        ("a.json", "[1]"),
        ("a.csv", "id,b\n1\n"),
        ("a.csv", "id\n1,2\n"),
    ],
)
def test_rows_that_are_not_objects_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="can't be read"):
        list(read_records(tmp_path / name, ["id"]))


def test_a_last_cell_that_never_closes_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text('id\n1\n"cut sho')
    with pytest.raises(DataError, match="unexpected end of data"):
        list(read_records(tmp_path / "a.csv", ["id"]))


def test_an_unknown_form_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="jsonl, json, csv, parquet"):
        list(read_records(tmp_path / "rows.arrow", ["id"]))


def test_long_csv_cells_are_read_and_the_limit_is_put_back(tmp_path):
    before = csv.field_size_limit()
    path = write(tmp_path / "rows.csv", [{"id": "1", "text": "x" * (before + 10)}])
    assert len(next(read_records(path, ["text"]))["text"]) == before + 10
    assert csv.field_size_limit() == before


def test_a_csv_with_quotes_and_line_ends_in_its_cells_is_as_the_standard_library_writes_it(tmp_path):
    rows = [{"id": 'a"b', "text": "one\r\ntwo\n\n"}, {"id": ",", "text": ""}]
    assert list(read_records(write(tmp_path / "rows.csv", rows), ["id"])) == rows


# --- finding ----------------------------------------------------------------------------------------------------

FILE = DataFile("data/rows.jsonl", "owner/name", mirrored_as="mine/rows.jsonl")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty mirror and an empty cache, and nothing that could be downloaded."""
    from huggingface_hub import constants

    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "mirror"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "mirror").mkdir()
    asked = []
    monkeypatch.setattr(data.download, "download", lambda file: asked.append(file) or Path("downloaded"))
    return tmp_path, asked


def cache(root, revision="main", commit="c0ffee"):
    folder = root / "hub" / "datasets--owner--name"
    path = write(folder / "snapshots" / commit / "data" / "rows.jsonl", ROWS)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    return path


def test_a_file_is_taken_from_the_mirror_then_the_cache_then_the_hub(places):
    root, asked = places
    assert not data.is_local(FILE)
    assert data.locate(FILE) == Path("downloaded")
    in_cache = cache(root)
    assert data.locate(FILE) == in_cache
    by_hub_name = write(root / "mirror" / "owner" / "name" / "data" / "rows.jsonl", ROWS)
    assert data.locate(FILE) == by_hub_name
    by_own_name = write(root / "mirror" / "mine" / "rows.jsonl", ROWS)
    assert data.locate(FILE) == by_own_name
    assert data.is_local(FILE)
    assert asked == [FILE]


def test_forced_download_ignores_the_cache_but_not_the_mirror(places):
    root, asked = places
    cache(root)
    assert data.locate(FILE, again=True) == Path("downloaded")
    own = write(root / "mirror" / "mine" / "rows.jsonl", ROWS)
    assert data.locate(FILE, again=True) == own
    assert asked == [FILE]


def test_the_cache_of_one_revision_does_not_stand_for_another(places):
    root, _ = places
    path = cache(root)
    other = DataFile("data/rows.jsonl", "owner/name", revision="v2")
    by_commit = DataFile("data/rows.jsonl", "owner/name", revision="c0ffee")
    assert data.locate(other) == Path("downloaded")
    assert data.locate(by_commit) == path


def test_missing_mirror_is_an_error(places, monkeypatch):
    root, asked = places
    monkeypatch.setenv("HARNESS_DATA_DIR", str(root / "miror"))
    with pytest.raises(DataError, match=r"HARNESS_DATA_DIR is .*miror.*not a folder"):
        data.locate(FILE)
    assert asked == []


def test_empty_data_dir_variable_means_no_mirror(places, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", "")
    assert data.locate(FILE) == Path("downloaded")


def test_unpublished_file_error_names_the_variable_to_set(monkeypatch):
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="set HARNESS_DATA_DIR"):
        data.locate(DataFile("rows.jsonl", mirrored_as="mine/rows.jsonl"))


def test_file_checksum_is_that_of_its_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180
    assert data.checksum(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
