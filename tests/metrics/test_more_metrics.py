"""Bayes@N, mG-Pass@k, best@k and the strict majority against brute force and published formulas."""

import json
import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from harness.cli import main
from harness.core import config
from harness.core.errors import ConfigError
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict

RNG = np.random.default_rng(4)


def graded_of(*rows, lengths=None, details=None, logprobs=None):
    """One problem for each row of outcomes: 1 right, 0 wrong, None ungraded."""
    found = []
    for place, row in enumerate(rows):
        for index, right in enumerate(row):
            n_tokens = lengths[place][index] if lengths else 1
            logp = [logprobs[place][index]] * n_tokens if logprobs else None
            completion = Completion(f"p{place}", index, 0, "x", "stop", Tokens(1, n_tokens, logp_behaviour=logp))
            outcome = "ungraded" if right is None else "correct" if right else "incorrect"
            extra = {} if details is None or details[place][index] is None else {"judge": details[place][index]}
            verdict = Verdict(outcome, None if right is None else float(right), "x", details=extra)
            found.append(Graded(Problem(f"p{place}", "t", (), None), completion, verdict))
    return found


def estimates(metric, graded, **options):
    found = config.parse_plugin("metrics", {"id": metric, **options}).build().estimate(graded)
    return {estimate.name: estimate for estimate in found}


ROWS = [RNG.integers(0, 2, size=7).tolist() for _ in range(5)] + [[1] * 7, [0] * 7]

# --- Bayes@N ----------------------------------------------------------------------------------------------------


def test_bayes_at_n_is_the_posterior_of_each_rate():
    found = estimates("bayes_at_n", graded_of(*ROWS), prior_right=0.5, prior_wrong=2)["bayes@7"]
    posteriors = [scipy.stats.beta(sum(row) + 0.5, 7 - sum(row) + 2) for row in ROWS]
    assert found.value == pytest.approx(np.mean([p.mean() for p in posteriors]), rel=1e-12)
    half = 1.959964 * math.sqrt(sum(p.var() for p in posteriors)) / len(ROWS)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), rel=1e-6)
    assert "given these 7 problems, prior Beta(0.5, 2)" in found.method


@pytest.mark.parametrize("right", [0, 1])
def test_bayes_at_n_has_a_width_where_all_samples_are_alike(right):
    found = estimates("bayes_at_n", graded_of(*[[right] * 4] * 3))["bayes@4"]
    assert found.value == pytest.approx((4 * right + 1) / 6)
    assert 0 <= found.low < found.value < found.high <= 1


def test_bayes_at_n_leaves_ungraded_samples_out():
    found = estimates("bayes_at_n", graded_of([1, None, 0, 1], [None] * 4))["bayes@3"]
    assert (found.value, found.n_problems, found.n_completions, found.n_ungraded) == (3 / 5, 1, 3, 5)
    assert "1 problems without a graded sample left out" in found.method
    assert estimates("bayes_at_n", graded_of([None])) == {}


def test_a_prior_without_weight_is_refused():
    with pytest.raises(ConfigError, match="must be above 0"):
        estimates("bayes_at_n", graded_of([1]), prior_right=0)


# --- mG-Pass@k --------------------------------------------------------------------------------------------------


def test_mg_pass_at_k_is_the_sum_over_shares_above_one_half():
    for k in range(2, 8):
        total = Fraction()
        for row in ROWS:
            subsets = list(combinations(row, k))
            for needed in range(math.ceil(k / 2) + 1, k + 1):
                total += Fraction(sum(sum(subset) >= needed for subset in subsets), len(subsets)) * Fraction(2, k)
        found = estimates("mg_pass_at_k", graded_of(*ROWS), ks=[k])[f"mg-pass@{k}"]
        assert found.value == pytest.approx(float(total / len(ROWS)), abs=1e-14)


def test_mg_pass_at_one_is_shown_only_if_asked_for():
    assert list(estimates("mg_pass_at_k", graded_of(*ROWS))) == ["mg-pass@2", "mg-pass@4", "mg-pass@7"]
    assert estimates("mg_pass_at_k", graded_of(*ROWS), ks=[1])["mg-pass@1"].value == 0.0


# --- best of k --------------------------------------------------------------------------------------------------


def brute_best(rows, scores, k):
    total = Fraction()
    for row, values in zip(rows, scores, strict=True):
        subsets = list(combinations(range(len(row)), k))
        for subset in subsets:
            best = [i for i in subset if values[i] == max(values[j] for j in subset)]
            total += Fraction(sum(row[i] for i in best), len(best) * len(subsets))
    return float(total / len(rows))


@pytest.mark.parametrize("k", range(1, 8))
def test_best_at_k_is_the_share_of_subsets_whose_best_sample_is_right(k):
    lengths = RNG.integers(1, 5, size=(7, 7)).tolist()
    judged = RNG.random((7, 7)).round(1).tolist()
    logprobs = (-RNG.integers(0, 8, size=(7, 7)) / 8).tolist()  # halves, so that means of equal ones are equal
    graded = graded_of(*ROWS, lengths=lengths, details=judged, logprobs=logprobs)
    scores = {
        "tokens": lengths,
        "-tokens": [[-n for n in row] for row in lengths],
        "details.judge": judged,
        "logprob": logprobs,
        "reward": ROWS,
    }
    for score, values in scores.items():
        found = estimates("best_of_k", graded, ks=[k], score=score)[f"best({score})@{k}"]
        assert found.value == pytest.approx(brute_best(ROWS, values, k), abs=1e-12)
    passed = estimates("pass_at_k", graded, ks=[k])[f"pass@{k}"]
    assert estimates("best_of_k", graded, ks=[k], score="reward")[f"best(reward)@{k}"].value == pytest.approx(
        passed.value
    )


def test_best_at_k_leaves_problems_without_the_score_out():
    graded = graded_of([1, 0], [0, 1], details=[[0.5, 0.25], [0.5, None]])
    found = estimates("best_of_k", graded, score="details.judge")["best(details.judge)@2"]
    assert (found.value, found.n_problems) == (1.0, 1)
    assert "1 problems with samples without the score left out" in found.method
    assert estimates("best_of_k", graded, score="details.other") == {}
    assert estimates("best_of_k", graded, score="logprob") == {}


@pytest.mark.parametrize("score", ["length", "details.", "", "--tokens"])
def test_an_unknown_score_is_refused(score):
    with pytest.raises(ConfigError, match=r"score is one of reward, tokens, logprob and details\.KEY"):
        estimates("best_of_k", graded_of([1]), score=score)


# --- strict majority --------------------------------------------------------------------------------------------


def test_the_strict_majority_needs_more_than_half_of_the_samples():
    for k in range(1, 8):
        expected = np.mean([np.mean([sum(s) > k / 2 for s in combinations(row, k)]) for row in ROWS])
        found = estimates("maj_at_k", graded_of(*ROWS), ks=[k], ties="strict")[f"maj(strict)@{k}"]
        assert found.value == pytest.approx(expected, abs=1e-12)


def test_new_metrics_are_computed_by_an_evaluation(tmp_path, capsys):
    metrics = '["bayes_at_n", "mg_pass_at_k", {id="best_of_k", score="-tokens"}, {id="maj_at_k", ties="strict"}]'
    arguments = ["--tasks", "countdown", "--n", "4", "--limit", "2", "--max-tokens", "8", "--quiet"]
    command = ["eval", "countdown-tiny", "--out", str(tmp_path / "run"), *arguments, "--set", f"metrics={metrics}"]
    assert main([*command, "--json"]) == 0
    capsys.readouterr()
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"bayes@4", "mg-pass@4", "best(-tokens)@4", "maj(strict)@4"} <= {
        e["name"] for rows in found.values() for e in rows
    }
