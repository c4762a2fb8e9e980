"""Tasks on small files of our own, each in every form that the data set is published in."""

import base64
import re
from pathlib import Path
from random import Random

import pytest
from official_shapes import livecodebench_row, verl, wiki, write

from harness.core import config as configs
from harness.core.errors import ConfigError, DataError
from harness.data import fingerprints
from harness.tasks._base.maths import contest_id, last_boxed

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty local mirror; nothing is in the cache."""
    from huggingface_hub import constants

    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("HARNESS_DATA_DIR", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def task(name, **settings):
    return configs.parse_plugin("tasks", {"id": name, **settings}).build()


def rows_of(name, split="test", **settings):
    """Rows as they were read: id, problem, answer."""
    return [(row.id, row.problem, row.answer) for row in task(name, **settings)._read(split)[0]]


def problems_of(name, split="test", seed=0, **settings):
    return list(task(name, **settings).problems(split, seed))


def same_in_both(mirror, name, one, other, split="test", **settings):
    """Put one set of files in the mirror, then the other alone; the rows and the fingerprint have to agree."""
    found = []
    for files in (one, other):
        paths = [write(mirror / path, rows) for path, rows in files.items()]
        found.append((rows_of(name, split, **settings), task(name, **settings).loaded(split).fingerprint))
        for path in paths:
            path.unlink()
    assert found[0][1] == found[1][1]
    assert dict(map(keyed, found[0][0])) == dict(map(keyed, found[1][0]))
    return found[0][0]


def keyed(row):
    return row[0], (" ".join(row[1].split()), row[2])


# --- the contests -----------------------------------------------------------------------------------------------


def test_aime24_is_read_from_the_hubs_parquet_and_qwens_jsonl(mirror):
    parquet = [
        {"id": 60 + n, "problem": f"What is $x_{{{n}}}$?", "solution": "s", "answer": f"{n * 7:03d}", "url": url}
        for n, url in enumerate([wiki(2024, "AIME_I", 3), wiki(2024, "AIME_II", 15), wiki(2024, "AIME_I", 1)])
    ]
    jsonl = [{**row, "problem": row["problem"] + "\n", "question": "", "answer": row["answer"]} for row in parquet]
    rows = same_in_both(
        mirror,
        "aime24",
        {"HuggingFaceH4/aime_2024/data/train-00000-of-00001.parquet": parquet},
        {"aime24/qwen25math_aime24_test.jsonl": jsonl},
    )
    assert [(key, answer) for key, _, answer in rows] == [("2024-I-3", "0"), ("2024-II-15", "7"), ("2024-I-1", "14")]


def test_aime25_is_read_from_the_hubs_jsonl(mirror):
    rows = [{"id": str(n), "problem": f"Find $n$ ({n}).", "answer": n if n % 2 else str(n)} for n in range(30)]
    write(mirror / "math-ai/aime25/test.jsonl", rows)
    found = rows_of("aime25")
    assert found[0] == ("2025-I-1", "Find $n$ (0).", "0")
    assert found[14][0] == "2025-I-15" and found[15][0] == "2025-II-1" and found[29][0] == "2025-II-15"
    assert [answer for _, _, answer in found] == [str(n) for n in range(30)]


def amc_rows(name):
    contests = [wiki(2022, "AMC_12A", 3), wiki(2023, "AMC_12B", 25)]
    return [{"id": n, name: f"How many $n$? ({n})", "answer": 27.0 + n, "url": url} for n, url in enumerate(contests)]


def test_amc_83_is_read_from_the_hubs_parquet_and_primes_jsonl(mirror):
    rows = same_in_both(
        mirror,
        "amc23",
        {"AI-MO/aimo-validation-amc/data/train-00000-of-00001.parquet": amc_rows("problem")},
        {"amc23/prime_aimo-validation-amc.jsonl": amc_rows("question")},
        edition="2022-2023",
    )
    assert [(key, answer) for key, _, answer in rows] == [("2022-12A-3", "27.0"), ("2023-12B-25", "28.0")]


def test_amc_40_is_another_file_and_another_edition(mirror):
    write(mirror / "HuggingFaceTB/math_tasks/data/amc23/test.jsonl", amc_rows("problem")[1:])
    assert [key for key, _, _ in rows_of("amc23")] == ["2023-12B-25"]
    assert (
        task("amc23").recorded_digests("test").keys()
        < task("amc23", edition="2022-2023").recorded_digests("test").keys()
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (wiki(2024, "AIME_II", 15), "2024-II-15"),
        (wiki(2024, "AIME_I", 1), "2024-I-1"),
        (wiki(2022, "AMC_12B", 20), "2022-12B-20"),
    ],
)
def test_the_id_of_a_contest_problem_is_made_from_its_address(url, expected):
    assert contest_id(url) == expected


@pytest.mark.parametrize(
    "url", ["", "https://example.org/2024_AIME_I", wiki(2024, "AMC_10A", 2), wiki(2024, "AIME_I", 1) + "x"]
)
def test_contest_problem_with_an_unknown_address_is_refused(url):
    with pytest.raises(DataError, match="not the URL"):
        contest_id(url)


# --- MATH and its kind ------------------------------------------------------------------------------------------


def test_gsm8k_is_read_from_the_hubs_parquet_and_openais_jsonl(mirror):
    rows = [
        {"question": "How many?", "answer": "It is 2*3=<<2*3=6>>6.\n#### 6"},
        {"question": "How much?", "answer": "#### is not yet it.\n#### 2,125"},
    ]
    for split in ("train", "test"):
        found = same_in_both(
            mirror,
            "gsm8k",
            {f"openai/gsm8k/main/{split}-00000-of-00001.parquet": rows},
            {f"gsm8k/openai_{split}.jsonl": rows},
            split,
        )
        assert [(key, answer) for key, _, answer in found] == [(f"{split}-0", "6"), (f"{split}-1", "2,125")]
    write(mirror / "gsm8k/openai_test.jsonl", rows)
    assert {p.id: p.reference.value for p in problems_of("gsm8k")} == {"test-0": 6, "test-1": 2125}


def test_math_is_read_from_the_hubs_seven_files_and_verls_one(mirror):
    rows = [
        {
            "problem": f"Problem {n} of {subject}, $x_{{{n}}}$",
            "level": f"Level {n + 1}",
            "type": subject,
            "solution": f"First \\boxed{{0}}, then $\\boxed{{\\frac{{{n}}}{{7}}}}$.",
        }
        for subject in SUBJECTS
        for n in range(3)
    ]
    rows.append({**rows[0], "problem": rows[0]["problem"].replace(" of ", "  of ")})  # one repeats but for a space
    hub = {
        f"EleutherAI/hendrycks_math/{subject}/train-00000-of-00001.parquet": [r for r in rows if r["type"] == subject]
        for subject in SUBJECTS
    }
    in_verls_form = [
        verl(
            r["problem"],
            {"question": r["problem"], "solution": r["solution"], "target": ""},
            level=r["level"],
            type=r["type"],
        )
        for r in rows
    ]
    found = same_in_both(mirror, "math", hub, {"math/ngrpo_math_train.parquet": in_verls_form}, "train")
    assert len(found) == 21
    assert found[1][2] == "\\frac{1}{7}"
    for path, some in hub.items():
        write(mirror / path, some)
    first = {p.id: p for p, _ in zip(task("math").problems("train", 0), range(21), strict=False)}
    assert first[found[1][0]].tags == {"subject": "algebra", "level": "2"}


def test_dapo_is_read_with_and_without_its_hundred_repeats(mirror):
    problems = [(f"What is $n$, {n}?", str(n)) for n in range(5)] + [("What is $n$, 0?", "99")]
    hub = [verl(f"{DAPO_BEFORE}{problem}{DAPO_AFTER}", answer) for problem, answer in problems for _ in range(100)]
    bare = [verl(problem, answer) for problem, answer in problems]
    found = same_in_both(
        mirror,
        "dapo_math_17k",
        {"BytedTsinghua-SIA/DAPO-Math-17k/data/dapo-math-17k.parquet": hub},
        {"dapo_math_17k/svs_dapo_math_17k.parquet": bare},
        "train",
    )
    assert [(problem, answer) for _, problem, answer in found] == problems[:5]
    assert len({key for key, _, _ in found}) == 5


def test_minerva_answers_are_the_last_box_or_the_other_list(mirror):
    solutions = {"0": "$\\boxed{-10}$", "134": "$\\boxed{1} \\boxed{8.7e8}$"}
    rows = [{"problem": "p", "solution": s, "type": "Physics", "idx": int(i)} for i, s in solutions.items()]
    write(mirror / "svc-huggingface/minerva-math/test.jsonl", rows)
    assert {p.id: (p.reference.text, p.reference.kind) for p in problems_of("minerva")} == {
        "0": ("-10", "integer"),
        "134": ("8.7e8", "scientific"),
    }
    assert {p.id: p.reference.text for p in problems_of("minerva", answers="rllm")} == {"0": "-10", "134": "100"}


def olympiad_row(key, **changed):
    row = {
        "id": key,
        "subfield": "Algebra",
        "context": None,
        "question": "Find all $n$.",
        "solution": ["s"],
        "final_answer": ["3"],
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
    }
    return {**row, **changed}


def test_olympiadbench_keeps_context_unit_tolerance_and_several_answers(mirror):
    rows = [
        olympiad_row(1),
        olympiad_row(2, final_answer=["1,2"], is_multiple_answer=True),
        olympiad_row(3, final_answer=["7.2"], unit="cm", error="1e-1", context="In short."),
        olympiad_row(4, final_answer=["(2,5)"], answer_type="Tuple"),
    ]
    write(mirror / "olympiadbench/qwen25math_olympiadbench_test.jsonl", rows)
    found = {p.id: p for p in problems_of("olympiadbench", prompt="simple")}
    assert {key: p.reference.kind for key, p in found.items()} == {
        "1": "integer",
        "2": "set",
        "3": "decimal",
        "4": "tuple",
    }
    assert [item.text for item in found["2"].reference.items] == ["1", "2"]
    assert (found["3"].reference.absolute_tolerance, found["3"].reference.unit) == (0.1, "cm")
    assert found["3"].messages[-1].content.startswith("In short.\n\nFind all $n$.")


def test_olympiadbench_refuses_a_list_of_several_answers(mirror):
    path = mirror / "olympiadbench/qwen25math_olympiadbench_test.jsonl"
    write(path, [olympiad_row(7, final_answer=["1", "2"])])
    with pytest.raises(DataError, match=r"row 7 .* has 2 final answers"):
        rows_of("olympiadbench")


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("$\\boxed{2}$", "2"),
        ("$\\boxed{1}$ and then $\\boxed{\\frac{a}{\\sqrt{b^{2}}}}$.", "\\frac{a}{\\sqrt{b^{2}}}"),
        ("$\\boxed{\\{1,2\\}}$ {", "\\{1,2\\}"),
        ("$\\fbox{A}$", "A"),
        ("$\\boxed{1}$, no: $\\fbox{B}$", "B"),
        ("so $\\boxed 2$ it is", "2"),
        ("so $\\boxed 2.", "2"),
        ("so $\\boxed {1 + x}$.", "1 + x"),
        ("$\\boxed{}$", ""),
    ],
)
def test_answer_is_the_last_box_of_a_solution(solution, expected):
    assert last_boxed(solution, "row 1") == expected


@pytest.mark.parametrize(("solution", "match"), [("none", "no boxed answer"), ("\\boxed{a{b}", "without a closing")])
def test_a_solution_without_a_whole_box_is_refused(solution, match):
    with pytest.raises(DataError, match=f"row 1 .*{match}"):
        last_boxed(solution, "row 1")


# --- questions --------------------------------------------------------------------------------------------------


def gpqa_rows(n):
    return [
        {
            "Pre-Revision Question": "old",
            "Question": f' Which, of {number}?\nSay "it". ',
            "Correct Answer": f"right {number}\n",
            "Incorrect Answer 1": f"wrong {number} a",
            "Incorrect Answer 2": f"wrong {number} {{A}}",
            "Incorrect Answer 3": f"wrong {number}, c",
            "Record ID": f"rec{number}",
            "High-level domain": "Physics",
            "Subdomain": "Optics",
            "Canary String": "",
        }
        for number in range(n)
    ]


def test_gpqa_shuffles_its_options_and_keeps_the_right_letter(mirror):
    write(mirror / "gpqa/gpqa_diamond.csv", gpqa_rows(40))
    letters = {}
    for shuffle_seed in range(4):
        found = problems_of("gpqa", shuffle_seed=shuffle_seed)
        for problem in found:
            number = problem.id.removeprefix("rec")
            shown = dict(re.findall(r"^([A-D])\) (.*)$", problem.messages[-1].content, re.MULTILINE))
            assert shown[problem.reference.letter] == f"right {number}"
            wrong = {f"wrong {number} a", f"wrong {number} {{A}}", f"wrong {number}, c"}
            assert set(shown.values()) == {f"right {number}", *wrong}
            assert tuple(shown.values()) == problem.reference.options
        letters[shuffle_seed] = {problem.id: problem.reference.letter for problem in found}
        assert set(letters[shuffle_seed].values()) == set("ABCD")
        again = problems_of("gpqa", seed=5, shuffle_seed=shuffle_seed)  # the order of problems is another matter
        assert {problem.id: problem.reference.letter for problem in again} == letters[shuffle_seed]
    assert len({tuple(chosen.values()) for chosen in letters.values()}) == 4


def test_gpqas_fingerprint_does_not_depend_on_the_shuffle_and_its_editions_are_files_of_their_own(mirror):
    write(mirror / "Idavidrein/gpqa/gpqa_diamond.csv", gpqa_rows(3))
    write(mirror / "Idavidrein/gpqa/gpqa_main.csv", gpqa_rows(5))
    assert task("gpqa").loaded("test").fingerprint == task("gpqa", shuffle_seed=9).loaded("test").fingerprint
    assert task("gpqa", subset="main").loaded("test").n_rows == 5
    assert not task("gpqa", subset="main").loaded("test").expected
    with pytest.raises(ConfigError, match="diamond"):
        task("gpqa", subset="dimond")


def test_simpleqa_is_read_from_the_official_csv(mirror):
    rows = [{"metadata": "{'topic': 'x'}", "problem": f"Who, {n}?", "answer": f"One, {n}"} for n in range(3)]
    write(mirror / "basicv8vc/SimpleQA/simple_qa_test_set.csv", rows)
    assert {p.reference.question: p.reference.text for p in problems_of("simpleqa")} == {
        f"Who, {n}?": f"One, {n}" for n in range(3)
    }


def test_hle_leaves_out_the_questions_with_a_picture(mirror):
    picture = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    rows = [
        {
            "id": f"q{n}",
            "question": f"What, {n}?",
            "image": picture if n % 3 == 0 else "",
            "image_preview": {"bytes": b"\x89PNG", "path": None} if n % 3 == 0 else None,
            "answer": str(n),
            "answer_type": "exactMatch",
            "author_name": "nobody",
            "category": "Math",
        }
        for n in range(9)
    ]
    write(mirror / "cais/hle/data/test-00000-of-00001.parquet", rows)
    found = problems_of("hle")
    assert {p.id for p in found} == {"q1", "q2", "q4", "q5", "q7", "q8"}
    assert not task("hle").loaded("test").expected
    system, question = found[0].messages
    assert "{your chosen answer}" in system.content
    assert question.content == f"What, {found[0].id[1:]}?"


# --- what is wrong with a file ----------------------------------------------------------------------------------


def aime_rows(**changed):
    row = {"problem": "p", "answer": "025", "url": wiki(2024, "AIME_I", 1)}
    return [{**row, **changed}]


@pytest.mark.parametrize(
    ("name", "path", "rows", "match"),
    [
        ("aime24", "aime24/qwen25math_aime24_test.jsonl", aime_rows(answer="336^\\circ"), "unexpected form"),
        ("aime24", "aime24/qwen25math_aime24_test.jsonl", aime_rows(answer=None), "unexpected form"),
        ("aime24", "aime24/qwen25math_aime24_test.jsonl", aime_rows(url=None), "unexpected form"),
        ("aime24", "aime24/qwen25math_aime24_test.jsonl", aime_rows(problem=None), "a field that is not text"),
        ("aime24", "aime24/qwen25math_aime24_test.jsonl", aime_rows() * 2, "has the id 2024-I-1 twice"),
        ("aime24", "aime24/qwen25math_aime24_test.jsonl", [], "has no rows"),
        ("aime25", "aime25/areal_aime25_test.jsonl", [{"question": "q", "answer": "1"}], "no field 'problem'"),
        ("amc23", "amc23/qwen25math_amc23_test.jsonl", [{"url": "u", "answer": 1}], "unexpected form"),
        ("gsm8k", "gsm8k/openai_test.jsonl", [{"question": "q", "answer": "5"}], "no `####`"),
        ("math500", "math500/simplerl_math500_test.jsonl", [{"problem": "p"}], "no field"),
    ],
)
def test_task_file_of_another_format_is_one_clear_error(mirror, name, path, rows, match):
    write(mirror / path, rows)
    with pytest.raises(DataError, match=match) as caught:
        task(name).loaded("test")
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {**verl("p", "1"), "prompt": []},
        {**verl("p", "1"), "reward_model": {"style": "rule"}},
        {**verl("p", "1"), "prompt": [{"role": "user"}]},
    ],
)
def test_parquet_file_with_another_structure_is_one_clear_error(mirror, row):
    write(mirror / "dapo_math_17k/svs_dapo_math_17k.parquet", [row])
    with pytest.raises(DataError, match="svs_dapo"):
        task("dapo_math_17k").loaded("train")


def test_unusable_reference_is_reported_with_its_row(mirror):
    row = {"problem": "p", "answer": "", "subject": "Algebra", "level": 2, "unique_id": "test/algebra/1.json"}
    write(mirror / "math500/simplerl_math500_test.jsonl", [row])
    with pytest.raises(DataError, match="math500 test/algebra/1: the reference answer '' can't be used"):
        problems_of("math500")


def test_unknown_split_error_names_the_existing_ones():
    with pytest.raises(ConfigError, match="aime24 has no train split, only test"):
        task("aime24").problems("train", 0)


# --- order, passes, slices, prompts -----------------------------------------------------------------------------


@pytest.fixture
def gsm8k(mirror):
    for split in ("train", "test"):
        rows = [{"question": f"{split} {n}", "answer": f"#### {n}"} for n in range(50)]
        write(mirror / f"gsm8k/openai_{split}.jsonl", rows)


@pytest.mark.usefixtures("gsm8k")
def test_seed_changes_the_order_of_problems_alone():
    first, again, other = problems_of("gsm8k"), problems_of("gsm8k"), problems_of("gsm8k", seed=1)
    assert first == again
    assert first != other
    assert sorted(p.id for p in first) == sorted(p.id for p in other) == sorted(f"test-{n}" for n in range(50))
    assert [p.id for p in first] != [f"test-{n}" for n in range(50)]


@pytest.mark.usefixtures("gsm8k")
def test_examples_are_training_problems_with_their_answers_drawn_in_the_order_of_the_file():
    draw = Random(1234)
    expected = {f"test-{n}": draw.sample(range(50), 3) for n in range(50)}
    for seed in (0, 1):  # whatever order they are asked in
        for problem in problems_of("gsm8k", seed=seed, prompt="simple", examples=3):
            said = [(message.role, message.content.split("\n")[0]) for message in problem.messages]
            shown = expected[problem.id]
            turns = [turn for n in shown for turn in (("user", f"train {n}"), ("assistant", f"#### {n}"))]
            assert said == [*turns, ("user", problem.id.replace("-", " "))]
    with_system = problems_of("gsm8k", prompt="qwen-math", examples=1)[0].messages
    assert [message.role for message in with_system] == ["system", "user", "assistant", "user"]


@pytest.mark.usefixtures("gsm8k")
def test_examples_are_part_of_the_data_and_never_shown_before_a_training_problem():
    without, shown = task("gsm8k").loaded("test"), task("gsm8k", examples=3).loaded("test")
    train = task("gsm8k").loaded("train")
    assert shown.fingerprint == f"{without.fingerprint}, examples {train.fingerprint}"
    assert shown.files == (*without.files, *train.files)
    with pytest.raises(ConfigError, match="few-shot examples are for the test split only"):
        next(iter(task("gsm8k", examples=3).problems("train", 0)))
    with pytest.raises(ConfigError, match="gsm8k has 50 training problems; lower examples"):
        next(iter(task("gsm8k", examples=51).problems("test", 0)))


@pytest.mark.usefixtures("gsm8k")
def test_training_passes_are_endless_and_each_has_a_new_order():
    stream = task("gsm8k").problems("train", 3)
    passes = [[next(stream).id for _ in range(50)] for _ in range(4)]
    assert {tuple(sorted(one)) for one in passes} == {tuple(sorted(f"train-{n}" for n in range(50)))}
    assert len(set(map(tuple, passes))) == 4


@pytest.mark.usefixtures("gsm8k")
@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_slice_of_a_task_is_refused_without_looping(split):
    with pytest.raises(ConfigError, match=f"the {split} split of gsm8k has no rows with rows = 'errata'"):
        task("gsm8k", rows="errata").problems(split, 0)


def test_row_slices_split_a_task_by_its_errata(mirror):
    rows = [{"problem": f"p{n}", "solution": "\\boxed{1}", "type": "x", "idx": n} for n in range(272)]
    write(mirror / "minerva_math/qwen25math_minerva_test.jsonl", rows)
    wrong = {erratum.problem_id for erratum in task("minerva").card.errata}
    found = {name: {p.id for p in problems_of("minerva", rows=name)} for name in ("all", "errata", "without_errata")}
    assert found["errata"] == wrong == {"126", "154", "155", "162", "165"}
    assert found["without_errata"] == found["all"] - wrong
    assert len(found["all"]) == 272
    assert {key for key, _ in task("minerva", rows="errata").statements("test")} == wrong


@pytest.mark.parametrize("name", ["minerva", "math", "dapo_math_17k", "gpqa", "aime24"])
def test_every_erratum_is_of_a_row_on_record(name):
    built = task(name)
    known = {key for split in built.sources() for key in built.recorded_digests(split)}
    assert {erratum.problem_id for erratum in built.card.errata} <= known


AIME_PROMPTS = {
    "flowrl": [("user", f"{DAPO_BEFORE}PROBLEM{DAPO_AFTER}")],
    "qwen-math": [
        ("system", "Please reason step by step, and put your final answer within \\boxed{}."),
        ("user", "PROBLEM"),
    ],
    "deepseek-r1": [("user", "PROBLEM\nPlease reason step by step, and put your final answer within \\boxed{}.")],
    "simple": [("user", "PROBLEM\n\nPut the final answer in \\boxed{}.")],
}


@pytest.mark.parametrize("problem", ["What is $n$?", "a {problem} in {braces} with {A}, \\1 and \\g<0> {{problem}}"])
@pytest.mark.parametrize("preset", AIME_PROMPTS)
def test_prompt_preset_is_exact_and_the_problem_is_inserted_unchanged(mirror, preset, problem):
    write(mirror / "aime24/qwen25math_aime24_test.jsonl", aime_rows(problem=problem))
    (found,) = problems_of("aime24", prompt=preset)
    expected = [(role, text.replace("PROBLEM", problem)) for role, text in AIME_PROMPTS[preset]]
    assert [(message.role, message.content) for message in found.messages] == expected


def test_evalplus_prompt_for_a_server_equals_evalplus(mirror):
    """In one block, without the empty lines that its own prompts begin and end in."""
    row = {"task_id": "HumanEval/1", "prompt": '\n\ndef f(x):\n    """ {problem} """\n', "entry_point": "f"}
    more = {"canonical_solution": "    return x\n", "base_input": [[1]], "plus_input": [[2]], "atol": 0}
    write(mirror / "humanevalplus/HumanEvalPlus.jsonl.gz", [{**row, **more}])
    (found,) = problems_of("humaneval_plus")
    (message,) = found.messages
    assert message.role == "user"
    assert message.content == (
        "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
        '```python\ndef f(x):\n    """ {problem} """\n```'
    )


EXPERT = "will generate a correct Python program that matches the specification and passes all tests."
STDIN = "writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
STARTER = "within delimiters.\n```python\nclass Solution:\n```\n\n"
ANSWER = "### Answer: (use the provided format with backticks)\n\n"


@pytest.mark.parametrize(
    ("preset", "roles", "begins", "between"),
    [
        ("flowrl", ["user"], "You are an expert Python programmer. You ", f"{EXPERT}\n\nDo.### Format: "),
        ("lcb-official", ["system", "user"], "### Question:\nDo.\n\n### Format: ", "Do.\n\n### Format: "),
        ("deepseek-r1", ["user"], "You will be given a question", f"{EXPERT}\n\nQuestion: Do.\n\n"),
    ],
)
@pytest.mark.parametrize(("starter", "asked"), [("", STDIN), ("class Solution:", STARTER)])
def test_livecodebenchs_prompts_are_those_of_their_sources(mirror, preset, roles, begins, between, starter, asked):
    row = livecodebench_row("1", "[]", question_content="Do.", starter_code=starter)
    write(mirror / "livecodebench/code_generation_lite/test.jsonl", [row])
    (found,) = problems_of("livecodebench", prompt=preset, release="release_v1")
    text = found.messages[-1].content
    assert [message.role for message in found.messages] == roles
    assert text.startswith(begins)
    assert between + ("You will use the following starter" if starter else "Read the inputs from stdin") in text
    assert text.endswith(asked + (ANSWER if preset != "deepseek-r1" else ""))
    assert preset != "lcb-official" or found.messages[0].content.endswith(f" and {EXPERT}")


def test_inserted_text_is_not_searched_for_prompt_placeholders(mirror):
    (row,) = gpqa_rows(1)
    write(mirror / "gpqa/gpqa_diamond.csv", [{**row, "Question": "Of {A} and {B} and {problem}?"}])
    (found,) = problems_of("gpqa")
    assert "Of {A} and {B} and {problem}?\n\nA) " in found.messages[-1].content
    assert "wrong 0 {A}" in found.messages[-1].content


def test_unknown_prompt_preset_error_names_the_existing_ones():
    with pytest.raises(ConfigError, match="flowrl, qwen-math, deepseek-r1, simple"):
        task("aime24", prompt="qwen")


# --- what a load is compared with -------------------------------------------------------------------------------


def test_loaded_rows_are_compared_with_the_fingerprints(mirror):
    write(mirror / "aime24/qwen25math_aime24_test.jsonl", aime_rows())
    loaded = task("aime24").loaded("test")
    assert not loaded.is_as_expected
    assert loaded.differing[0] == "2024-I-1: altered"
    assert set(loaded.differing[1:]) == {
        f"2024-{part}-{n}: missing" for part in ("I", "II") for n in range(1, 16) if (part, n) != ("I", 1)
    }
    assert loaded.files == (str(mirror / "aime24/qwen25math_aime24_test.jsonl"),)


def test_the_card_has_the_fingerprint_that_each_split_is_compared_with(mirror):
    for split in ("train", "test"):
        write(mirror / f"gsm8k/openai_{split}.jsonl", [{"question": "q", "answer": "#### 1"}])
    built = task("gsm8k")
    train, test = (built.loaded(split).expected for split in ("train", "test"))
    assert built.card.fingerprint == f"train {train}, test {test}"
    assert test == fingerprints.fingerprint(built.recorded_digests("test")) != train
    assert task("hle").card.fingerprint == ""


def test_make_fingerprints_writes_the_fingerprints_that_loads_are_compared_with(mirror, tmp_path, monkeypatch, capsys):
    import make_fingerprints

    from harness.tasks._base import dataset

    for module in (dataset, make_fingerprints):
        monkeypatch.setattr(module, "FINGERPRINTS", tmp_path)
    write(mirror / "aime24/qwen25math_aime24_test.jsonl", aime_rows())
    make_fingerprints.main("aime24")
    assert task("aime24").loaded("test").is_as_expected
    assert Path(capsys.readouterr().out.partition(":")[0]) == tmp_path / "aime24.test.tsv"
    write(mirror / "aime24/qwen25math_aime24_test.jsonl", aime_rows(answer="026"))
    assert task("aime24").loaded("test").differing == ("2024-I-1: altered",)
