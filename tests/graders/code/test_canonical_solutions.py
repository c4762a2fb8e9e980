"""Solutions that are known to be right are accepted: references of HumanEval+ and MBPP+, and accepted submissions.

The files are read below $HARNESS_DATA_DIR. By default only some are judged; `--slow` takes all of HumanEval+ and three
submissions a problem, and `bench/code_judge.py --canonical` all of both.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.code import GRADER
from harness.graders.code.reference import EvalPlusReference, HeldTests, ProgramReference, ProgramTest

DATA = os.environ.get("HARNESS_DATA_DIR")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux"),
    pytest.mark.skipif(DATA is None, reason="HARNESS_DATA_DIR does not say where the data is"),
]

# Each with a rule or a difficulty of its own: cyclic coding, many floats, zeros of polynomials, large numbers, sets.
FEW = (0, 2, 32, 38, 44, 53, 70, 78, 99, 108, 116, 124, 132, 151, 160, 163)
PLAIN_MBPP = ("Mbpp/7", "Mbpp/558", "Mbpp/581", "Mbpp/737", "Mbpp/794", "Mbpp/3", "Mbpp/14", "Mbpp/737", "Mbpp/295")


def rows(name):
    with gzip.open(Path(DATA, name), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judge(dataset, row):
    reference = EvalPlusReference(
        row["entry_point"],
        row["prompt"],
        row["canonical_solution"],
        row["base_input"],
        row["plus_input"] or [],
        row["atol"],
        dataset,
    )
    reply = f"```python\n{row['prompt']}{row['canonical_solution']}\n```"
    completion = Completion(row["task_id"], 0, 0, reply, "stop", Tokens(1, 1))
    return GRADER(GRADER.Config()).grade(Problem(row["task_id"], dataset, (), reference), completion)


def not_accepted(dataset, some):
    verdicts = {row["task_id"]: judge(dataset, row) for row in some}
    return {name: (v.outcome, v.reason) for name, v in verdicts.items() if v.outcome != "correct"}


def test_some_humaneval_plus_solutions_are_accepted():
    found = rows("humanevalplus/HumanEvalPlus.jsonl.gz")
    assert not_accepted("humaneval", [found[place] for place in FEW]) == {}


def test_some_mbpp_plus_solutions_are_accepted():
    """Of those whose inputs are the JSON values themselves."""
    some = [row for row in rows("mbppplus/MbppPlus.jsonl.gz") if row["task_id"] in PLAIN_MBPP]
    assert not_accepted("mbpp", some) == {}


@pytest.mark.slow
def test_all_humaneval_plus_solutions_are_accepted():
    found = rows("humanevalplus/HumanEvalPlus.jsonl.gz")
    assert len(found) == 164
    assert not_accepted("humaneval", found) == {}


def submissions(n):
    with Path(DATA, "code_train/areal_deepcoder_sample.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            tests = json.loads(row["input_output"])
            pairs = zip(tests["inputs"], tests["outputs"], strict=True)
            held = HeldTests(tuple(ProgramTest(*pair, "official") for pair in pairs))
            for place, source in enumerate(row["solutions"][:n]):
                yield row["query_id"], place, ProgramReference(held, "official"), source


def not_accepted_submissions(n, **options):
    grader, found = GRADER(GRADER.Config(**options)), {}
    for name, place, reference, source in submissions(n):
        completion = Completion(name, place, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
        verdict = grader.grade(Problem(name, "sample", (), reference), completion)
        if verdict.outcome != "correct":
            found[name, place] = (verdict.reason, verdict.details)
    return found


def test_some_accepted_submissions_are_accepted_on_the_longest_tests():
    assert not_accepted_submissions(1, tests="longest", n_tests=10) == {}


@pytest.mark.slow
def test_all_accepted_submissions_are_accepted():
    assert not_accepted_submissions(3) == {}
