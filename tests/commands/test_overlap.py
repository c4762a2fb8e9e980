"""Overlap of data sets: against the definition computed without an index, and what makes two texts differ."""

import random

import pytest
from command_output import tables
from official_shapes import wiki, write

from harness.cli import main
from harness.commands.overlap import RUN, Pair, find_pairs, pairs_table, statements, summary_row, tokens
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.runs.folder import RunIdentity, RunWriter

BASE = r"Let $x$ and $y$ be real numbers with $x + y = 12$ and $xy = -35$. Find $x^2 + y^2$ and \frac{1}{x} in full."


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace(" ", "  \n"),
        BASE.upper().replace("\\FRAC", "\\frac"),
        BASE.replace("\\frac", "\\dfrac"),
        BASE.replace("$", ""),
        BASE.replace("$x$", "\\( x \\)"),
        BASE.replace("real", "\\textbf{real}").replace("Find", "\\text{Find}"),
        BASE.replace("= -35", "=\\,-35").replace("x^2", "{x}^{2}"),
        BASE.replace(". Find", "; find"),
        BASE.replace("$x + y", "$\\left. x + y").replace("\\left. ", "\\left "),
    ],
)
def test_overlap_ignores_spacing_case_and_typesetting(same):
    assert find_pairs([("train", same)], [("test", BASE)]) == [Pair("test", "train", 1.0, True)]


@pytest.mark.parametrize(
    ("old", "new"),
    [("-35", "35"), ("12", "13"), ("x + y", "x - y"), ("x^2", "x^3"), ("= 12", "> 12"), ("frac{1}", "frac{2}")],
)
def test_overlap_distinguishes_problems_by_a_sign_or_digit(old, new):
    (pair,) = find_pairs([("train", BASE.replace(old, new))], [("test", BASE)], near=0.3)
    assert not pair.is_exact
    assert pair.share < 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"a \leftarrow b", r"a \rightarrow b"),
        (r"\textbf{a}", r"bf a"),
        (r"\mathring{a}", r"\mathrm{ing} a"),
        (r"a \leq b", r"a \geq b"),
        (r"\quadratic", "ratic"),
    ],
)
def test_overlap_treats_a_latex_command_as_one_token(one, other):
    assert tokens(one) != tokens(other)


def brute_force(train, test, near):
    """The definition, pair by pair."""
    pairs = []
    for test_id, test_text in test:
        found = []
        for train_id, train_text in train:
            a, b = tokens(test_text), tokens(train_text)
            runs = {a[i : i + RUN] for i in range(len(a) - RUN + 1)}
            others = {b[i : i + RUN] for i in range(len(b) - RUN + 1)}
            share = len(runs & others) / len(runs) if runs else 0.0
            if a == b:
                found.append(Pair(test_id, train_id, 1.0, True))
            elif share and share >= near:
                found.append(Pair(test_id, train_id, share, False))
        pairs += sorted(found, key=lambda pair: (-pair.share, pair.train_id))
    return pairs


@pytest.mark.parametrize("near", [0.1, 0.5, 0.9, 1.0])
def test_overlap_pairs_and_shares_equal_brute_force(near):
    generator = random.Random(0)
    words = ["find", "the", "sum", "-", "3", "17", "+", "x"]
    texts = [" ".join(generator.choices(words, k=generator.randint(5, 30))) for _ in range(12)]

    def spoilt(text):
        parts = text.split()
        for _ in range(generator.randint(0, 3)):
            parts[generator.randrange(len(parts))] = generator.choice(words)
        return " ".join(parts)

    train = [(f"train-{n}", spoilt(generator.choice(texts))) for n in range(60)]
    test = [(f"test-{n}", text) for n, text in enumerate(texts)]
    found = find_pairs(train, test, near=near)
    assert found == brute_force(train, test, near)
    assert any(pair.is_exact for pair in found)
    assert near == 1.0 or any(not pair.is_exact for pair in found)


def test_a_run_that_the_training_problem_repeats_counts_once():
    text = "one two three four five six seven eight nine ten"
    (pair,) = find_pairs([("train", f"{text[:-3]} {text[:-3]}")], [("test", text)], near=0.1)
    assert pair.share == 2 / 3


def test_overlap_compares_short_texts_for_equality_alone():
    train = [("a", "2 + 2"), ("b", "2 + 3")]
    assert find_pairs(train, [("t", "2+2")]) == [Pair("t", "a", 1.0, True)]


def test_overlap_counts_a_test_problem_once_and_as_equal_if_it_is():
    pairs = [Pair("t1", "a", 1.0, True), Pair("t1", "b", 0.6, False), Pair("t2", "b", 0.6, False)]
    assert summary_row("train", "test", 9, pairs) == ("train", "test", 9, 1, 1)
    assert pairs_table(pairs, "test").rows[1] == ("t1", "b", "near", 0.6)


def test_overlap_of_a_task_without_files_is_refused():
    with pytest.raises(ConfigError, match="countdown makes its problems itself"):
        statements("countdown", parse_plugin("tasks", "countdown").build(), "train")


# --- the command ------------------------------------------------------------------------------------------------


def test_overlap_lists_the_pairs(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": "what is 2  + 2", "answer": "#### 4"}])
    counts, found = tables(capsys, "overlap", "gsm8k", "aime24")
    assert [tuple(row.values()) for row in counts["rows"]] == [("gsm8k", "aime24", 2, 1, 0)]
    assert [tuple(row.values()) for row in found["rows"]] == [("2024-I-2", "train-0", "same", 1.0)]


def test_overlap_of_nothing_lists_no_pairs(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": "what is 3 + 3", "answer": "#### 6"}])
    (counts,) = tables(capsys, "overlap", "gsm8k", "aime24")
    assert [tuple(row.values()) for row in counts["rows"]] == [("gsm8k", "aime24", 2, 0, 0)]


def test_overlap_of_two_splits_of_one_task_distinguishes_their_ids(mirror, capsys):
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
def test_overlap_refuses_a_share_out_of_range(capsys, near):
    with pytest.raises(SystemExit, match="2"):
        main(["overlap", "gsm8k", "aime24", "--near", near])
    assert "--near" in capsys.readouterr().err


def test_overlap_takes_several_test_sets_and_sums_them_up_in_one_table(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": "what is 2  + 2", "answer": "#### 4"}])
    write(mirror / "gsm8k/openai_test.jsonl", [{"question": "what is 3 + 2", "answer": "#### 5"}])
    counts, found = tables(capsys, "overlap", "gsm8k", "gsm8k", "aime24")
    assert [(row["test set"], row["same"]) for row in counts["rows"]] == [("gsm8k", 0), ("aime24", 1)]
    assert found["title"] == "Pairs of aime24"


def train_run(folder, sampled=()):
    store = RunWriter.open(folder, RunIdentity.of("train", {"task": {"id": "gsm8k"}}, seeds={"run": 0}, data={}))
    store.finish("done")
    if sampled:
        rows = [{"begin": 1}, *({"problem_id": key} for key in sampled), {"end": 1}]
        write(folder / "rollouts.jsonl", rows)
    return str(folder)


def test_overlap_of_a_training_run_is_that_of_its_data(mirror, capsys, tmp_path):
    rows = [{"question": "what is 2  + 2", "answer": "#### 4"}, {"question": "what is 3 + 3", "answer": "#### 6"}]
    write(mirror / "gsm8k/openai_train.jsonl", rows)
    counts, _ = tables(capsys, "overlap", train_run(tmp_path / "whole"), "aime24")
    assert counts["rows"][0]["same"] == 1
    (counts,) = tables(capsys, "overlap", train_run(tmp_path / "part", ["train-1"]), "aime24")
    assert counts["rows"][0]["same"] == 0  # only what was sampled counts where rollouts are saved


def test_overlap_of_a_run_that_is_not_a_training_is_refused(mirror, capsys, tmp_path):
    RunWriter.open(tmp_path / "run", RunIdentity.of("eval", {"tasks": []}, seeds={"run": 0}, data={})).finish("done")
    assert main(["overlap", str(tmp_path / "run"), "aime24"]) == 2
    assert "is not a training run" in capsys.readouterr().err
