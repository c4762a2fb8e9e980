"""The legacy graders against the originals, where lm-eval (or verl) is installed with what its maths tasks need.

lm-eval wants antlr4-python3-runtime 4.11 (`pip install 'lm-eval[math]'`), so that it has an environment of its own.
Where `math` says otherwise than they do is in math_verify_disagreements.jsonl and string_match_disagreements.jsonl.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.published.legacy_dapo import LegacyDapoGrader
from harness.graders.published.legacy_hendrycks import LegacyHendrycksGrader
from harness.graders.published.legacy_math_verify import LegacyMathVerifyGrader

HERE = Path(__file__).parent / "math" / "golden"
PAIRS = [json.loads(line) for line in (HERE / "math_pairs.jsonl").read_text().splitlines()]
REAL = {
    "minerva_math/limo_minerva_test.jsonl": lambda row: row["answer"],
    "math500/simplerl_math500_test.jsonl": lambda row: row["answer"],
    "olympiadbench/qwen25math_olympiadbench_test.jsonl": lambda row: row["final_answer"][0],
}


def lm_eval_task(name):
    pytest.importorskip("lm_eval")
    return pytest.importorskip(f"lm_eval.tasks.{name}.utils", exc_type=(ImportError, AssertionError))


def real_golds():
    folder = os.environ.get("HARNESS_DATA_DIR")
    if folder is None:
        return []
    return [
        gold(json.loads(line))
        for name, gold in REAL.items()
        for line in Path(folder, name).read_text(encoding="utf-8").splitlines()
    ]


def other(gold):
    """The gold with its first digit changed."""
    at = next((at for at, character in enumerate(gold) if character in "0123456789"), None)
    return "none" if at is None else gold[:at] + str((int(gold[at]) + 3) % 10) + gold[at + 1 :]


def texts(answer):
    """Completions with one answer: the shapes that tell the readers of boxes, dollar signs and lines apart."""
    return [
        f"The final answer is $\\boxed{{{answer}}}$.",
        f"So ${answer}$ it is.",
        f"It is \\fbox{{{answer}}} or \\boxed {answer}$ or",
        f"First \\boxed{{7}}, but no: \\boxed{{{answer}",
        f"We try.\nAnswer: {answer}",
        answer,
    ]


def cases():
    """Each gold with its answer in the table, and each real gold with itself and with another one."""
    pairs = [(pair["gold"], pair["answer"]) for pair in PAIRS]
    pairs += [(gold, answer) for gold in real_golds() for answer in (gold, other(gold))]
    return [(gold, text) for gold, answer in pairs for text in texts(answer)]


def math_verify_cases():
    """Fewer, as each takes milliseconds to seconds: one shape, and every eighth real gold."""
    pairs = [(pair["gold"], pair["answer"]) for pair in PAIRS if pair["outcome"] != "ungraded"]
    pairs += [(gold, answer) for gold in real_golds()[::8] for answer in (gold, other(gold))]
    return [(gold, texts(answer)[0]) for gold, answer in pairs]


def right(grader, gold, text):
    return (
        grader.grade(Problem("p", "t", (), gold), Completion("p", 0, 0, text, "stop", Tokens(1, 1))).outcome
        == "correct"
    )


def hendrycks(variant):
    return LegacyHendrycksGrader(LegacyHendrycksGrader.Config(variant=variant))


def test_legacy_hendrycks_is_lm_eval_on_its_aime_tasks():
    theirs, ours = lm_eval_task("aime"), hendrycks("lm-eval-aime")
    differ = [
        (gold, text)
        for gold, text in cases()
        if right(ours, gold, text) != bool(theirs.process_results({"answer": gold}, [text])["exact_match"])
    ]
    assert differ == []


def test_legacy_hendrycks_is_lm_eval_on_its_hendrycks_math_tasks():
    theirs, ours = lm_eval_task("hendrycks_math"), hendrycks("lm-eval-math")
    differ = []
    for gold, text in cases():
        if "\\boxed" in gold:
            continue
        doc = {"solution": f"\\boxed{{{gold}}}"}
        if right(ours, gold, text) != bool(theirs.process_results(doc, [text])["exact_match"]):
            differ.append((gold, text))
    assert differ == []


def test_legacy_dapo_is_the_part_of_verls_reward_that_reads_answer_lines():
    """Later versions of verl look for a box where there is no such line; DAPO and FlowRL did not train with them."""
    theirs = pytest.importorskip("verl.utils.reward_score.math_dapo")
    ours = LegacyDapoGrader(LegacyDapoGrader.Config())
    differ = [
        (gold, text)
        for gold, text in cases()
        if right(ours, gold, text) != theirs.is_correct_minerva(text[-300:], gold)[0]
    ]
    assert differ == []


def test_legacy_math_verify_is_lm_eval_on_its_minerva_math_tasks():
    theirs = lm_eval_task("minerva_math")
    ours = LegacyMathVerifyGrader(LegacyMathVerifyGrader.Config(variant="lm-eval"))
    differ = []
    for gold, text in math_verify_cases():
        doc = {"solution": f"\\boxed{{{gold}}}", "answer": "[invalidanswer]"}  # the other metric has nothing to compute
        if right(ours, gold, text) != bool(theirs.process_results(doc, [text])["math_verify"]):
            differ.append((gold, text))
    assert differ == []
