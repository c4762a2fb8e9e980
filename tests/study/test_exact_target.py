"""Exact metrics against a vocabulary small enough to enumerate every text, in float64."""

from __future__ import annotations

import itertools
import math
import shutil

import numpy as np
import pytest
import torch

from harness.commands.demo import study_file
from harness.core import config as configs
from harness.core.config import merge, parse_plugin
from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.core.protocols import ModelSource
from harness.core.recipes import find_config
from harness.models.chat import prompt_ids
from harness.models.loading import load_module, load_tokenizer, resolve
from harness.reports.frontier import read_curves
from harness.runs.folder import RunReader
from harness.study.counts import study_counts
from harness.study.exact_table import exact_tables
from harness.study.exact_target import (
    ExactEvaluator,
    Pull,
    RightTexts,
    divergence,
    exact_metrics,
    expected_scores,
    normalised,
    pull_of,
    right_texts,
    target_logp,
    text_logp,
    with_rest,
)
from harness.study.resources import check_arms, workers
from harness.study.study import open_study, run_study
from harness.trainers.config import TrainConfig
from harness.trainers.functional import group_normalise
from harness.trainers.policy.model import Policy

BASE = "countdown-tiny"
WORDS, LENGTH, GROUP = 3, 3, 5


class Language:
    """A random distribution over all texts of LENGTH words, some of which are right."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.texts = list(itertools.product(range(WORDS), repeat=LENGTH))
        self.logs = np.zeros(len(self.texts))
        for place, text in enumerate(self.texts):
            for end in range(LENGTH):
                # A conditional distribution for each prefix.
                row = np.random.default_rng([seed, *text[:end], end]).normal(0, 1, size=WORDS)
                self.logs[place] += row[text[end]] - math.log(np.exp(row).sum())
        self.is_right = rng.random(len(self.texts)) < 0.3

    def solutions(self) -> np.ndarray:
        """Number the solutions of the right texts by their first word."""
        return np.array([text[0] for text, right in zip(self.texts, self.is_right, strict=True) if right])


def recipe(name, **objective):
    tree = configs.read_toml(find_config(name))
    return configs.parse(TrainConfig, merge(tree, {"objective": objective}) if objective else tree)


# --- the pull ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("success_rate", [0.05, 0.4, 0.95])
def test_expected_scores_are_the_mean_over_all_groups(success_rate):
    sums, weights = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for rewards in itertools.product((0.0, 1.0), repeat=GROUP):
        n_right = int(sum(rewards))
        weight = success_rate**n_right * (1 - success_rate) ** (GROUP - n_right)
        scores = group_normalise(torch.tensor(rewards, dtype=torch.float64), torch.zeros(GROUP, dtype=torch.long))
        sums[rewards[0] == 1] += weight * float(scores[0])
        weights[rewards[0] == 1] += weight
    expected = (sums[True] / weights[True], sums[False] / weights[False])
    assert expected_scores(success_rate, GROUP) == pytest.approx(expected, rel=1e-9)


def test_the_pull_is_that_of_the_objective_as_it_is_configured():
    assert pull_of(recipe("countdown-flowrl")) == Pull(0.6, per_token=True, normalised=True)
    assert pull_of(recipe("countdown-grpo", kl_beta=0.1)) == Pull(10.0, per_token=False, normalised=True)
    assert pull_of(recipe("countdown-grpo")) is None and pull_of(recipe("countdown-ppo")) is None
    assert pull_of(recipe("countdown-tb")).normalised is False


def fixed_point(language, beta):
    """Find by iteration over all texts the policy with log p = log reference + |y| (beta r_hat - log Z)."""
    policy = language.logs.copy()
    for _ in range(2000):
        rate = np.exp(policy[language.is_right]).sum()
        right, wrong = expected_scores(rate, GROUP)
        updated = language.logs + LENGTH * beta * np.where(language.is_right, right, wrong)
        updated -= np.log(np.exp(updated).sum())
        policy = np.log(0.7 * np.exp(policy) + 0.3 * np.exp(updated))
    return policy


def test_the_target_of_flowrl_has_no_residual_in_any_text():
    language, beta = Language(3), 0.25
    policy = fixed_point(language, beta)
    rate = float(np.exp(policy[language.is_right]).sum())
    right, wrong = expected_scores(rate, GROUP)
    scores = np.where(language.is_right, right, wrong)
    residual = (policy - language.logs) / LENGTH - beta * scores
    assert np.ptp(residual) < 1e-9, "it is log Z for every text"

    reference = with_rest(language.logs[language.is_right])
    lengths = np.full(int(language.is_right.sum()), float(LENGTH))
    found = target_logp(reference, lengths, Pull(beta, per_token=True, normalised=True), rate, GROUP)
    assert found[:-1] == pytest.approx(policy[language.is_right], abs=1e-8)
    assert math.exp(found[-1]) == pytest.approx(np.exp(policy[~language.is_right]).sum(), abs=1e-8)


def test_the_target_of_trajectory_balance_is_the_reference_times_the_exponential_of_the_reward():
    language, beta = Language(4), 2.0
    weights = np.exp(language.logs + beta * language.is_right)
    expected = np.log(weights / weights.sum())
    found = target_logp(
        with_rest(language.logs[language.is_right]),
        np.full(int(language.is_right.sum()), float(LENGTH)),
        Pull(beta, per_token=False, normalised=False),
        0.5,
        GROUP,
    )
    assert found[:-1] == pytest.approx(expected[language.is_right], abs=1e-9)


def test_long_right_answers_are_pulled_more_by_a_loss_that_divides_by_the_length():
    reference = with_rest(np.log([0.1, 0.1]))
    found = target_logp(reference, np.array([5.0, 20.0]), Pull(0.3, per_token=True, normalised=True), 0.2, 16)
    right, wrong = expected_scores(0.2, 16)
    log_z = [(found[i] - reference[i]) / size - 0.3 * right for i, size in enumerate((5, 20))]
    log_z.append((found[2] - reference[2]) / 12.5 - 0.3 * wrong)
    assert log_z == pytest.approx([log_z[0]] * 3) and np.exp(found).sum() == pytest.approx(1)
    assert found[1] != pytest.approx(found[0])


# --- metrics ----------------------------------------------------------------------------------------------------


def test_the_metrics_are_those_of_enumerating_every_text():
    policy, reference = Language(5), Language(6)
    reference.is_right = policy.is_right
    solutions = policy.solutions()
    texts = RightTexts(None, (0,), [(0,) * LENGTH] * len(solutions), solutions)  # type: ignore[arg-type]
    pull = Pull(1.5, per_token=False, normalised=False)
    right = policy.is_right
    found = exact_metrics(policy.logs[right], reference.logs[right], texts, pull, group=GROUP, k=4)

    p, q = np.exp(policy.logs), np.exp(reference.logs)
    weighted = q * np.exp(1.5 * right)
    target = weighted / weighted.sum()

    def kl(one, two):
        atoms = [*zip(one[right], two[right], strict=True), (one[~right].sum(), two[~right].sum())]
        return sum(a * math.log(a / b) for a, b in atoms)

    by_solution = [p[right][solutions == s].sum() for s in range(WORDS)]
    shares = np.array([share for share in by_solution if share > 0]) / sum(by_solution)
    assert found.success_rate == pytest.approx(p[right].sum())
    assert found.kl_reference == pytest.approx(kl(p, q)) and found.kl_target == pytest.approx(kl(p, target))
    assert found.effective_solutions == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)))
    # k samples, and whether each solution is among them
    n = max(solutions) + 1
    assert found.coverage == pytest.approx(sum(1 - (1 - c) ** 4 for c in by_solution[:n]) / n)
    assert exact_metrics(policy.logs[right], reference.logs[right], texts, None, group=GROUP, k=4).kl_target is None


def test_a_policy_that_is_its_target_has_no_divergence_and_rounding_does_not_matter():
    logs = np.log([0.5, 0.5 + 1e-9])
    assert np.exp(with_rest(logs)).sum() == pytest.approx(1) and divergence(with_rest(logs), with_rest(logs)) == 0
    assert normalised(np.array([-800.0, -800.0])) == pytest.approx([math.log(0.5)] * 2)


# --- the bundled model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems():
    task = parse_plugin("tasks", "countdown").build()
    return task, list(itertools.islice(task.problems("test", seed=0), 3))


def test_text_logp_is_that_of_the_model_itself_text_by_text(problems):
    task, chosen = problems
    source = ModelSource(path=resolve(BASE))
    tokenizer, module = load_tokenizer(source), load_module(source)
    texts = right_texts(task, chosen, tokenizer)
    found = text_logp(Policy(module, 1.0), texts)
    for one, logs in zip(texts, found, strict=True):
        assert one.n_solutions == int(one.problem.tags["n_solutions"]) and len(logs) == len(one.completions)
        for ids, log in zip(one.completions[:5], logs, strict=False):
            sequence = torch.tensor([[*prompt_ids(tokenizer, one.problem.messages), *ids]])
            with torch.no_grad():
                rows = torch.log_softmax(module(input_ids=sequence).logits[0].double(), -1)
            start = len(one.prompt) - 1
            assert log == pytest.approx(sum(float(rows[start + i, token]) for i, token in enumerate(ids)), abs=1e-4)


def test_the_base_has_no_divergence_from_itself(problems):
    task, chosen = problems
    found = ExactEvaluator(task, chosen, BASE, 32).evaluate(BASE, None)
    assert all(one.kl_reference == 0 and one.kl_target is None and 0 < one.success_rate < 1 for one in found)
    trained = ExactEvaluator(task, chosen, BASE, 32).evaluate(BASE, recipe("countdown-flowrl"))
    assert all(one.kl_target > 1 for one in trained), "the base is far from the target of FlowRL"


def test_a_task_without_enumerated_answers_is_refused(problems):
    task = parse_plugin("tasks", "gsm8k").build()
    with pytest.raises(ConfigError, match="gsm8k' doesn't enumerate its right answers"):
        right_texts(task, problems[1], load_tokenizer(ModelSource(path=resolve(BASE))))


# --- the table of a study ---------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_arm_and_a_target_where_the_loss_has_one(tmp_path):
    folder = tmp_path / "study"
    file = tmp_path / "study.toml"
    file.write_text(study_file(1, 3, n_problems=2), encoding="utf-8")
    study = open_study(file, folder)
    run_study(study, Progress(quiet=True), workers(study, check_arms(study), 1, ignore_memory=True))
    (curves,) = read_curves(study_counts(folder))
    (table,) = exact_tables(folder, curves)
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == ["base", "flowrl", "grpo", "grpo-kl"] and rows["base"][-2:] == (None, None)
    assert rows["grpo"][-1] is None and rows["flowrl"][-1].value > 1 and rows["grpo-kl"][-1].value > 1
    task = parse_plugin("tasks", "countdown").build()
    problems = [problem for problem in task.problems("test", seed=0) if problem.id in curves.problems]
    trained = folder / "cells" / "flowrl" / "seed-3" / "train"
    config = configs.parse(TrainConfig, RunReader.read(trained).config())
    found = ExactEvaluator(task, problems, BASE, curves.k).evaluate(str(trained), config)
    assert rows["flowrl"][3].value == pytest.approx(sum(one.success_rate for one in found) / 2)
    assert rows["flowrl"][-1].value == pytest.approx(sum(one.kl_target for one in found) / 2)
    assert "Exact metrics of countdown, 2 test problems" in (folder / "report" / "report.md").read_text()
    shutil.rmtree(trained / "checkpoints")
    assert exact_tables(folder, curves) == []
