"""The mark of a folder: what the next run may replace and remove, and what is refused."""

import json

import pytest

from harness.core.errors import DiskError, UsageError
from harness.reports.marked_folder import MarkedFolder


@pytest.fixture
def marked(tmp_path):
    return MarkedFolder(tmp_path / "out", "things.json", "a folder of things", (".txt", ".json"), unlisted=("page.md",))


def names(marked):
    return {path.name for path in marked.folder.iterdir()}


def test_the_next_run_removes_the_files_of_the_last_and_no_others(marked):
    assert marked.former_files() == []
    marked.replace([], {"a.txt": "a", "b.txt": b"b", "page.md": "page"}, by="me")
    assert json.loads((marked.folder / "things.json").read_text())["files"] == ["a.txt", "b.txt"]
    assert json.loads((marked.folder / "things.json").read_text())["by"] == "me"
    (marked.folder / "notes.txt").write_text("mine")
    former = marked.former_files()
    assert former == ["a.txt", "b.txt", "page.md"]
    marked.replace(former, {"b.txt": "new"})
    assert names(marked) == {"b.txt", "notes.txt", "things.json"} and (marked.folder / "b.txt").read_text() == "new"


def test_files_outside_the_folder_and_of_other_endings_are_not_removed(marked):
    marked.replace([], {"a.txt": "a"})
    mark = json.loads((marked.folder / "things.json").read_text())
    listed = {**mark, "files": ["../x.txt", "code.py", "things.json", "a.txt"]}
    (marked.folder / "things.json").write_text(json.dumps(listed))
    assert marked.former_files() == ["a.txt", "page.md"]


def test_a_file_that_can_not_be_written_leaves_a_mark_that_lists_all(marked):
    marked.replace([], {"a.txt": "a"})
    (marked.folder / "b.txt").mkdir()
    with pytest.raises(DiskError):
        marked.replace(["a.txt"], {"b.txt": "b"})
    assert marked.former_files() == ["a.txt", "b.txt", "page.md"] and (marked.folder / "a.txt").exists()


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (None, r"has files in it and is not a folder of things \(no things.json\)"),
        ("[]", "is not the mark of a folder of things"),
        ("{", "is not the mark of a folder of things"),
        ('{"format": 1}', "is not the mark of a folder of things"),
        ('{"format": 2, "files": []}', "is a folder of things of format 2, not 1"),
    ],
)
def test_a_folder_without_our_mark_is_refused(marked, mark, message):
    marked.folder.mkdir()
    (marked.folder / "notes.txt").write_text("mine")
    if mark is not None:
        (marked.folder / "things.json").write_text(mark)
    with pytest.raises(UsageError, match=message):
        marked.former_files()


def test_a_file_is_refused_and_a_torn_first_mark_is_not(marked):
    marked.folder.mkdir()
    (marked.folder / "things.json.tmp").write_text("{")
    assert marked.former_files() == []
    (marked.folder / "things.json.tmp").unlink()
    marked.folder.rmdir()
    marked.folder.write_text("a file")
    with pytest.raises(UsageError, match="is a file"):
        marked.former_files()
