"""Metrics against brute force over subsets, and the two promises: order is nothing, ungraded is not wrong."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import config
from harness.core.errors import ConfigError, PluginError, UsageError
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.evaluation.config import EvalConfig
from harness.stats.intervals import hierarchical_interval, mean_interval

METRICS = (
    "avg_at_k",
    "pass_at_k",
    "distinct_at_k",
    "pass_hat_k",
    "g_pass_at_k",
    "mg_pass_at_k",
    "bayes_at_n",
    "best_of_k",
    "maj_at_k",
    "potential_at_k",
    "tokens",
    "truncated",
    "no_answer",
)
TOKENS = Tokens(1, 1)


def verdict_of(mark):
    """`.` and capitals are wrong answers, `-` is none, `?` ungraded, `!` right without a solution, any other character
    right with that solution."""
    if mark == "." or mark.isupper():
        return Verdict("incorrect", 0.0, mark, "wrong")
    if mark == "-":
        return Verdict("incorrect", 0.0, reason="no answer")
    if mark == "?":
        return Verdict("ungraded", None, reason="timeout")
    return Verdict("correct", 1.0, mark, details={} if mark == "!" else {"solution": mark})


def graded_of(*marks, **named):
    """One problem for each text, one sample for each of its characters."""
    texts = {**{f"p{i}": text for i, text in enumerate(marks)}, **named}
    return [
        Graded(Problem(name, "t", (), None), Completion(name, i, 0, mark, "stop", TOKENS), verdict_of(mark))
        for name, text in texts.items()
        for i, mark in enumerate(text)
    ]


def estimates(metric, graded, **options):
    found = config.parse_plugin("metrics", {"id": metric, **options}).build().estimate(graded)
    return {estimate.name: estimate for estimate in found}


def brute_mean(texts, k, value):
    """The mean over problems of the mean over all subsets of k samples, exactly."""
    means = []
    for text in texts:
        subsets = list(combinations(text, k))
        means.append(Fraction(sum(value(subset) for subset in subsets), len(subsets)))
    return float(sum(means) / len(means))


def any_right(subset):
    return any(mark != "." for mark in subset)


def n_distinct(subset):
    return len(set(subset) - {"."})


SAMPLES = st.lists(st.text("ab.?", min_size=1, max_size=7), min_size=1, max_size=6)
FULL = st.integers(1, 7).flatmap(lambda n: st.lists(st.text("abc.", min_size=n, max_size=n), min_size=1, max_size=4))


# --- values -----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(FULL)
def test_avg_pass_and_distinct_agree_with_brute_force(texts):
    graded, n = graded_of(*texts), len(texts[0])
    average = estimates("avg_at_k", graded)
    assert average[f"avg@{n}"].value == pytest.approx(brute_mean(texts, 1, any_right), abs=1e-14)
    assert list(average) == [f"avg@{n}"]
    for k in range(1, n + 1):
        passed = estimates("pass_at_k", graded, ks=[k])[f"pass@{k}"]
        distinct = estimates("distinct_at_k", graded, ks=[k])[f"distinct@{k}"]
        assert passed.value == pytest.approx(brute_mean(texts, k, any_right), abs=1e-14)
        assert distinct.value == pytest.approx(brute_mean(texts, k, n_distinct), abs=1e-13)


@settings(max_examples=8, deadline=None)
@given(SAMPLES)
def test_every_metric_value_lies_in_its_interval(texts):
    for metric in METRICS:
        for estimate in estimates(metric, graded_of(*texts)).values():
            if estimate.n_problems > 0:
                # The bootstrap's quantile and the mean are sums in different order.
                assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12


def test_problems_have_equal_weight_for_any_number_of_samples():
    average = estimates("avg_at_k", graded_of("aaaa", "."))["avg@4"]
    assert average.value == 0.5
    assert "1 to 4 graded samples per problem" in average.method


def test_avg_at_k_can_draw_samples_too():
    graded = graded_of("a...", "ab..", "aaa?")
    plain, drawn = (estimates("avg_at_k", graded, draw_samples=choice)["avg@4"] for choice in (False, True))
    assert drawn.value == plain.value
    assert (drawn.low, drawn.high) == hierarchical_interval([1, 2, 3], [4, 4, 3])
    assert drawn.method.startswith("95% bootstrap over 3 problems and the samples of each, 10000 draws, seed 0; ")
    assert estimates("avg_at_k", graded_of("aa", "bb"), draw_samples=True) == estimates(
        "avg_at_k", graded_of("aa", "bb")
    )


def test_default_ks_of_each_metric_family():
    graded = graded_of("a.b.a." * 4, "......" * 4)
    assert list(estimates("pass_at_k", graded)) == ["pass@1", "pass@2", "pass@4", "pass@8", "pass@16", "pass@24"]
    assert list(estimates("distinct_at_k", graded)) == ["distinct@1", "distinct@4", "distinct@16", "distinct@24"]
    assert list(estimates("pass_at_k", graded_of("a...", "...."))) == ["pass@1", "pass@2", "pass@4"]
    assert list(estimates("pass_at_k", graded_of("a"))) == ["pass@1"]


def test_a_family_ends_at_the_smallest_count_of_graded_samples():
    graded = graded_of("a.b.a.bb", "a..????.", "????????")
    assert list(estimates("pass_at_k", graded)) == ["pass@1", "pass@2", "pass@4"]


def test_every_k_gives_an_estimate_for_each_k():
    graded = graded_of("a..b.", ".....b", "????")
    found = estimates("pass_at_k", graded, every_k=True)
    assert list(found) == [f"pass@{k}" for k in range(1, 6)]
    for k in range(1, 6):
        assert found[f"pass@{k}"] == estimates("pass_at_k", graded, ks=[k])[f"pass@{k}"]
    with pytest.raises(ConfigError, match="set only one of them"):
        estimates("pass_at_k", graded, ks=[1], every_k=True)


PER_PROBLEM = ["avg_at_k", "pass_at_k", "pass_hat_k", "g_pass_at_k", "maj_at_k", "tokens", "truncated"]


@pytest.mark.parametrize("metric", PER_PROBLEM)
def test_an_estimate_is_the_mean_of_its_values_per_problem(metric):
    graded = graded_of("!X-!", "!!!?", "XXX-", "??", named="!!!!!")
    plugin = config.parse_plugin("metrics", metric).build()
    means = {name: (sum(of.values()) / len(of), len(of)) for name, of in plugin.per_problem(graded).items()}
    found = {e.name: (pytest.approx(e.value), e.n_problems) for e in plugin.estimate(graded) if "right" not in e.name}
    assert means == found and found
    assert "p3" not in {problem for of in plugin.per_problem(graded).values() for problem in of}


def test_metric_intervals_resample_problems_of_one_cluster_together():
    marks = ["aa", "..", "a."] * 8
    graded = [
        replace(item, problem=replace(item.problem, tags={"cluster": f"c{int(item.problem.id[1:]) // 2}"}))
        for item in graded_of(*(marks[i // 2] for i in range(48)))
    ]
    values = [{"aa": 1.0, "..": 0.0, "a.": 0.5}[marks[i // 2]] for i in range(48)]
    expected = mean_interval(values, clusters=[i // 2 for i in range(48)])
    found = estimates("avg_at_k", graded)["avg@2"]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.method == "95% t, skewness and unseen problems over 24 clusters of 48 problems"


def test_configured_ks_are_sorted_and_unique():
    assert list(estimates("pass_at_k", graded_of("a..."), ks=[3, 1, 3])) == ["pass@1", "pass@3"]


@pytest.mark.parametrize("metric", ["pass_at_k", "distinct_at_k"])
def test_a_k_larger_than_any_count_is_refused(metric):
    with pytest.raises(UsageError, match="k = 5 needs that many graded samples of a problem, and there are 4 at most"):
        estimates(metric, graded_of("a...", "..."), ks=[2, 5])
    with pytest.raises(ConfigError, match="at least 1"):
        estimates(metric, graded_of("a"), ks=[0])


def test_problems_with_too_few_samples_are_left_out_of_that_k_and_counted():
    found = estimates("pass_at_k", graded_of("a...", "ab", ".b??"), ks=[1, 3])
    assert found["pass@1"].n_problems == 3
    assert found["pass@3"].n_problems == 1
    assert found["pass@3"].value == 0.75
    assert found["pass@3"].n_completions == 4
    assert "2 problems with fewer than 3 graded samples left out" in found["pass@3"].method
    assert "left out" not in found["pass@1"].method


# --- votes, shares, tokens ----------------------------------------------------------------------------------------

VOTES = st.integers(1, 7).flatmap(lambda n: st.lists(st.text("!XY-", min_size=n, max_size=n), min_size=1, max_size=4))


def vote(subset, right="!"):
    """The credit of the vote, by counting it."""
    counts = Counter(mark for mark in subset if mark != "-")
    best = [mark for mark, count in counts.items() if count == max(counts.values())]
    return Fraction(sum(mark in right for mark in best), len(best)) if best else 0


@settings(max_examples=8, deadline=None)
@given(VOTES)
def test_pass_hat_k_g_pass_and_the_vote_agree_with_brute_force(texts):
    graded, n = graded_of(*texts), len(texts[0])
    for k in range(1, n + 1):
        every = estimates("pass_hat_k", graded, ks=[k])[f"pass-all@{k}"]
        assert every.value == pytest.approx(brute_mean(texts, k, lambda s: set(s) == {"!"}), abs=1e-14)
        for tau in (0.01, 0.75):
            enough = estimates("g_pass_at_k", graded, ks=[k], taus=[tau])[f"g-pass(tau={tau:g})@{k}"]
            expected = brute_mean(texts, k, lambda s: s.count("!") >= max(1, tau * k))  # noqa: B023
            assert enough.value == pytest.approx(expected, abs=1e-14)
        majority = estimates("maj_at_k", graded, ks=[k])[f"maj@{k}"]
        assert majority.value == pytest.approx(brute_mean(texts, k, vote), abs=1e-12)


def test_different_right_solutions_are_different_answers():
    texts = ["aabXX-", "abXXXb"]
    for k in range(1, 7):
        found = estimates("maj_at_k", graded_of(*texts), ks=[k])[f"maj@{k}"]
        assert found.value == pytest.approx(brute_mean(texts, k, lambda s: vote(s, "ab")), abs=1e-12)


def test_a_vote_of_many_samples_is_exact():
    """Two answers: the right one wins when it has more than half, that is a hypergeometric number."""
    for n, c, k in ((64, 40, 17), (1000, 480, 101), (4000, 2100, 999)):
        found = estimates("maj_at_k", graded_of("!" * c + "X" * (n - c)), ks=[k])[f"maj@{k}"]
        assert found.value == pytest.approx(scipy.stats.hypergeom.sf(k // 2, n, c, k), abs=1e-9)


def test_answers_that_differ_by_spaces_are_one_answer():
    def wrong(text, index):
        verdict = Verdict("incorrect", 0.0, text, "wrong")
        return Graded(Problem("p0", "t", (), None), Completion("p0", index, 0, "", "stop", TOKENS), verdict)

    graded = [*graded_of("!"), wrong("x + 1", 1), wrong("x+1", 2)]
    assert estimates("maj_at_k", graded, ks=[3])["maj@3"].value == 0


def test_tau_times_k_is_computed_in_decimals():
    """0.28 x 25 is 7, though not as floats."""
    found = estimates("g_pass_at_k", graded_of("!" * 7 + "." * 18), ks=[25], taus=[0.28])
    assert found["g-pass(tau=0.28)@25"].value == 1.0


@pytest.mark.parametrize("taus", [[], [0.0], [1.1]])
def test_a_tau_out_of_range_is_refused(taus):
    with pytest.raises(ConfigError, match="every tau must be above 0"):
        estimates("g_pass_at_k", graded_of("a"), taus=taus)


def unread(outcome, reason, text=None):
    verdict = Verdict(outcome, 1.0 if outcome == "correct" else 0.0, text, reason)
    return Graded(Problem("p9", "t", (), None), Completion("p9", 0, 0, "", "stop", TOKENS), verdict)


@pytest.mark.parametrize("item", [unread("correct", ""), unread("incorrect", "wrong")])
def test_vote_and_missing_answer_rate_are_absent_without_answers(item):
    assert estimates("maj_at_k", [*graded_of("a."), item]) == {}
    assert estimates("no_answer", [*graded_of("a."), item]) == {}


def test_programs_are_not_voted_on():
    assert estimates("maj_at_k", [unread("correct", "", "def f():\n    return 1\n")]) == {}


@settings(max_examples=10, deadline=None)
@given(SAMPLES)
def test_potential_at_k_is_the_share_of_misses_that_k_samples_find(texts):
    texts = [text.replace("?", "a") for text in texts] + ["a."]
    k = min(map(len, texts))
    found = estimates("potential_at_k", graded_of(*texts), ks=[k])[f"potential@{k}"]
    missed = [1 - brute_mean([text], 1, any_right) for text in texts]
    chances = [brute_mean([text], k, any_right) for text in texts]
    expected = sum(c * m for c, m in zip(chances, missed, strict=True)) / sum(missed)
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_potential_at_k_is_absent_without_missed_problems():
    assert estimates("potential_at_k", graded_of("aa", "bb")) == {}


def test_truncated_and_no_answer_are_rates_of_graded_samples():
    graded = graded_of("a.-?", "--..", "????")
    graded = [
        replace(item, completion=replace(item.completion, finish_reason="length"))
        if (item.problem.id, item.completion.index) in {("p0", 0), ("p1", 0), ("p0", 3)}
        else item
        for item in graded
    ]
    cut = estimates("truncated", graded)["truncated"]
    assert cut.value == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert (cut.n_problems, cut.n_completions, cut.n_ungraded) == (2, 7, 5)
    # What was cut off is not a failure of form.
    assert estimates("no_answer", graded)["no answer"].value == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert estimates("no_answer", graded_of("a.-?", "--.."))["no answer"].value == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_tokens_of_graded_samples_and_of_right_answers():
    lengths = {"a": 30, ".": 10, "?": 1000}
    graded = [
        replace(item, completion=replace(item.completion, tokens=Tokens(5, lengths[item.completion.text])))
        for item in graded_of("a.", "aa?", "a...", "????")
    ]
    found = estimates("tokens", graded)
    assert found["tokens"].value == pytest.approx((20 + 30 + 15) / 3)
    assert found["tokens per right answer"].value == pytest.approx((40 + 60 + 60) / 4)
    assert found["tokens"].n_ungraded == found["tokens per right answer"].n_ungraded == 5
    assert found["tokens per right answer"].low == pytest.approx(30, abs=1)


def test_tokens_of_right_answers_need_right_answers():
    assert list(estimates("tokens", graded_of("..", ".."))) == ["tokens"]
    assert list(estimates("tokens", graded_of("a", *["."] * 29))) == ["tokens"]


def test_engine_seconds_of_right_answers():
    graded = [
        replace(item, completion=replace(item.completion, engine_s=0.5 if item.completion.text == "a" else 2.0))
        for item in graded_of("a.", "aa?", "a...", "????")
    ]
    found = estimates("engine_time", graded)["engine seconds per right answer"]
    assert found.value == pytest.approx((2.5 + 1.0 + 6.5) / 4)
    assert (found.n_completions, found.n_ungraded) == (8, 5)
    assert found.low == pytest.approx(0.5, abs=0.01) and found.high > found.value
    untimed = replace(graded[0], completion=replace(graded[0].completion, engine_s=None))
    assert estimates("engine_time", [untimed, *graded[1:]]) == {}
    assert estimates("engine_time", graded_of("..", "..")) == {}


def test_costs_of_samples_and_of_right_answers():
    def paid(item, usd):
        return replace(item, completion=replace(item.completion, tokens=Tokens(5, 5, cost_usd=usd)))

    graded = [
        paid(item, 0.0005 if item.completion.text == "a" else 0.002) for item in graded_of("a.", "aa?", "a...", "????")
    ]
    found = estimates("cost", graded)
    assert found["USD per 1000 samples"].value == pytest.approx((1.25 + 0.5 + 1.625) / 3)
    assert found["USD per 1000 right answers"].value == pytest.approx((2.5 + 1.0 + 6.5) / 4)
    assert found["USD per 1000 samples"].n_ungraded == found["USD per 1000 right answers"].n_ungraded == 5
    assert estimates("cost", [paid(graded[0], None), *graded[1:]]) == {}
    assert list(estimates("cost", [paid(item, 0.0) for item in graded_of("..", "..")])) == ["USD per 1000 samples"]
    assert estimates("cost", graded_of("??")) == {}


def test_a_k_above_n_is_refused_before_anything_is_generated():
    settings = {"model": {"path": "x"}, "tasks": ["countdown"], "n": 4}
    with pytest.raises(ConfigError, match="the metric maj_at_k needs k = 8 samples per problem, and n is 4"):
        config.parse(EvalConfig, {**settings, "metrics": [{"id": "maj_at_k", "ks": [1, 8]}]})
    config.parse(EvalConfig, {**settings, "metrics": [{"id": "maj_at_k", "ks": [1, 4]}]})


# --- solutions --------------------------------------------------------------------------------------------------


def test_distinct_count_is_absent_without_solutions():
    assert estimates("distinct_at_k", graded_of("!!..", "...!")) == {}


def test_a_grader_that_identifies_only_some_solutions_is_refused():
    with pytest.raises(
        PluginError, match=r"2 of 4 right verdicts lack details\['solution'\], among them that of p1\[1\]"
    ):
        estimates("distinct_at_k", graded_of("ab..", ".!!.")[::-1])


def test_distinct_count_is_zero_without_right_answers():
    found = estimates("distinct_at_k", graded_of("....", "...."))
    assert found["distinct@4"].value == 0.0
    assert found["distinct@4"].high < 4


def test_the_distinct_count_never_exceeds_k():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 49)))
    found = estimates("distinct_at_k", graded_of(text, text, "." * 49))
    for k in (1, 4, 16, 49):
        assert found[f"distinct@{k}"].value == pytest.approx(k * 2 / 3)
        assert found[f"distinct@{k}"].high <= k


# --- the two promises -------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(SAMPLES, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_completions(texts, random):
    graded = graded_of(*texts)
    shuffled = random.sample(graded, len(graded))
    for metric in METRICS:
        assert repr(estimates(metric, graded)) == repr(estimates(metric, shuffled))


@settings(max_examples=8, deadline=None)
@given(SAMPLES, st.integers(1, 5))
def test_ungraded_completions_never_count_as_wrong(texts, n_more):
    """Completions that could not be graded change nothing but their count."""
    texts = ["a" + text for text in texts]
    for metric in METRICS:
        before = estimates(metric, graded_of(*texts))
        after = estimates(metric, graded_of(*(text + "?" * n_more for text in texts)))
        for name, estimate in before.items():
            for field in ("value", "low", "high", "n_problems", "n_completions", "method"):
                assert getattr(after[name], field) == getattr(estimate, field)
            assert after[name].n_ungraded == estimate.n_ungraded + n_more * len(texts)


def test_a_problem_that_was_never_graded_is_left_out_and_counted():
    for metric in METRICS:
        for name, estimate in estimates(metric, graded_of("aa", "..", "??")).items():
            assert (estimate.n_problems, estimate.n_completions, estimate.n_ungraded) == (2, 4, 2), name
            assert "left out" in estimate.method
    assert estimates("avg_at_k", graded_of("aa", "..", "??"))["avg@2"].value == 0.5


def test_metrics_without_graded_completions_give_no_estimate():
    assert estimates("avg_at_k", graded_of("??", "??")) == {}
    assert estimates("pass_at_k", graded_of("??", "??")) == {}
    assert estimates("distinct_at_k", graded_of("??", "??")) == {}


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_without_completions_give_no_estimate(metric):
    assert estimates(metric, []) == {}


def test_importing_metrics_does_not_import_numpy():
    script = (
        "import sys; from harness.core.registry import load\n"
        f"for name in {METRICS}: load('metrics', name)\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
