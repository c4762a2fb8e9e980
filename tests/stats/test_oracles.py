"""Metrics and intervals against scorio and evalstats, in the tox environment `oracles`."""

import numpy as np
import pytest

from harness.core import config
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.stats.intervals import mean_interval
from harness.stats.paired_tests import difference_interval, holm, mcnemar, sign_flip

RNG = np.random.default_rng(6)
OUTCOMES = np.vstack([RNG.integers(0, 2, size=(10, 8)), np.ones((1, 8), int), np.zeros((1, 8), int)])


def graded():
    return [
        Graded(
            Problem(f"p{i:02}", "t", (), None),
            Completion(f"p{i:02}", j, 0, "x", "stop", Tokens(1, 1)),
            Verdict("correct" if right else "incorrect", float(right), "x", "" if right else "wrong"),
        )
        for i, row in enumerate(OUTCOMES)
        for j, right in enumerate(row)
    ]


def estimates(metric, **options):
    found = config.parse_plugin("metrics", {"id": metric, **options}).build().estimate(graded())
    return {estimate.name: estimate for estimate in found}


@pytest.fixture
def scorio():
    return pytest.importorskip("scorio").eval


@pytest.fixture
def evalstats():
    return pytest.importorskip("evalstats")


@pytest.mark.parametrize("k", range(1, 9))
def test_metrics_agree_with_scorio(scorio, k):
    ours = {
        "pass": estimates("pass_at_k", ks=[k])[f"pass@{k}"].value,
        "hat": estimates("pass_hat_k", ks=[k])[f"pass-all@{k}"].value,
        "mg": estimates("mg_pass_at_k", ks=[k])[f"mg-pass@{k}"].value,
        "strict": estimates("maj_at_k", ks=[k], ties="strict")[f"maj(strict)@{k}"].value,
        "max": estimates("best_of_k", ks=[k], score="reward")[f"best(reward)@{k}"].value,
        **{f"g{tau}": e.value for tau in (0.25, 0.5, 0.75, 1.0) for e in g_pass(k, tau)},
    }
    theirs = {
        "pass": scorio.pass_at_k(OUTCOMES, k),
        "hat": scorio.pass_hat_k(OUTCOMES, k),
        "mg": scorio.mg_pass_at_k(OUTCOMES, k),
        "strict": scorio.maj_at_k(OUTCOMES, k),
        "max": scorio.max_at_k(OUTCOMES, k),
        **{f"g{tau}": scorio.g_pass_at_k_tau(OUTCOMES, k, tau) for tau in (0.25, 0.5, 0.75, 1.0)},
    }
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_avg_agrees_with_scorio(scorio):
    # Their error is over samples of these problems, ours over problems, so the values alone are the same.
    (found,) = estimates("avg_at_k").values()
    assert found.value == pytest.approx(scorio.avg(OUTCOMES)[0], abs=1e-12)


def test_avg_and_its_interval_agree_with_evalstats(evalstats):
    """Both are the t interval of the problems' means where these are many and not skewed."""
    half = RNG.random(150) / 2
    means = np.concatenate([0.5 + half, 0.5 - half])
    theirs = paired(evalstats, means, "t_interval")
    found = mean_interval(means)
    assert (found.low, found.high) == pytest.approx((theirs.ci_low, theirs.ci_high), rel=1e-6)
    assert theirs.point_diff == pytest.approx(np.mean(means), abs=1e-12)


def g_pass(k, tau):
    return estimates("g_pass_at_k", ks=[k], taus=[tau]).values()


def test_bayes_at_n_agrees_with_scorio(scorio):
    mean, _, low, high = scorio.bayes_ci(OUTCOMES, bounds=(0.0, 1.0))
    found = estimates("bayes_at_n")["bayes@8"]
    assert (found.value, found.low, found.high) == pytest.approx((mean, low, high), rel=1e-9)


def test_prior_samples_agree_with_scorio(scorio):
    """Two prior samples of each problem, one of them right, on top of the uniform prior."""
    mean, _, low, high = scorio.bayes_ci(OUTCOMES, R0=np.tile([0, 1], (12, 1)), bounds=(0.0, 1.0))
    found = estimates("bayes_at_n", prior_right=2, prior_wrong=2)["bayes@8"]
    assert (found.value, found.low, found.high) == pytest.approx((mean, low, high), rel=1e-9)


def paired(evalstats, differences, method):
    scores = np.stack([np.zeros(len(differences)), differences])
    return evalstats.pairwise_differences(scores, 1, 0, method=method, rng=np.random.default_rng(0))


def test_the_interval_of_many_differences_agrees_with_evalstats(evalstats):
    """Without skewness, and with many problems that differ, ours is their t interval."""
    half = RNG.random(100) / 2
    differences = np.concatenate([0.05 + half, 0.05 - half])
    theirs = paired(evalstats, differences, "t_interval")
    found = difference_interval(differences)
    assert (found.low, found.high) == pytest.approx((theirs.ci_low, theirs.ci_high), rel=1e-6)


def test_the_sign_flip_test_agrees_with_evalstats(evalstats):
    differences = RNG.normal(0.03, 0.2, size=60)
    theirs = paired(evalstats, differences, "permutation")
    # Both draw 10,000 signs.
    assert sign_flip(differences).p == pytest.approx(theirs.p_value, abs=0.02)


def test_single_samples_agree_with_evalstats_sign_test(evalstats):
    differences = np.array([1.0] * 9 + [-1.0] * 3 + [0.0] * 20)
    assert mcnemar(3, 9) == pytest.approx(paired(evalstats, differences, "sign_test").p_value, rel=1e-9)


def test_rates_of_zero_or_one_agree_with_the_beta_posterior_of_evalstats(evalstats):
    """Bayes@N of one problem against their credible interval: one is normal, one exact, and both have a width."""
    values = OUTCOMES[0].astype(float)
    low, high = evalstats.bayes_binary_ci_1d(values, 0.05)
    one = [item for item in graded() if item.problem.id == "p00"]
    (found,) = config.parse_plugin("metrics", {"id": "bayes_at_n"}).build().estimate(one)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)


def test_holm_agrees_with_evalstats(evalstats):
    from evalstats.core import stats_utils

    p_values = [0.01, 0.04, 0.03, 0.2]
    assert holm(p_values) == pytest.approx(list(stats_utils.correct_pvalues(np.array(p_values), "holm")), rel=1e-12)
