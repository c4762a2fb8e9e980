"""lm-eval's tasks without lm-eval installed, and the input of their grader."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from harness.cli import main
from harness.core import registry
from harness.core.config import parse, parse_plugin
from harness.core.errors import PluginError, UnknownNameError
from harness.core.types import Completion, Likelihood, Passage, Problem, Tokens
from harness.evaluation.config import EvalConfig
from harness.graders.lm_eval import LmEvalGrader
from harness.graders.references.lm_eval import LmEvalReference


def grade(reference, text="", likelihoods=()):
    problem = Problem("p", "t", (), reference)
    completion = Completion("p", 0, 0, text, "stop", Tokens(0, 0), likelihoods)
    return LmEvalGrader(LmEvalGrader.Config()).grade(problem, completion)


def test_members_of_an_lm_eval_family_are_separate_tasks():
    names = ["lm_eval:gsm8k", {"id": "lm_eval:mmlu", "num_fewshot": 3}]
    config = parse(EvalConfig, {"model": {"path": "m"}, "tasks": names})
    assert [chosen.id for chosen in config.tasks] == ["lm_eval:gsm8k", "lm_eval:mmlu"]
    assert config.tasks[1].options.num_fewshot == 3
    assert registry.load("tasks", "lm_eval:gsm8k").NAME == "gsm8k"
    assert registry.load("tasks", "lm_eval:gsm8k") is registry.load("tasks", "lm_eval:gsm8k")


def test_only_a_family_has_members():
    with pytest.raises(PluginError, match="'countdown' is not a family"):
        registry.load("tasks", "countdown:easy")
    with pytest.raises(UnknownNameError, match="no task is called 'lm_evil:gsm8k'"):
        parse_plugin("tasks", "lm_evil:gsm8k")


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_missing_lm_eval_is_one_line_naming_the_extra(tmp_path, capsys):
    assert main(["eval", "countdown-tiny", "--tasks", "lm_eval:gsm8k", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("harness: the task 'lm_eval:gsm8k' needs the extra 'lm-eval': pip install")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_list_shows_how_lm_eval_tasks_are_named():
    listed = subprocess.run(
        [sys.executable, "-m", "harness", "list", "tasks"], capture_output=True, text=True, check=True
    )
    assert "lm_eval:gsm8k" in listed.stdout


class Doubled:
    """Enough of lm-eval's task: two filters, and a metric that is right when the reply is doubled."""

    class Instance:
        request_type = "generate_until"
        doc = {"answer": "4"}  # noqa: RUF012
        idx = 0

    class Filter:
        def __init__(self, name, change):
            self.name, self.change = name, change

        def apply(self, instances):
            for instance in instances:
                instance.filtered_resps[self.name] = self.change(instance.resps[0])

    def __init__(self):
        self._filters = [self.Filter("plain", str), self.Filter("doubled", lambda reply: reply + reply)]

    def doc_to_target(self, doc):
        return doc["answer"]

    def process_results(self, doc, replies):
        return {"length": len(replies[0]), "same": float(replies[0] == doc["answer"])}

    def aggregation(self):
        return {"same": None}


def reference(metric=""):
    return LmEvalReference(Doubled(), 0, (Doubled.Instance(),), metric)


@pytest.mark.parametrize(
    ("metric", "text", "outcome", "extracted"),
    [("", "4", "correct", "4"), ("", "5", "incorrect", "5"), ("same,doubled", "4", "incorrect", "44"),
     ("length,plain", "x", "correct", "x"), ("length", "xyz", "incorrect", "xyz")],
)  # fmt: skip
def test_reward_metric_is_the_lm_eval_tasks_first_or_the_configured_one(metric, text, outcome, extracted):
    verdict = grade(reference(metric), text)
    assert (verdict.outcome, verdict.extracted) == (outcome, extracted)
    assert set(verdict.details["lm_eval"]) == {"plain", "doubled"}
    if metric == "length":
        assert (verdict.reward, verdict.reason) == (3.0, "neither right nor wrong")


def test_exception_in_lm_eval_task_code_is_not_a_wrong_answer():
    broken = reference("absent,plain")
    assert grade(broken, "4").reason == "lm-eval: KeyError: 'absent'"
    assert grade(broken, "4").outcome == "ungraded"


def test_problem_of_another_lm_eval_task_is_not_graded():
    assert grade("4", "4").outcome == "ungraded"


def test_likelihoods_survive_the_run_folder(tmp_path):
    from harness.runs.folder import RunIdentity, RunWriter

    config = parse(EvalConfig, {"model": {"path": "m"}, "tasks": ["countdown"]})
    store = RunWriter.open(tmp_path / "run", RunIdentity.of("eval", config, seeds={}, data={}))
    plain = Completion("a", 0, 1, "x", "stop", Tokens(1, 1))
    scored = Completion(
        "b", 0, 1, "", "stop", Tokens(5, 0), (Likelihood(-0.1 - 0.2, True, 2), Likelihood(-7.0, False, 3))
    )
    for completion in (plain, scored):
        store.append_completion("countdown", completion)
    store.finish("done")
    assert [found for _, found in store.reader().completions()] == [plain, scored]
    assert "likelihoods" not in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()[0]


def test_sampling_of_a_problem_overrides_that_of_the_plan():
    from harness.core.types import Sampling
    from harness.evaluation.config import Plan, SamplingConfig

    own, usual = Sampling(5, stop=("x",)), Sampling(9)
    plan = Plan(1, usual, 0, ("eval",), (SamplingConfig(temperature=0.7), SamplingConfig(temperature=0.5)))
    passages = (Passage((), "text"),)
    problems = Problem("a", "t", (), None), Problem("b", "t", (), None, {}, passages, own)
    first, second = (plan.request(problem, 0, 0) for problem in problems)
    assert (first.sampling, first.passages) == (usual, ())
    assert (second.sampling, second.passages) == (Sampling(5, temperature=0.5, stop=("x",)), passages)
