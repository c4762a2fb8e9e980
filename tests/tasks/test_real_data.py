"""The real files, where HARNESS_DATA_DIR has them: counts, fingerprints, and every known discrepancy between copies."""

import collections
import csv
import gzip
import json
import os
import re
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.core import config as configs
from harness.data.files import checksum
from harness.graders.math.reference import typed_reference
from harness.tasks import math as math_task
from harness.tasks.minerva.answers import RLLM_ANSWERS

pytestmark = pytest.mark.skipif(not os.environ.get("HARNESS_DATA_DIR"), reason="HARNESS_DATA_DIR is not set")


def there(path):
    """A real file; the test is skipped where the mirror has not got it."""
    found = Path(os.environ["HARNESS_DATA_DIR"], path)
    if not found.exists():
        pytest.skip(f"HARNESS_DATA_DIR has no {path}")
    return found


def lines(path):
    found = there(path)
    with gzip.open(found, "rt") if found.suffix == ".gz" else found.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def table(path, columns=None):
    from pyarrow import parquet

    return parquet.read_table(there(path), columns=columns).to_pylist()


def listed(path):
    return json.loads(there(path).read_text(encoding="utf-8"))


def task(name, **settings):
    return configs.parse_plugin("tasks", {"id": name, **settings}).build()


def answers(name, **settings):
    return {row.id: row.answer for row in task(name, **settings)._read("test")[0]}


def value(text):
    return typed_reference(str(text)).value


def folded(text):
    return " ".join(text.split())


# --- counts and fingerprints ------------------------------------------------------------------------------------

# From the reading on record, so that a fingerprint file that was changed by mistake is noticed.
EXPECTED = {
    ("aime24", "test"): 30,
    ("aime25", "test"): 30,
    ("amc23", "test"): 40,
    ("math500", "test"): 500,
    ("minerva", "test"): 272,
    ("olympiadbench", "test"): 675,
    ("gsm8k", "test"): 1319,
    ("gsm8k", "train"): 7473,
    ("math", "train"): 7499,
    ("dapo_math_17k", "train"): 17188,
    ("gpqa", "test"): 198,
    ("simpleqa", "test"): 4326,
}
FILES = {"dapo_math_17k": "dapo_math_17k", "minerva": "minerva_math"}


@pytest.mark.parametrize(("name", "split"), EXPECTED)
def test_every_data_file_matches_its_card(name, split):
    there(FILES.get(name, name))
    loaded = task(name).loaded(split)
    assert loaded.n_rows == EXPECTED[name, split]
    assert loaded.differing == ()
    assert loaded.is_as_expected
    assert all(Path(path).is_relative_to(os.environ["HARNESS_DATA_DIR"]) for path in loaded.files)


@pytest.mark.parametrize(
    ("name", "settings", "n_rows"), [("amc23", {"edition": "2022-2023"}, 83), ("minerva", {"answers": "rllm"}, 272)]
)
def test_every_other_edition_matches_its_recorded_fingerprint(name, settings, n_rows):
    there(FILES.get(name, name))
    loaded = task(name, **settings).loaded("test")
    assert (loaded.n_rows, loaded.differing, loaded.is_as_expected) == (n_rows, (), True)


@pytest.mark.parametrize("name", [name for name, split in EXPECTED if split == "test"])
def test_every_test_problem_has_a_reference_and_a_prompt(name):
    there(FILES.get(name, name))
    problems = list(task(name).problems("test", 0))
    assert len({problem.id for problem in problems}) == EXPECTED[name, "test"]
    assert all(problem.messages[-1].content.strip() for problem in problems)


# --- AIME -------------------------------------------------------------------------------------------------------


def key_of(contest):
    """MathArena's answer key of one contest."""
    with there(contest).open(newline="") as stream:
        return [value(row["answer"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize("year", [24, 25])
def test_aime_agrees_with_mathsarenas_key(year):
    expected = {}
    for part in ("I", "II"):
        key = key_of(f"aime{year}/matharena_20{year}_{part}_answers.csv")
        expected |= {f"20{year}-{part}-{n}": answer for n, answer in enumerate(key, 1)}
    assert {key: value(answer) for key, answer in answers(f"aime{year}").items()} == expected
    assert len(expected) == 30


def test_aime24s_padded_answers_are_read_as_integers():
    padded = [row["answer"] for row in lines("aime24/qwen25math_aime24_test.jsonl")]
    assert sum(answer.startswith("0") and len(answer) == 3 for answer in padded) > 0
    assert sorted(map(int, padded)) == sorted(map(int, answers("aime24").values()))
    for answer in padded:
        assert value(answer) == value(int(answer)) == value(float(answer)) == int(answer)


def test_dapos_aime24_is_the_same_thirty_32_times():
    rows = table("aime24/dapo_aime-2024.parquet")
    by_prompt = collections.defaultdict(list)
    for row in rows:
        by_prompt[row["prompt"][0]["content"]].append(row["reward_model"]["ground_truth"])
    assert len(rows) == 960
    assert {len(group) for group in by_prompt.values()} == {32}
    assert all(len(set(group)) == 1 for group in by_prompt.values())
    found = sorted(value(group[0]) for group in by_prompt.values())
    assert found == sorted(map(value, answers("aime24").values()))


def test_dapo_prompt_equals_the_preset_flowrl():
    asked = {row["prompt"][0]["content"] for row in table("aime24/dapo_aime-2024.parquet")}
    from harness.tasks._base.prompts import MATHS

    before, _, after = MATHS["flowrl"].user.partition("{problem}")
    assert all(text.startswith(before) and text.endswith(after) for text in asked)


def test_the_copies_of_aime25_agree_but_for_order_and_a_degree_sign():
    ours, theirs = lines("aime25/areal_aime25_test.jsonl"), lines("aime25/gift_aime25_test.jsonl")
    written = [row["answer"] for row in theirs]
    assert [answer for answer in written if "circ" in str(answer)] == ["336^\\circ"]
    assert value("336^\\circ") == 336
    in_our_order = [value(answer) for answer in written[15:] + written[:15]]  # II comes first there
    assert in_our_order == [value(row["answer"]) for row in ours]
    assert answers("aime25")["2025-II-5"] == "336"


# --- AMC --------------------------------------------------------------------------------------------------------


def test_the_40_of_amc_are_among_the_83_with_the_same_answers():
    there("amc23")
    forty, all_of_them = answers("amc23"), answers("amc23", edition="2022-2023")
    assert forty.items() <= all_of_them.items()
    assert {key for key in all_of_them if key.startswith("2023")} == forty.keys()


def test_amcs_floats_type_to_integers_where_they_are_some():
    there("amc23")
    kinds = collections.Counter(typed_reference(answer).kind for answer in answers("amc23").values())
    floats = [row["answer"] for row in lines("amc23/qwen25math_amc23_test.jsonl")]
    assert all(isinstance(answer, float) for answer in floats)
    assert kinds["integer"] == sum(answer.is_integer() for answer in floats)
    assert kinds["integer"] + kinds["decimal"] == 40
    assert typed_reference("27.0").value == typed_reference("27").value == Fraction(27)


# --- MATH -------------------------------------------------------------------------------------------------------


def test_math500_is_openais_file_to_the_byte():
    path = there("math500/simplerl_math500_test.jsonl")
    assert path.stat().st_size == 446_564
    assert checksum(path) == "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"


def test_math500_is_part_of_maths_test_set_and_not_of_its_training_set():
    there("math500")
    test = {folded(row["problem"]) for row in table("math/ngrpo_math_test.parquet", ["problem"])}
    mine = {folded(row["problem"]) for row in lines("math500/simplerl_math500_test.jsonl")}
    train = {folded(text) for _, text in task("math").statements("train")}
    assert len(mine) == 500
    assert mine <= test
    assert not mine & train


def test_the_two_copies_of_maths_training_set_have_the_same_problems_and_two_nulls():
    copy = listed("math/rllm_math_train.json")
    ours = {folded(text) for _, text in task("math").statements("train")}
    theirs = {folded(row["problem"]) for row in copy}
    assert len(copy) == 7500
    assert ours == theirs
    assert sum(row["answer"] is None for row in copy) == 2


def test_answers_in_the_copy_of_math_equal_ours():
    theirs = {folded(row["problem"]): row["answer"] for row in listed("math/rllm_math_train.json")}
    differing = [
        (row.id, row.answer, theirs[folded(row.problem)])
        for row in task("math")._read("train")[0]
        if theirs[folded(row.problem)] is not None and squashed(row.answer) != squashed(theirs[folded(row.problem)])
    ]
    assert differing == [(key, "0", "") for key in math_task.UNBOXED]  # the boxes that are empty


def squashed(answer):
    """Blind to spaces and to how a fraction or a sum of money is typeset."""
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    return re.sub(r"\s|\\[,!;]|\\ |[${}]|\\left|\\right|\\text|\\mbox", "", answer)


# --- Minerva ----------------------------------------------------------------------------------------------------


def test_minervas_boxes_are_the_answers_that_limo_extracted():
    theirs = [row["answer"].strip() for row in lines("minerva_math/limo_minerva_test.jsonl")]
    ours = answers("minerva")
    assert [ours[str(number)].strip() for number in range(272)] == theirs


def test_other_minerva_answer_list_differs_in_the_forty_recorded_rows():
    derived = {str(row["idx"]): row for row in lines("minerva_math/gold_disagreements.derived.jsonl")}
    ours, other = answers("minerva"), answers("minerva", answers="rllm")
    assert {key for key in ours if ours[key] != other[key]} == derived.keys() == RLLM_ANSWERS.keys()
    assert len(derived) == 40
    for key, row in derived.items():
        assert ours[key] == row["gold_qwen25math_boxed"]
        assert folded(other[key]) in {folded(str(answer)) for answer in as_list(row["answers_rllm"])}


def test_other_minerva_answer_list_equals_the_shipped_one():
    shipped = {str(row["idx"]): as_list(row["answer"]) for row in listed("minerva_math/rllm_minerva.json")}
    for key, answer in RLLM_ANSWERS.items():
        assert folded(answer) in {folded(str(one)) for one in shipped[key]}, key


def as_list(answers_):
    return answers_ if isinstance(answers_, list) else [answers_]


def test_minerva_quotes_earlier_problems_with_boxes_of_their_own():
    there("minerva_math")
    quoting = [text for _, text in task("minerva").statements("test") if "I hope it is correct" in text]
    assert len(quoting) == 69


def test_minervas_58_measured_references_are_typed_as_such():
    there("minerva_math")
    kinds = collections.Counter(problem.reference.kind for problem in task("minerva").problems("test", 0))
    assert kinds["scientific"] == 58
    assert sum(kinds.values()) == 272


# --- OlympiadBench, GSM8K, DAPO ---------------------------------------------------------------------------------


def test_olympiadbench_row_counts_by_answer_type():
    rows = lines("olympiadbench/qwen25math_olympiadbench_test.jsonl")
    types = collections.Counter(problem.tags["answer_type"] for problem in task("olympiadbench").problems("test", 0))
    assert types == {"Numerical": 572, "Expression": 64, "Tuple": 33, "Interval": 6}
    assert len({row["id"] for row in rows}) == 675
    assert sum(row["is_multiple_answer"] for row in rows) == 94
    assert sum(bool(row["unit"]) for row in rows) == 8
    assert [row["error"] for row in rows if row["error"]] == ["1e-1"]
    references = [problem.reference for problem in task("olympiadbench").problems("test", 0)]
    assert [reference.absolute_tolerance for reference in references if reference.absolute_tolerance] == [0.1]


def test_gsm8ks_answers_are_integers():
    there("gsm8k")
    built = task("gsm8k")
    rows = [row for split in ("train", "test") for row in built._read(split)[0]]
    assert any("," in row.answer for row in rows)
    assert all(re.fullmatch(r"-?\d{1,3}(,\d{3})*|-?\d+", row.answer) for row in rows)
    for row in rows[:200] + [row for row in rows if "," in row.answer]:
        assert typed_reference(row.answer).value == int(row.answer.replace(",", ""))


def test_dapos_repeats_and_contradictions_match_the_card():
    rows = table("dapo_math_17k/svs_dapo_math_17k.parquet", ["prompt", "reward_model"])
    pairs = [(row["prompt"][0]["content"], row["reward_model"]["ground_truth"]) for row in rows]
    assert (len(pairs), len({prompt for prompt, _ in pairs})) == (17_917, 17_290)
    assert all(re.fullmatch(r"-?\d+", answer) for _, answer in pairs)
    found = collections.defaultdict(list)
    for prompt, answer in pairs:
        if answer not in found[folded(prompt)]:
            found[folded(prompt)].append(answer)
    assert len(found) == 17_188
    contradicted = {text: tuple(several) for text, several in found.items() if len(several) > 1}
    built = task("dapo_math_17k", rows="errata")
    assert {folded(text) for _, text in built.statements("train")} == contradicted.keys()
    first = {folded(row.problem): row.answer for row in built._read("train")[0]}
    assert all(several[0] == first[text] for text, several in contradicted.items())
    reasons = {erratum.problem_id: erratum.reason for erratum in built.card.errata}
    for row in built._read("train")[0]:
        if row.id in reasons:
            assert " and ".join(contradicted[folded(row.problem)]) in reasons[row.id]


# --- questions --------------------------------------------------------------------------------------------------


def test_gpqas_options_are_four_and_different():
    there("gpqa/gpqa_diamond.csv")
    problems = list(task("gpqa").problems("test", 0))
    letters = collections.Counter(problem.reference.letter for problem in problems)
    assert set(letters) == set("ABCD")
    assert max(letters.values()) < 75  # a fair shuffle: 49.5 expected, four deviations above
    assert all(len(problem.reference.options) == 4 for problem in problems)


# --- programs ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("harness.tasks.livecodebench") is None, reason="no task livecodebench")
@pytest.mark.parametrize(
    ("settings", "n_rows"),
    [({}, 1055), ({"release": "release_v5"}, 880), ({"release": "v6"}, 175), ({"window": "flowrl"}, 279)],
)
def test_livecodebench_problem_counts_by_release_and_window(settings, n_rows):
    there("livecodebench")
    loaded = task("livecodebench", **settings).loaded("test")
    assert loaded.n_rows == n_rows
    assert loaded.is_as_expected, loaded.differing[:3]


def test_livecodebench_platforms_dates_and_missing_tests_are_as_recorded():
    rows = lines("livecodebench/lcb_v5_problems.derived.jsonl")
    assert collections.Counter(row["platform"] for row in rows) == {"atcoder": 490, "leetcode": 381, "codeforces": 9}
    dates = sorted(row["contest_date"][:10] for row in rows)
    assert (dates[0], dates[-1]) == ("2023-05-07", "2025-01-04")
    assert sum("2024-08-01" <= date <= "2025-02-01" for date in dates) == 279
    assert [row["question_id"] for row in rows if row["public_test_cases"] is None] == ["abc350_c"]
    assert len(listed("livecodebench/rllm_lcb_v5_public.json")) == 879


def test_humaneval_plus_and_mbpp_plus_have_their_sizes_and_inputs():
    rows = lines("humanevalplus/HumanEvalPlus.jsonl.gz")
    assert len(rows) == len(lines("humaneval/HumanEval.jsonl.gz")) == 164
    assert sum(len(row["base_input"]) for row in rows) == 1570
    assert sum(len(row["plus_input"]) for row in rows) == 122_683
    assert len(lines("mbppplus/MbppPlus.jsonl.gz")) == 378


def test_codeforces_ids_line_up_with_408_problems_of_57_contests():
    problems, ids = listed("codeforces/rllm_codeforces_test.json"), listed("codeforces/metadata_cf.json")
    assert len(problems) == len(ids) == 408
    contests = {int(re.match(r"\d+", key).group()) for key in ids}
    assert (len(contests), min(contests), max(contests)) == (57, 1971, 2036)


def test_the_released_test_of_humaneval_32_unpacks_a_number():
    """So it fails whatever solution it is given, the canonical one too."""
    rows = {row["task_id"]: row for row in lines("humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz")}
    assert rows["HumanEval/32"]["test"].rstrip().endswith("assert _poly(*candidate(*inp), inp) <= 0.0001")
