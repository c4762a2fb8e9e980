"""OlymMATH, MATH-Perturb, IMO-AnswerBench, MathArena's sets and AMO-Bench: rows, variants, and who can grade them."""

import json
import os

import pytest

from harness.core import config as configs
from harness.core.errors import ConfigError, DataError, UnknownNameError
from harness.graders.judge import JudgeGrader
from harness.graders.math import MathGrader
from harness.tasks import matharena

needs_data = pytest.mark.skipif(not os.environ.get("HARNESS_DATA_DIR"), reason="HARNESS_DATA_DIR is not set")


def task(name, **settings):
    return configs.parse_plugin("tasks", {"id": name, **settings}).build()


def problems(name, **settings):
    return {problem.id: problem for problem in task(name, **settings).problems("test", seed=0)}


def rows(name, **settings):
    return {row.id: row for row in task(name, **settings)._read("test")[0]}


EDITIONS = [
    *(
        {"id": "olymmath", "language": language, "level": level}
        for language in ("en", "zh")
        for level in ("easy", "hard")
    ),
    *({"id": "math_perturb", "variant": variant} for variant in ("hard", "simple", "original")),
    {"id": "imo_answerbench"},
]


@needs_data
@pytest.mark.parametrize("settings", EDITIONS, ids=lambda settings: "-".join(settings.values()))
def test_the_file_matches_its_recorded_fingerprint(settings):
    loaded = configs.parse_plugin("tasks", settings).build().loaded("test")
    assert loaded.is_as_expected
    assert loaded.n_rows == {"olymmath": 100, "math_perturb": 279, "imo_answerbench": 400}[settings["id"]]


# --- OlymMATH -----------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("level", ["easy", "hard"])
def test_olymmath_has_the_same_answers_in_both_languages(level):
    english, chinese = (rows("olymmath", language=language, level=level) for language in ("en", "zh"))
    assert [key.removesuffix("-EN") for key in english] == [key.removesuffix("-ZH") for key in chinese]
    assert [row.answer for row in english.values()] == [row.answer for row in chinese.values()]


@needs_data
def test_olymmath_asks_in_the_language_of_the_problems():
    asked = next(iter(problems("olymmath", language="zh", prompt="olymmath-zh").values())).messages
    assert asked[-1].content.startswith("请逐步推理，并在 \\boxed{} 内给出您的最终答案。\n\n")


# --- MATH-Perturb -------------------------------------------------------------------------------------------------


@needs_data
def test_the_variants_of_math_perturb_pair_by_id_and_differ_in_text():
    original, simple, hard = (rows("math_perturb", variant=variant) for variant in ("original", "simple", "hard"))
    assert original.keys() == simple.keys() == hard.keys()
    assert all(len({original[key].problem, simple[key].problem, hard[key].problem}) == 3 for key in original)
    for key in original:
        assert dict(original[key].tags) == dict(simple[key].tags) == dict(hard[key].tags), key


@needs_data
def test_a_pair_and_its_original_as_read_by_hand():
    original = rows("math_perturb", variant="original")
    assert original["2676"].problem == "Compute $29^{13} - 5^{13}$ modulo 7."
    assert original["2099"].problem == "Factor $36-9x^2$."
    assert original["1209"].problem == "If $x-y=6$ and $x^2+y^2=24$, find $x^3-y^3$."


def test_originals_missing_from_the_file_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    from pyarrow import Table, parquet

    row = {"problem": "1+1", "level": "Level 5", "type": "Algebra", "solution": "\\boxed{2}"}
    (tmp_path / "math").mkdir()
    parquet.write_table(Table.from_pylist([row]), tmp_path / "math/ngrpo_math_test.parquet")
    verl = {
        "prompt": [{"content": "1+2"}],
        "reward_model": {"ground_truth": {"solution": "\\boxed{3}"}},
        "level": "Level 5",
        "type": "Algebra",
    }
    parquet.write_table(Table.from_pylist([verl]), tmp_path / "math/ngrpo_math_train.parquet")
    with pytest.raises(DataError, match="lacks the problem of MATH that pair 1 was made from"):
        rows("math_perturb", variant="original")


# --- IMO-AnswerBench ----------------------------------------------------------------------------------------------


@needs_data
def test_a_judge_is_asked_about_all_answers_and_rules_about_those_they_can_decide():
    by_rules, by_judge = task("imo_answerbench"), task("imo_answerbench", graded_by="judge")
    assert isinstance(by_rules.grader, MathGrader)
    assert isinstance(by_judge.grader, JudgeGrader)
    decided = {problem.id for problem in by_rules.problems("test", 0)}
    every = {problem.id for problem in by_judge.problems("test", 0)}
    assert (len(decided), len(every)) == (357, 400)
    assert "algebra-051" in every - decided  # odd $n$


@needs_data
def test_the_row_whose_columns_are_shifted_is_read_as_meant():
    row = rows("imo_answerbench")["algebra-036"]
    assert row.answer == "$Y(x)=A+\\frac{B}{x}-x$"
    assert row.problem.startswith("Find all functions $Y")
    assert row.problem.endswith("\\]")
    assert row.tags["subject"] == "Algebra"


# --- sets that are on the hub alone, with made-up rows ------------------------------------------------------------


def write_parquet(folder, name, records):
    from pyarrow import Table, parquet

    path = folder / name
    path.parent.mkdir(parents=True)
    parquet.write_table(Table.from_pylist(records), path)


def test_a_competition_of_matharena_is_asked_with_its_instruction(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    records = [{"problem_idx": n, "problem": f"What is {n}/3?", "answer": f"\\frac{{{n}}}{{3}}"} for n in (1, 2)]
    write_parquet(tmp_path, "MathArena/cmimc_2025/data/train-00000-of-00001.parquet", records)
    found = problems("matharena:cmimc_2025")
    assert found.keys() == {"1", "2"}
    assert found["2"].task == "matharena:cmimc_2025"
    assert found["2"].messages[-1].content.startswith("Please reason step by step")
    assert found["2"].messages[-1].content.endswith("\\boxed{your final answer}.\n\nWhat is 2/3?")
    assert found["2"].reference.text == "\\frac{2}{3}"


def test_every_competition_of_matharena_has_a_title_and_a_known_form():
    for name, facts in matharena.sets().items():
        assert facts.keys() <= {"title", "date", "problems", "instruction"}, name
        assert task(f"matharena:{name}").card.title == facts["title"]
        assert task(f"matharena:{name}").card.fingerprint == ""  # no copy was read


def test_matharena_alone_or_an_unknown_competition_is_refused():
    with pytest.raises(ConfigError, match="matharena:hmmt_feb_2026"):
        task("matharena")
    with pytest.raises(UnknownNameError, match="hmmt_feb_2027"):
        task("matharena:hmmt_feb_2027")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("aime26", "MathArena/aime_2026/data/train-00000-of-00001.parquet"),
        ("beyond_aime", "ByteDance-Seed/BeyondAIME/data/test-00000-of-00001.parquet"),
    ],
)
def test_a_set_with_integer_answers_is_read_from_its_columns(name, file, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    write_parquet(tmp_path, file, [{"problem_idx": 5, "problem": "What is 6*7?", "answer": 42}])
    (problem,) = problems(name).values()
    assert problem.reference.value == 42


def test_amo_bench_leaves_descriptions_to_a_judge(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    kinds = {1: ("number", "12"), 2: ("description", "All primes but 2."), 3: ("set", "\\{1, 2\\}")}
    records = [
        {"question_id": key, "prompt": f"Question {key}", "answer": answer, "answer_type": kind}
        for key, (kind, answer) in kinds.items()
    ]
    write_parquet(tmp_path, "meituan-longcat/AMO-Bench/data/test-00000-of-00001.parquet", records)
    assert problems("amo_bench").keys() == {"1", "3"}
    assert problems("amo_bench", graded_by="judge").keys() == {"1", "2", "3"}


def test_a_file_of_another_form_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    path = tmp_path / "olymmath/OlymMATH-EN-HARD.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"problem": "1+1", "answer": "2"}) + "\n")
    with pytest.raises(DataError, match="has no field 'subject'"):
        problems("olymmath")
