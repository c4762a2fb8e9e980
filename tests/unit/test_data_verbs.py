"""The verbs on data: what fetch, validate, overlap, show and eval say of rows, and with which exit code they end."""

import json
from pathlib import Path

import pytest
from official_shapes import wiki, write

from harness.cli import main
from harness.core import config as configs
from harness.core.store import RunView
from harness.core.task_facts import MOST_NAMED, doubt, task_facts
from harness.core.types import LoadedData

AIME = "aime24/qwen25math_aime24_test.jsonl"


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    """A mirror with a few rows in it, a folder to work in, and no network."""
    from huggingface_hub import constants

    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "mirror"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    rows = [
        {"problem": f"What is ${n} + {n}$?", "answer": f"{2 * n:03d}", "url": wiki(2024, "AIME_I", n)} for n in (1, 2)
    ]
    write(tmp_path / "mirror" / AIME, rows)
    return tmp_path / "mirror"


def output(capsys, *command, code=0):
    assert main(command) == code
    return capsys.readouterr()


def tables(capsys, *command, code=0):
    return json.loads(output(capsys, *command, "--json", "--quiet", code=code).out)


# --- fetch ------------------------------------------------------------------------------------------------------


def test_fetch_reads_and_compares_every_split(mirror, capsys):
    for split, n in (("train", 3), ("test", 2)):
        rows = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(n)]
        write(mirror / f"gsm8k/openai_{split}.jsonl", rows)
    aime, gsm8k = tables(capsys, "fetch", "aime24", "gsm8k")
    assert [(row["split"], row["rows"]) for row in gsm8k["rows"]] == [("train", 3), ("test", 2)]
    assert aime["rows"][0]["as on record"].startswith(
        "30 of the test rows are not those on record (2024-I-1: altered; "
    )


def test_fetch_of_a_task_without_files_is_refused(capsys):
    assert "countdown makes its problems itself" in output(capsys, "fetch", "countdown", code=2).err


@pytest.mark.parametrize("verb", ["fetch", "validate"])
def test_an_unknown_task_is_refused_before_the_first_is_read(mirror, capsys, verb):
    (mirror / AIME).unlink()
    assert "no task is called 'aime42'" in output(capsys, verb, "aime24", "aime42", code=2).err


def test_fetch_of_a_damaged_mirror_says_which_file(mirror, capsys):
    (mirror / AIME).write_text('{"problem": "p", "answ')
    said = output(capsys, "fetch", "aime24", "--quiet", code=2).err
    assert str(mirror / AIME) in said
    assert "mend the mirror" in said


# --- validate ---------------------------------------------------------------------------------------------------


def test_validate_ends_well_when_every_verdict_is_as_known(capsys):
    (found,) = tables(capsys, "validate", "aime24")
    assert {row["specimen"] for row in found["rows"]} > {"the reference", "an empty reply", "one more"}
    assert all(row["graded"] == row["as known"] == 2 for row in found["rows"])


def test_validate_fails_and_lists_what_is_judged_otherwise(capsys, monkeypatch):
    from harness.core.types import Specimen
    from harness.tasks import _maths

    truth = _maths.specimens
    monkeypatch.setattr(
        _maths, "specimens", lambda reference: [*truth(reference), Specimen("a lie", "Answer: 3", "correct")]
    )
    _, surprises = tables(capsys, "validate", "aime24", code=1)
    assert {row["problem"] for row in surprises["rows"]} == {"2024-I-1", "2024-I-2"}
    assert {(row["specimen"], row["verdict"]) for row in surprises["rows"]} == {("a lie", "incorrect")}


def test_validate_says_so_when_something_can_not_be_graded(mirror, capsys):
    write(mirror / "simpleqa/simple_qa_test_set.csv", [{"metadata": "{}", "problem": "Who?", "answer": "Ada"}])
    _, surprises = tables(capsys, "validate", "simpleqa", code=3)
    assert {row["verdict"] for row in surprises["rows"]} == {"ungraded"}


def test_validate_of_a_limited_training_split(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(9)])
    (found,) = tables(capsys, "validate", "gsm8k", "--split", "train", "--limit", "4")
    assert {row["graded"] for row in found["rows"] if row["specimen"] == "the reference"} == {4}
    assert "set a limit" in output(capsys, "validate", "gsm8k", "--split", "train", code=2).err


# --- overlap ----------------------------------------------------------------------------------------------------


def test_overlap_lists_the_pairs(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": "what is 2  + 2", "answer": "#### 4"}])
    counts, found = tables(capsys, "overlap", "gsm8k", "aime24")
    assert [tuple(row.values()) for row in counts["rows"]] == [("gsm8k", "aime24", 2, 1, 0)]
    assert [tuple(row.values()) for row in found["rows"]] == [("2024-I-2", "train-0", "same", 1.0)]


def test_overlap_of_nothing_lists_no_pairs(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": "what is 3 + 3", "answer": "#### 6"}])
    (counts,) = tables(capsys, "overlap", "gsm8k", "aime24")
    assert [tuple(row.values()) for row in counts["rows"]] == [("gsm8k", "aime24", 2, 0, 0)]


def test_overlap_of_two_splits_of_one_task_tells_their_ids_apart(mirror, capsys):
    for split in ("train", "test"):
        write(mirror / f"gsm8k/openai_{split}.jsonl", [{"question": "what is 2 + 2", "answer": "#### 4"}])
    _, found = tables(capsys, "overlap", "gsm8k", "gsm8k")
    (row,) = found["rows"]
    assert (row["test problem"], row["training problem"]) == ("test-0", "train-0")


def test_overlap_sets_options_of_the_test_task_which_the_training_task_may_lack(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": "what is 2 + 2", "answer": "#### 4"}])
    rows = [{"question": "What is $2 + 2$?", "answer": 4.0, "url": wiki(2022, "AMC_12A", 1)}]
    write(mirror / "amc23/prime_aimo-validation-amc.jsonl", rows)
    _, found = tables(capsys, "overlap", "gsm8k", "amc23", "--set", "edition=2022-2023")
    assert [row["test problem"] for row in found["rows"]] == ["2022-12A-1"]


@pytest.mark.parametrize("near", ["0", "-1", "1.5", "nan", "half"])
def test_overlap_refuses_a_share_that_is_none(capsys, near):
    with pytest.raises(SystemExit, match="2"):
        main(["overlap", "gsm8k", "aime24", "--near", near])
    assert "--near" in capsys.readouterr().err


# --- show -------------------------------------------------------------------------------------------------------


def test_show_prints_the_card_the_files_the_prompts_and_the_errata(capsys):
    said = output(capsys, "show", "minerva").out
    for part in ("svc-huggingface/minerva-math/test.jsonl", "126: the box has a plus", "qwen-math: Qwen2.5-Math's"):
        assert part in said


@pytest.mark.parametrize("preset", ["flowrl", "qwen-math", "deepseek-r1", "simple"])
def test_show_prints_a_problem_as_a_preset_asks_it(capsys, preset):
    said = output(capsys, "show", "aime24", "--problem", "1", "--preset", preset).out
    task = configs.parse_plugin("tasks", {"id": "aime24", "prompt": preset}).build("tasks")
    problem = list(task.problems("test", 0))[1]
    asked = "\n\n".join(f"[{message.role}]\n{message.content}" for message in problem.messages)
    assert f"problem {problem.id} ()\n\n{asked}\n\n[reference]" in said


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (["--problem", "2"], "no problem number 2"),
        (["--problem", "-1"], "counted from 0"),
        (["--problem", "0", "--split", "train"], "no train split"),
        (["--problem", "0", "--preset", "qwen"], "there is flowrl, qwen-math"),
    ],
)
def test_show_refuses_what_is_not_there(capsys, command, match):
    assert match in output(capsys, "show", "aime24", *command, code=2).err


OURS = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}<assistant>"


def model(folder, template):
    """A tokenizer that puts a BOS before every text by itself, with a chat template of ours."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "[UNK]",
        "<s>",
        "</s>",
        "<think>",
        "<user>",
        "<system>",
        "<assistant>",
        "What",
        "is",
        "+",
        "?",
        "1",
        "2",
        "4",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="[UNK]",
        additional_special_tokens=["<think>"],
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


@pytest.mark.parametrize(
    ("template", "bos", "reasoning"),
    [
        (OURS, "0", "left to the model"),
        ("{{ bos_token }}" + OURS, "1", "left to the model"),
        ("{{ bos_token }}{{ bos_token }}" + OURS, "2 (one too many)", "left to the model"),
        ("{{ bos_token }}" + OURS + " <think>\n", "1", "opened by the template"),
    ],
)
def test_show_prints_a_problem_as_a_models_template_writes_it(tmp_path, capsys, template, bos, reasoning):
    path = model(tmp_path / "model", template)
    said = output(capsys, "show", "aime24", "--problem", "0", "--preset", "qwen-math", "--model", path).out
    facts = dict(line.strip().split(": ", 1) for line in said.partition("about it:\n")[2].splitlines()[:4])
    assert facts["leading BOS tokens"] == bos
    assert facts["reasoning"] == reasoning
    assert facts["system message"] == "the task's"
    written = said.partition("reads it]\n")[2].partition("\n\nabout it")[0]
    assert written.count("<s>") == int(bos[0])
    assert len(written.split()) == int(facts["tokens"])


# --- eval -------------------------------------------------------------------------------------------------------

EVAL = ["eval", "countdown-tiny", "--tasks", "aime24", "--n", "1", "--quiet", "--set"]
ENGINE = 'engine={id="scripted", replies=["\\\\boxed{2}"]}'


def test_a_run_keeps_what_its_rows_were_and_says_that_they_differ(capsys, mirror, tmp_path):
    said = output(capsys, *EVAL, ENGINE, "--out", "run").err
    assert said.startswith("warning: ") and "30 of the test rows are not those on record (2024-I-1: altered" in said
    facts = RunView.read(tmp_path / "work" / "run").record.data["aime24"]
    task = configs.parse_plugin("tasks", {"id": "aime24"}).build("tasks")
    loaded = task.loaded("test")
    assert facts["fingerprint"] == loaded.fingerprint != facts["expected_fingerprint"] == loaded.expected
    assert facts["rows"] == 2
    assert facts["files"] == [str(mirror / AIME)]
    assert facts["differing_rows"] == list(loaded.differing[:MOST_NAMED])


def test_the_report_of_a_run_says_whether_its_rows_were_those_on_record(capsys):
    output(capsys, *EVAL, ENGINE, "--out", "run")
    output(capsys, "report", "run", "--table", "protocol")
    report = Path("report/report.md").read_text()
    assert "| data rows | 2 |" in report
    assert "| data as on record | 30 of the test rows are not those on record (2024-I-1: altered; " in report


@pytest.mark.parametrize("strict", [["--strict-data"], ["--set", "strict_data=true"]])
def test_strict_data_refuses_them_and_writes_nothing(capsys, tmp_path, strict):
    said = output(capsys, *EVAL, ENGINE, *strict, "--out", "run", code=2).err
    assert "30 of the test rows are not those on record" in said
    assert "strict_data refuses them" in said
    assert list((tmp_path / "work").iterdir()) == []


def test_a_run_begun_with_other_rows_is_not_gone_on_with(capsys, mirror):
    output(capsys, *EVAL, ENGINE, "--out", "run")
    path = mirror / AIME
    path.write_text(path.read_text().replace("004", "005"))
    assert "other data" in output(capsys, *EVAL, ENGINE, "--out", "run", code=2).err


def test_rows_as_on_record_are_not_doubted_and_rows_never_seen_are():
    as_expected = LoadedData("test", 2, "f", "f")
    assert doubt(as_expected) is None
    assert "never seen" in doubt(LoadedData("test", 2, "f", ""))
    many = tuple(f"{n}: altered" for n in range(9))
    assert doubt(LoadedData("test", 2, "f", "g", many)).endswith("(0: altered; 1: altered; 2: altered ...)")


def test_a_task_without_files_has_no_facts_of_files():
    task = configs.parse_plugin("tasks", {"id": "countdown"}).build("tasks")
    assert "files" not in task_facts(task, "test", grader="countdown", is_strict=True, warn=print)
