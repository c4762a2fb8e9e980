"""Problems of one's own without Python: files and data sets of the hub, with four kinds of answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, Hub, running_hub

from harness.cli import main
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError, DataError, UsageError
from harness.runs.folder import RunReader

SUMS = [
    {"question": "What is 2 + 3?", "answer": 5},
    {"question": "What is half of 3?", "answer": "\\frac{3}{2}"},
    {"question": "Where is it?", "answer": "in the box"},
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def write(path: str, rows: list[dict[str, Any]]) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task(name: str, **options: Any) -> Any:
    return parse_plugin("tasks", {"id": name, **options}).build()


def problems(name: str, split: str = "test", **options: Any) -> dict[str, Any]:
    """The problems of a split by question, which is the last message."""
    return {p.messages[-1].content: p for p in task(name, **options).problems(split, 0)}


def evaluate(name: str, *replies: str, code: int = 0, out: str = "run", **options: Any) -> dict[str, str]:
    """Evaluate with given replies; return the outcome of each problem's first sample by id."""
    settings = [f"--set=engine.replies={json.dumps(list(replies))}"]
    table = json.dumps({"id": name, **options}).replace('": ', '"= ')
    command = ["eval", "countdown-tiny", f"--set=tasks=[{table}]", "--engine", "scripted", *settings]
    assert main([*command, "--n", str(len(replies)), "--out", out, "--quiet"]) == code
    if code:
        return {}
    grader = options.get("grader", "math")
    return {key[1]: verdict.outcome for key, verdict in RunReader.read(Path(out)).verdicts(grader).items()}


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_a_task_by_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.jsonl", [{"id": f"s{n}", **row} for n, row in enumerate(SUMS)])
    assert main(["eval", "countdown-tiny", "--tasks", "mine.jsonl", "--engine", "scripted", "--n", "1", "--out", "run",
                 "--set", 'engine.replies=["\\\\boxed{1.5}"]', "--quiet"]) == 0  # fmt: skip
    run = RunReader.read(Path("run"))
    assert {key: verdict.outcome for key, verdict in run.verdicts("math").items()} == {
        ("mine.jsonl", "s0", 0): "incorrect",
        ("mine.jsonl", "s1", 0): "correct",
        ("mine.jsonl", "s2", 0): "incorrect",
    }
    facts = run.record.data["mine.jsonl"]
    assert facts["own_files"].startswith("mine.jsonl sha256 ") and facts["rows"] == 3
    assert "warning" not in capsys.readouterr().err
    assert main(["show", "run"]) == 0
    assert 'id = "mine.jsonl"' in capsys.readouterr().out


def test_a_changed_file_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(write("mine.jsonl", SUMS), "x")
    evaluate(write("mine.jsonl", SUMS), "x")
    evaluate(write("mine.jsonl", [*SUMS[:2], {**SUMS[2], "answer": "elsewhere"}]), "x", code=2)
    assert "was begun with another model or other data" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "jsonl"])
def test_every_form_of_file_has_the_same_problems(form: str) -> None:
    rows = [{"q": row["question"], "a": str(row["answer"]), "k": f"k{n}"} for n, row in enumerate(SUMS)]
    path = f"mine.{form}"
    if form == "json":
        Path(path).write_text(json.dumps(rows, indent=1))
    elif form == "csv":
        Path(path).write_text("q,a,k\n" + "".join(f'"{r["q"]}",{r["a"]},{r["k"]}\n' for r in rows))
    elif form == "parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(path)
    else:
        write(path, rows)
    found = problems(path, question="q", answer="a", key="k", prompt="{question}")
    assert {text: (p.id, p.reference.text, p.reference.kind) for text, p in found.items()} == {
        "What is 2 + 3?": ("k0", "5", "integer"),
        "What is half of 3?": ("k1", "\\frac{3}{2}", "expression"),
        "Where is it?": ("k2", "in the box", "text"),
    }


def test_ids_are_hashes_of_questions_without_an_id_column() -> None:
    one, two = (
        {p.id for p in problems(write(f"{n}.jsonl", rows)).values()} for n, rows in enumerate([SUMS, SUMS[::-1]])
    )
    assert one == two and len(one) == 3


def test_splits_of_a_folder_a_column_and_a_single_file() -> None:
    write("data/train.jsonl", SUMS[:1])
    write("data/train-dev.jsonl", SUMS[1:2])
    write("data/test.jsonl", SUMS[2:])
    marked = [{**row, "part": part} for row, part in zip(SUMS, ["train", "val", "test"], strict=True)]
    write("marked.jsonl", marked)
    for name, options in (("jsonl", {"path": "data"}), ("jsonl:data", {}), ("marked.jsonl", {"split": "part"})):
        own = task(name, prompt="{question}", **options)
        found = {split: next(own.problems(split, 0)).messages[0].content for split in ("train", "validation", "test")}
        assert list(found.values()) == [row["question"] for row in SUMS]
        assert [len(list(own.problems(split, 0))) for split in ("validation", "test")] == [1, 1]
    single = task(write("all.jsonl", SUMS))
    assert single.loaded("train").n_rows == single.loaded("test").n_rows == 3
    with pytest.raises(ConfigError, match="has no validation split"):
        list(single.problems("validation", 0))
    marked[1]["part"] = "spare"
    with pytest.raises(DataError, match="line 2 has the split 'spare'"):
        list(task(write("marked.jsonl", marked), split="part").problems("test", 0))


def test_few_shot_examples_come_from_the_train_split() -> None:
    train = [{"question": f"{n} + 1?", "answer": n + 1, "how": f"We add. {n + 1}"} for n in range(5)]
    write("data/train.jsonl", train)
    write("data/test.jsonl", SUMS)
    (first, *_) = task("jsonl:data", few_shot=2, prompt="Q: {question}", solution="how").problems("test", 0)
    assert [message.role for message in first.messages] == ["user", "assistant"] * 2 + ["user"]
    shown = {m.content for m in first.messages[:-1]}
    assert all(text.removeprefix("Q: ") in {r["question"] for r in train} | {r["how"] for r in train} for text in shown)
    (boxed, *_) = task("jsonl:data", few_shot=1, prompt="simple").problems("test", 0)
    assert boxed.messages[1].content.startswith("\\boxed{")
    trained = next(task("jsonl:data", few_shot=4, prompt="{question}").problems("train", 0))
    assert trained.messages[-1].content not in {m.content for m in trained.messages[:-1]}
    with pytest.raises(ConfigError, match="of other rows than the test split"):
        list(task("data/test.jsonl", few_shot=1).problems("test", 0))
    with pytest.raises(ConfigError, match="few_shot is 9, and there are 5 other training rows"):
        list(task("jsonl:data", few_shot=9).problems("test", 0))


def test_the_answer_may_be_after_hashes_or_in_a_box() -> None:
    write("hashes.jsonl", [{"question": "?", "answer": "2 + 3 is 5, so\n#### 1,005"}])
    write("boxed.jsonl", [{"question": "?", "answer": "We get $\\boxed{\\frac{1}{2}}$."}])
    assert [p.reference.value for p in problems("hashes.jsonl", extract="hashes").values()] == [1005]
    assert [p.reference.text for p in problems("boxed.jsonl", extract="boxed").values()] == ["\\frac{1}{2}"]
    with pytest.raises(DataError, match=r"boxed.jsonl, line 1 has no answer after ####"):
        problems("boxed.jsonl", extract="hashes")
    with pytest.raises(DataError, match=r"hashes.jsonl, line 1 has no boxed answer"):
        problems("hashes.jsonl", extract="boxed")


# --- graders -------------------------------------------------------------------------------------------------------


def test_exact_answers() -> None:
    write("words.jsonl", [{"id": "a", "question": "Say ok.", "answer": "ok"}])
    assert evaluate("words.jsonl", "ok ", grader="exact") == {"a": "correct"}
    assert problems("words.jsonl", grader="exact").keys() == {"Say ok."}


def test_choices_are_lettered_and_the_answer_is_a_letter_a_number_or_a_text() -> None:
    options = ["red", "green", "blue"]
    rows = [
        {"id": str(answer), "question": f"Which, {answer}?", "choices": options, "answer": answer}
        for answer in ("B", 1, "green")
    ]
    write("colours.jsonl", [*rows, {"id": "hub", "question": "x", "choices": {"text": options}, "answer": "(b)"}])
    found = problems("colours.jsonl", grader="choice")
    assert {p.reference.letter for p in found.values()} == {"B"}
    assert all("A) red\nB) green\nC) blue" in text and "LETTER is one of ABC." in text for text in found)
    assert set(evaluate("colours.jsonl", "Answer: B", grader="choice").values()) == {"correct"}
    assert set(evaluate("colours.jsonl", "Answer: C", grader="choice", out="other").values()) == {"incorrect"}


def test_programs_with_stdin_pairs_and_functions() -> None:
    write(
        "code.jsonl",
        [
            {"id": "p", "question": "Double it.", "tests": [{"input": "2\n", "output": "4\n"}]},
            {"id": "f", "question": "Double it.", "tests": {"fn_name": "double", "inputs": ["3"], "outputs": ["6"]}},
        ],
    )
    script = "```python\nprint(2 * int(input()))\n```"
    function = "```python\ndef double(n):\n    return 2 * n\n```"
    assert evaluate("code.jsonl", script, grader="code") == {"p": "correct", "f": "incorrect"}
    assert evaluate("code.jsonl", function, grader="code", out="other") == {"p": "incorrect", "f": "correct"}
    texts = problems("code.jsonl", grader="code")
    assert sum("Read the inputs from stdin" in text for text in texts) == 1
    assert sum("def double(argument_1):" in text for text in texts) == 1


# --- show, validate, train -----------------------------------------------------------------------------------------


def test_show_lists_typed_answers_and_those_that_the_grader_cannot_read(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*SUMS, {"question": "How long?", "answer": "3 cm"}, {"question": "?", "answer": "\\frac{"}]
    assert main(["show", write("mine.jsonl", rows)]) == 0
    text = capsys.readouterr().out
    for line in ("5 rows: 2 integer, 2 expression, 1 text", ": 5  (integer)", ": 3 cm  (integer in cm)"):
        assert line in text
    assert "line 5: the answer '\\\\frac{' is not graded as equal to itself" in text
    assert main(["show", "mine.jsonl", "--problem", "0", "--set", "prompt='Do: {question}'"]) == 0
    assert "[user]\nDo: " in capsys.readouterr().out
    assert main(["validate", write("good.jsonl", SUMS)]) == 0
    assert main(["show", "jsonl"]) == 0


def test_own_rows_are_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    write("data/train.jsonl", [{"question": f"{n} + 1 =", "answer": n + 1} for n in range(8)])
    write("data/test.jsonl", SUMS)
    command = ["train", "countdown-grpo", "--out", "run", "--quiet", "--set", "task={id='jsonl', path='data'}"]
    settings = ["loop.steps=1", "loop.prompts_per_step=2", "loop.samples_per_prompt=2", "sampling.max_tokens=4"]
    assert main([*command, *(part for setting in settings for part in ("--set", setting))]) == 0, capsys.readouterr()
    assert RunReader.read(Path("run")).record.data["jsonl"]["rows"] == 8


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"question": "?"}, {}, "line 2 has no column 'answer'; it has question"),
        ({"question": "?", "answer": None}, {}, "line 2 has null for 'answer', which must be text or a number"),
        ({"question": "?", "answer": True}, {}, "line 2 has true for 'answer'"),
        ({"question": " ", "answer": 1}, {}, "line 2 has an empty 'question'"),
        (
            {"question": "What is 2 + 3?", "answer": 1},
            {},
            "line 1 has too; .*question, which occurs twice",
        ),
        ({"question": "?", "answer": "9" * 5000}, {}, "line 2: the reference answer '9+' can't be used"),
        (
            {"question": "?", "answer": "D", "choices": ["x", "y"]},
            {"grader": "choice"},
            "needs 'choices', a list",
        ),
        ({"question": "?", "answer": 1}, {"prompt": "gone"}, "there is no prompt 'gone' for the grader math"),
        ({"question": "?", "answer": 1}, {"few_shot": -1}, "few_shot must not be negative"),
        ({"question": "?", "answer": 1}, {"rows": "errata"}, "your own rows have none"),
        ({"question": "?", "answer": 1}, {"grader": "judge"}, "'grader'"),
    ],
)
def test_a_bad_row_or_option_is_refused(row: dict[str, Any], options: dict[str, Any], message: str) -> None:
    write("mine.jsonl", [SUMS[0], row])
    with pytest.raises(UsageError, match=message):
        problems("mine.jsonl", **options)


@pytest.mark.parametrize(
    ("row", "grader", "message"),
    [
        ({"choices": ["x", "y"], "answer": "D"}, "choice", "line 1 has the answer 'D', which is neither a letter"),
        ({"choices": "x, y", "answer": "A"}, "choice", "line 1 has a 'choices' that is text and not JSON"),
        ({"tests": ["assert f(1) == 2"]}, "code", "line 1 has tests that are not pairs"),
        ({"tests": []}, "code", "line 1 needs 'tests'"),
        ({"tests": [{"input": "1"}]}, "code", "line 1 can't be read"),
    ],
)
def test_bad_options_and_tests_are_refused(row: dict[str, Any], grader: str, message: str) -> None:
    write("mine.jsonl", [{"question": "?", **row}])
    with pytest.raises(DataError, match=message):
        problems("mine.jsonl", grader=grader)


def test_ids_that_occur_twice_and_absent_files_are_refused() -> None:
    write("mine.jsonl", [{"id": 1, **SUMS[0]}, {"id": "1", **SUMS[1]}])
    with pytest.raises(DataError, match=r"line 2 has the id '1', which .*line 1 has too; ids must differ$"):
        problems("mine.jsonl")
    with pytest.raises(DataError, match=r"absent.jsonl does not exist"):
        problems("absent.jsonl")
    write("folder/one.jsonl", SUMS)
    write("folder/two.jsonl", SUMS)
    with pytest.raises(DataError, match=r"no data file with train, validation or test in its name; it has one.jsonl"):
        problems("jsonl:folder")
    with pytest.raises(ConfigError, match="names no data"):
        problems("jsonl")
    with pytest.raises(ConfigError, match="has a path already"):
        problems("folder/one.jsonl", path="other")


# --- the hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Any:
    with running_hub() as server:
        yield server


def on_hub(hub: Hub, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, since the hub's client reads its address once."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_data_set_of_the_hub_is_pinned_to_its_commit(hub: Hub, folder: Path) -> None:
    rows = {"train": SUMS[:1], "test": SUMS}
    for split, some in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        hub.files[f"me/sums/data/{split}-00000-of-00001.jsonl"] = text.encode()
    hub.files["me/sums/README.md"] = b"# sums\n"
    command = ["eval", "countdown-tiny", "--tasks", "hub:me/sums", "--engine", "scripted", "--n", "1", "--quiet"]
    command += ["--set", 'engine.replies=["\\\\boxed{5}"]', "--out", "run"]
    done = on_hub(hub, folder, *command)
    assert done.returncode == 0, done.stderr
    facts = RunReader.read(folder / "run").record.data["hub:me/sums"]
    assert facts["source"] == f"me/sums at {COMMIT}" and facts["rows"] == 3
    hub.refuses = (501, "", "down")  # the client repeats a request after 500, for half a minute
    assert on_hub(hub, folder, *command).returncode == 0  # from the listing and the cache
    shown = on_hub(hub, folder, "show", "hub:me/sums", "--split", "train")
    assert "1 rows: 1 integer" in shown.stdout or shown.returncode == 2  # the train file was not fetched


def test_data_sets_that_the_hub_does_not_have_are_refused(hub: Hub, folder: Path) -> None:
    hub.files["me/parts/one/test.jsonl"] = hub.files["me/parts/two/test.jsonl"] = b'{"question": "?", "answer": 1}\n'
    hub.files["me/code/load.py"] = b""
    for name, message in {
        "hub:me/none": "does not exist or is not visible",
        "hub:me/parts": "has several subsets; set subset to one of one, two",
        "hub:me/code": "has no JSONL, JSON, CSV or parquet file; it has load.py",
        "hub:me": "a data set of the hub is hub:owner/name",
    }.items():
        done = on_hub(hub, folder, "show", name)
        assert done.returncode == 2 and message in done.stderr, (name, done.stderr)
    hub.url, url = "http://127.0.0.1:9", hub.url  # where nobody listens
    done = on_hub(hub, folder, "show", "hub:me/other")
    assert done.returncode == 2 and "the hub did not list the files of me/other (" in done.stderr, done.stderr
    hub.url = url
    done = on_hub(hub, folder, "show", "hub:me/parts", "--set", "subset=two")
    assert done.returncode == 0 and "1 rows: 1 integer" in done.stdout, done.stderr


def test_a_data_set_in_the_mirror_needs_no_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("mirror/me/sums/test.jsonl", SUMS)
    monkeypatch.setenv("HARNESS_DATA_DIR", str(folder / "mirror"))
    assert len(problems("hub:me/sums")) == 3
