"""`harness fetch`: every split is read and compared, and wrong requests are refused."""

import pytest
from command_output import output, tables
from official_shapes import write

pytestmark = pytest.mark.usefixtures("mirror")
AIME = "aime24/qwen25math_aime24_test.jsonl"


def test_fetch_reads_and_compares_every_split(mirror, capsys):
    for split, n in (("train", 3), ("test", 2)):
        rows = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(n)]
        write(mirror / f"gsm8k/openai_{split}.jsonl", rows)
    aime, gsm8k = tables(capsys, "fetch", "aime24", "gsm8k")
    assert [(row["split"], row["rows"]) for row in gsm8k["rows"]] == [("train", 3), ("test", 2)]
    assert aime["rows"][0]["as recorded"].startswith(
        "30 of the test rows differ from the recorded ones (2024-I-1: altered; "
    )


def test_fetch_of_a_task_without_files_is_refused(capsys):
    assert "countdown makes its problems itself" in output(capsys, "fetch", "countdown", code=2).err


@pytest.mark.parametrize("verb", ["fetch", "validate"])
def test_an_unknown_task_is_refused_before_the_first_is_read(mirror, capsys, verb):
    (mirror / AIME).unlink()
    assert "no task is called 'aime42'" in output(capsys, verb, "aime24", "aime42", code=2).err


def test_fetch_of_a_damaged_mirror_names_the_file(mirror, capsys):
    (mirror / AIME).write_text('{"problem": "p", "answ')
    printed = output(capsys, "fetch", "aime24", "--quiet", code=2).err
    assert str(mirror / AIME) in printed
    assert "repair the mirror" in printed
