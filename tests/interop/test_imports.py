"""`harness import`: files of other tools become runs; what does not fit is refused in one line with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.runs.folder import RunReader

ANSWERS = [5, 7, 12]
PROBLEMS = [
    {
        "problem": f"Find the number that is the sum of {answer - 1} and one.",
        "answer": f"{answer:03}",
        "url": f"https://artofproblemsolving.com/wiki/index.php/2024_AIME_I_Problems/Problem_{number}",
    }
    for number, answer in enumerate(ANSWERS, 1)
]
IDS = ["2024-I-1", "2024-I-2", "2024-I-3"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with three problems as the data of aime24."""
    write(tmp_path / "data/aime24/qwen25math_aime24_test.jsonl", PROBLEMS)
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reply(answer: int) -> str:
    return f"The answer is \\boxed{{{answer}}}."


def replies() -> list[dict[str, Any]]:
    """The right answer and a wrong one for each problem."""
    return [{"id": key, "completion": [reply(a), reply(a + 1)]} for key, a in zip(IDS, ANSWERS, strict=True)]


def run(*arguments: str, code: int = 0) -> None:
    command = ["import", *arguments, "--quiet"]
    assert main([*command, *(() if "--tasks" in arguments else ("--tasks", "aime24")), "--out", "run"]) == code


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which an import is refused; nothing is left on the disk."""
    before = set(Path().iterdir())
    capsys.readouterr()
    run(*arguments, code=2)
    assert set(Path().iterdir()) == before
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:"))
    return line


def outcomes(grader: str = "math") -> dict[tuple[str, int], str]:
    found = RunReader.read(Path("run")).verdicts(grader)
    return {(problem_id, index): verdict.outcome for (_, problem_id, index), verdict in found.items()}


EXPECTED = {(key, index): outcome for key in IDS for index, outcome in enumerate(["correct", "incorrect"])}


# --- problems and columns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["id", "number", "text", "spaced text", "prompt", "messages"])
def test_problems_match_by_id_number_question_and_prompt(key: str) -> None:
    texts = [row["problem"] for row in PROBLEMS]
    columns = {
        "id": ("id", IDS),
        "number": ("idx", [0, 1, 2]),
        "text": ("problem", texts),
        "spaced text": ("question", [f"  {text.upper()} ".replace(" ", " \n") for text in texts]),
        "prompt": ("prompt", [f"Solve this.\n\n{text}\n\nThink." for text in texts]),
        "messages": ("messages", [[{"role": "user", "content": f"{text} Box it."}] for text in texts]),
    }
    name, values = columns[key]
    rows = [{name: v, "output": r["completion"]} for v, r in zip(values, replies(), strict=True)]
    run(str(write(Path("a.jsonl"), rows[::-1])))
    assert outcomes() == EXPECTED


def test_a_row_per_completion_and_mapped_columns_and_lists_are_equal() -> None:
    rows = [
        {"k": row["id"], "t": text, "mark": n == 0} for row in replies() for n, text in enumerate(row["completion"])
    ]
    run(str(write(Path("a.jsonl"), rows)), "--map", "problem=k,completion=t", "--map", "score=mark")
    assert outcomes() == outcomes("imported:score") == EXPECTED


@pytest.mark.parametrize("form", ["jsonl.gz", "json", "csv", "parquet", "json lines in .json"])
def test_other_files_of_rows_are_read(form: str) -> None:
    rows = [{"id": r["id"], "completion": text} for r in replies() for text in r["completion"]]
    path = Path(f"a.{form.rpartition('.')[2]}")
    if form == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif form == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif form == "csv":
        path.write_text("id,completion\n" + "".join(f'{row["id"]},"{row["completion"]}"\n' for row in rows))
    elif form == "parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(path)
    else:
        write(path, rows)
    run(str(path))
    assert outcomes() == EXPECTED


def test_a_long_json_list_is_read_in_pieces() -> None:
    rows = [{"id": row["id"], "completion": [text + "x" * 150_000 for text in row["completion"]]} for row in replies()]
    Path("a.json").write_text(json.dumps(rows))
    run("a.json")
    assert {c.text[-150_000:] for _, c in RunReader.read(Path("run")).completions()} == {"x" * 150_000}


def test_the_record_says_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "model": "theirs", "finish_reason": "stop"} for row in replies()]
    run(str(write(Path("a.jsonl"), rows)), "--set", "sampling.temperature=0.7")
    record = RunReader.read(Path("run")).record
    source = record.data["source"]
    assert source["unknown"] == ["prompts", "seeds", "max_tokens", "top_p", "top_k", "min_p", "stop", "tokens"]
    assert source["files"][0].startswith("a.jsonl sha256 ") and source["completions"] == {"aime24": 6}
    capsys.readouterr()
    assert main(["report", "run", "--out", "report"]) == 0
    text = Path("report/report.md").read_text()
    assert "| model | theirs |" in text and "| temperature | 0.7 |" in text and "| top p | unknown |" in text
    assert "| seed | unknown |" in text and "| imported from | rows (tool: not recorded): a.jsonl sha256" in text
    assert "prompt=" not in text


def test_two_imports_are_compared_and_graded_again(capsys: pytest.CaptureFixture[str]) -> None:
    run(str(write(Path("a.jsonl"), replies())))
    Path("run").rename("first")
    run(str(write(Path("b.jsonl"), [{**row, "completion": row["completion"][:1] * 2} for row in replies()])))
    capsys.readouterr()
    assert main(["compare", "first", "run", "--metric", "avg", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert (table["rows"][0]["first"], table["rows"][0]["second"]) == (0.5, 1.0)
    assert main(["grade", "run", "--grader", "exact", "--quiet"]) == 0
    assert set(outcomes("exact").values()) == {"incorrect"}
    assert main(["audit", "run", "--show", "1"]) == 0
    assert "disagreements: 6, the first 1 shown" in capsys.readouterr().out


def test_missing_completions_are_ungraded_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    rows = replies()[:2]
    rows[1]["completion"] = rows[1]["completion"][:1]
    line = refused(capsys, str(write(Path("a.jsonl"), rows)))
    assert "1 of 3 problems have no completion: aime24 2024-I-3" in line
    run("a.jsonl", "--allow-missing", code=3)
    shown = capsys.readouterr()
    assert "3 completions are missing, and count as ungraded" in shown.err and "UNGRADED: 3" in shown.out
    assert outcomes()["2024-I-2", 1] == outcomes()["2024-I-3", 0] == "ungraded"


def test_n_limit_and_problem_choose_completions() -> None:
    run(str(write(Path("a.jsonl"), replies())), "--n", "1", "--problem", "2024-I-1,2024-I-3")
    assert outcomes() == {("2024-I-1", 0): "correct", ("2024-I-3", 0): "correct"}
    assert RunReader.read(Path("run")).record.data["source"]["rows_left_out"] == 2


def test_rows_without_a_problem_are_left_out_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*replies(), {"id": "2023-I-1", "completion": "?"}]
    assert "line 4 (id '2023-I-1'): no such problem" in refused(capsys, str(write(Path("a.jsonl"), rows)))
    run("a.jsonl", "--skip-unmatched")
    assert outcomes() == EXPECTED
    assert "1 completions were left out" in capsys.readouterr().err


def test_an_import_continues_and_another_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run(str(write(Path("a.jsonl"), replies())))
    verdicts = Path("run/verdicts.jsonl")
    whole = verdicts.read_text().splitlines(keepends=True)
    verdicts.write_text("".join(whole[:2]))
    Path("run/metrics.json").unlink()
    run("a.jsonl")
    assert verdicts.read_text().splitlines(keepends=True) == whole
    assert Path("run/metrics.json").exists() and RunReader.read(Path("run")).status == "done"
    write(Path("b.jsonl"), replies()[::-1])
    assert "other data" in refused(capsys, "b.jsonl")


def test_nothing_is_generated_for_an_imported_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "model", "--tasks", "aime24", "--engine", "imported", "--out", "own", "--quiet"]
    assert main(command) == 2
    assert "generates nothing" in capsys.readouterr().err


# --- refusals ------------------------------------------------------------------------------------------------------


def bad(text: str) -> list[str]:
    Path("a.jsonl").write_text(text)
    return ["a.jsonl"]


GOOD = '{"id": "2024-I-1", "completion": "x"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.jsonl is empty"),
        ("hello", "a.jsonl is neither JSON"),
        (GOOD + '{"id": "2024-I-2", "compl', "a.jsonl, line 2 is not JSON"),
        (GOOD + GOOD[:-5], "the file was cut off"),
        (GOOD + "[1]\n", "a.jsonl, line 2 is not an object"),
        (
            GOOD + '{"id": "2024-I-1", "completion": 3}\n',
            "line 2 is not a row of the format rows: a completion",
        ),
        (GOOD + '{"id": "2024-I-1", "text": "x"}\n', "line 2 is not a row of the format rows: it has no column"),
        ('{"id": "2024-I-1", "reply": "x", "output": "y"}\n', "2 columns that may be the completion (output, reply)"),
        ('{"id": "2024-I-1", "says": "x"}\n', "known to be the completion; name it with --map completion=COLUMN"),
        ('{"k": "2024-I-1", "output": "x"}\n', "--map problem=COLUMN; it has k, output"),
        ('{"idx": 3, "output": "x"}\n', "a.jsonl, line 1 (number 3): there are 3 problems, counted from 0"),
        ('{"id": "2024-I-1", "sample": 0, "output": "x"}\n' * 2, "line 2 has sample 0 of 2024-I-1 a second time"),
        (json.dumps({"id": IDS[0], "question": PROBLEMS[1]["problem"], "output": "x"}), "another problem than its"),
        (json.dumps({"idx": 0, "question": "Another one?", "output": "x"}), "its number may count other data"),
        ("[" + GOOD.strip(), "was it cut off?"),
        ("[" + GOOD.strip() + "] 3", "goes on after its 1 rows"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(content: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *bad(content), "--allow-missing")


def test_foreign_and_mixed_files_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing.jsonl does not exist" in refused(capsys, "missing.jsonl")
    assert "data is a folder" in refused(capsys, "data")
    Path("a.parquet").write_bytes(b"PAR1 and no more")
    assert "a.parquet can't be read as parquet" in refused(capsys, "a.parquet")
    Path("a.eval").write_bytes(b"PK\3\4 and no more")
    assert "not a log of inspect_ai" in refused(capsys, "a.eval")
    Path("a.bin").write_bytes(bytes(range(256)))
    assert "a.bin is neither" in refused(capsys, "a.bin")
    write(Path("a.jsonl"), replies())
    assert "have the same content" in refused(capsys, "a.jsonl", str(write(Path("b.jsonl"), replies())))
    verl = write(Path("verl.jsonl"), [{"input": "?", "output": "x", "score": 1.0, "step": 3}])
    assert "is of the format rows and verl.jsonl of verl" in refused(capsys, "a.jsonl", str(verl))
    first = write(Path("c.jsonl"), [{**row, "model": "one"} for row in replies()])
    second = write(Path("d.jsonl"), [{**row, "model": "two"} for row in replies()])
    assert "c.jsonl is by the model 'one'" in refused(capsys, str(first), str(second))


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(Path("a.jsonl"), replies()))
    assert "no column 'reply'" in refused(capsys, file, "--map", "completion=reply")
    assert "--map has no column 'complete' of ours" in refused(capsys, file, "--map", "complete=completion")
    assert "--map takes OURS=COLUMN" in refused(capsys, file, "--map", "completion")
    assert "a.jsonl is not of the format lm-eval" in refused(capsys, file, "--format", "lm-eval")
    assert "names the columns of plain rows" in refused(capsys, file, "--format", "verl", "--map", "completion=id")
    assert "decides 'n' by its files" in refused(capsys, file, "--set", "n=3")
    assert "needs k = 8 samples" in refused(capsys, file, "--set", 'metrics=[{id="pass_at_k", ks=[8]}]')
    assert main(["import", file, "--out", "run"]) == 2
    assert "name the tasks" in capsys.readouterr().err
    assert main(["import", file, "--tasks", "aime24", "--out", "a/b/c"]) == 0 and Path("a/b/c/run.json").exists()
    assert main(["import", file, "--tasks", "aime25,aime24", "--out", "x/y"]) == 2 and not Path("x").exists()
    Path("run").mkdir()
    Path("run/notes.txt").touch()
    assert "not a run folder" in refused(capsys, file)


def test_the_first_unmatched_rows_are_listed_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": f"x{number} " * 30, "completion": ["y", "z"]} for number in range(14)]
    line = refused(capsys, str(write(Path("a.jsonl"), rows)))
    assert line.startswith("harness: 14 of 14 rows match no problem of aime24, or several: ") and "and 4 more" in line
    assert "line 10 (question 'x9 x9 " in line and "x10" not in line and len(line) < 1500


def test_a_question_that_two_problems_have_decides_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins = [{**row, "problem": PROBLEMS[0]["problem"]} for row in PROBLEMS]
    write(folder / "data/aime24/qwen25math_aime24_test.jsonl", twins)
    line = refused(capsys, str(write(Path("a.jsonl"), [{"question": twins[0]["problem"], "output": "x"}])))
    assert "it matches aime24 2024-I-1 and aime24 2024-I-2" in line


def test_samples_of_several_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = PROBLEMS[0]["problem"]
    rows = [{"input": f"user\n{asked}\nassistant\n", "output": "x", "score": 0.0, "step": step} for step in (1, 1, 2)]
    line = refused(capsys, str(write(Path("a.jsonl"), rows)), "--allow-missing")
    assert "line 3 is of training step 2 and earlier rows of step 1" in line
