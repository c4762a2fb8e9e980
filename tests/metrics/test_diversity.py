"""Diversity metrics: brute force over subsets and loops, peers' definitions, and the properties that all must have."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from itertools import combinations, pairwise

import pytest
from diverse_samples import marked, per_problem, sample, values_of, written
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import config, registry
from harness.core.errors import ConfigError
from harness.core.types import Verdict
from harness.metrics.base.classes import normal_answer, normal_program
from harness.metrics.base.diversity import common_size
from harness.metrics.base.words import words
from harness.metrics.div_equ import equations

METRICS = sorted(name for name in registry.entries("metrics") if registry.load("metrics", name).measures_diversity)
LEXICAL = ("distinct_n", "ead", "self_bleu", "div_equ")
CHEAP = [name for name in METRICS if not registry.load("metrics", name).loads_model]
TEXT = st.lists(st.sampled_from(["a", "b", "c", "x = 1", "y = 2", "+"]), min_size=1, max_size=8).map(" ".join)


def mean_over_subsets(marks, m, value):
    subsets = list(combinations(marks, m))
    return sum(value(subset) for subset in subsets) / len(subsets)


# --- classes ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.text("abAB-", min_size=2, max_size=7), st.data())
def test_distinct_answers_and_entropy_agree_with_enumeration(marks, data):
    m = data.draw(st.integers(2, len(marks)))
    graded = marked(marks)
    suffix = "solved" if set(marks) & set("ab") else "unsolved"
    counted = mean_over_subsets(marks, m, lambda found: len(set(found) - {"-"}))
    assert values_of("distinct_answers", graded, samples=m) == {
        f"distinct_answers@{m}": pytest.approx(counted, abs=1e-12),
        f"distinct_answers_{suffix}@{m}": pytest.approx(counted, abs=1e-12),
    }

    def entropy(found):
        return -sum(c / m * math.log2(c / m) for c in Counter(found).values())

    found = values_of("answer_entropy", graded, samples=m)
    assert found[f"answer_entropy@{m}"] == pytest.approx(mean_over_subsets(marks, m, entropy), abs=1e-12)


def test_right_answers_without_a_solution_are_one_answer_and_solved_problems_are_apart():
    graded = [
        *(sample("p", i, "", Verdict("correct", 1.0, text)) for i, text in enumerate(["1/2", "0.5", r"\frac12"])),
        *(sample("q", i, "", Verdict("incorrect", 0.0, text, "wrong")) for i, text in enumerate(["3", "3.0", "4"])),
    ]
    found = values_of("distinct_answers", graded)
    assert found == {"distinct_answers@3": 1.5, "distinct_answers_solved@3": 1.0, "distinct_answers_unsolved@3": 2.0}


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\dfrac{1}{2}", "1/2", True),
        ("1,234", "1234", True),
        (r"\text{East}", "east", True),
        (r"\left( 1, 2 \right)", "(1,2)", True),
        ("(1,2)", "12", False),
        ("1/0", "0", False),
        ("x+1", "1+x", False),
        (r"\leftarrow", "arrow", False),
    ],
)
def test_normal_form_of_a_wrong_answer(one, other, is_same):
    assert (normal_answer(one) == normal_answer(other)) is is_same


@settings(max_examples=40, deadline=None)
@given(st.text("abcA", min_size=2, max_size=8))
def test_measures_of_solutions_agree_with_enumeration(marks):
    right = [mark for mark in marks if mark.islower()]
    graded = marked(marks)
    if len(right) < 2:
        for metric in ("coverage_at_n", "hill_numbers", "majority_share"):
            assert values_of(metric, graded) == {}
        return
    m = common_size([len(right)])
    curve = {size: mean_over_subsets(right, size, lambda s: len(set(s))) for size in (1, 2, 4, 8) if size <= m}
    expected = {f"coverage@{size}": pytest.approx(value, abs=1e-12) for size, value in curve.items() if size > 1}
    heights = list(curve.values())
    area = sum((a + b) / 2 for a, b in pairwise(heights)) / (len(heights) - 1)
    assert values_of("coverage_at_n", graded) == {**expected, f"coverage_area@{m}": pytest.approx(area, abs=1e-12)}
    assert values_of("hill_numbers", graded)[f"hill0@{m}"] == pytest.approx(curve[m], abs=1e-12)
    share = mean_over_subsets(right, m, lambda s: max(Counter(s).values()) / m)
    assert values_of("majority_share", graded)[f"majority_share@{m}"] == pytest.approx(share, abs=1e-12)


def test_coverage_takes_only_problems_with_enough_right_samples():
    graded = marked("aabbcc", "ab....".replace(".", "A"), "aAAAAA")
    found = config.parse_plugin("metrics", {"id": "coverage_at_n", "correct": 4}).build().estimate(graded)
    counts = {estimate.name: estimate.n_problems for estimate in found}
    assert counts == {"coverage@2": 2, "coverage@4": 1, "coverage_area@4": 1}
    assert "1 problems with fewer than 2 right samples left out" in found[0].method


def test_solutions_that_no_task_or_judge_identifies_give_no_estimate():
    assert values_of("coverage_at_n", marked("!!!!")) == {}
    assert values_of("hill_numbers", marked("!a!a")) == {}
    assert values_of("majority_share", marked("abab"), classes="strategy") == {}


def test_strategies_are_read_from_the_details_of_right_verdicts():
    verdicts = [Verdict("correct", 1.0, "1", details={"strategy": name}) for name in "uuvv"]
    graded = [sample("p", i, "", verdict) for i, verdict in enumerate(verdicts)]
    found = values_of("hill_numbers", graded, classes="strategy")
    assert found == {f"strategy_hill{q}@4": pytest.approx(2) for q in (0, 1, 2)}


def test_programs_are_equal_up_to_names_comments_and_layout():
    one = 'def f(a, b):\n    """Add."""\n    total = a + b  # sum\n    return total\n'
    two = "def f(x: int, y: int) -> int:\n    s = (x +\n         y)\n    return s"
    other = "def f(x, y):\n    return sum([x, y])"
    assert normal_program(one) == normal_program(two) != normal_program(other)
    assert normal_program("int main() { }") == normal_program("int main()\n{\n}\n")
    right = [Verdict("correct", 1.0, source, details={"verdict": "AC"}) for source in (one, two, other, other)]
    graded = [sample("p", i, "", verdict) for i, verdict in enumerate(right)]
    assert values_of("hill_numbers", graded)["hill0@4"] == 2


def test_wrong_programs_are_one_answer_if_they_did_the_same():
    wrong = [Verdict("incorrect", 0.0, f"print({i})", "WA", {"behaviour": name}) for i, name in enumerate("aab")]
    graded = [sample("p", i, "", verdict) for i, verdict in enumerate([*wrong, Verdict("correct", 1.0, "print(9)")])]
    assert values_of("distinct_answers", graded)["distinct_answers@4"] == 3


def test_novelty_agrees_with_its_definition_on_a_small_case():
    graded = marked("aA")  # a right and a wrong answer, in either order
    found = values_of("novelty_utility", graded)["novelty_utility@2"]
    assert found == pytest.approx((1 + 0.8) / 2 * 0.2 / (1 - 0.64))
    assert values_of("novelty_distinct", graded) == {"novelty_distinct@2": 2.0}


def test_slope_of_pass_at_k_is_the_least_squares_slope():
    found = values_of("pass_slope", marked("aAAA", "AAAA"))  # pass@1, 2, 4 are 1/4, 1/2, 1 and 0
    assert found["pass_slope@4"] == pytest.approx((1 - 0.25) / 2 / 2)
    assert found["pass_gain@4"] == pytest.approx(0.75 / 2)


# --- texts --------------------------------------------------------------------------------------------------------


def ngrams(text, n):
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=5))
def test_distinct_n_and_ead_agree_with_loops(texts):
    graded, m = written(texts), len(texts)
    found = values_of("distinct_n", graded, orders=[1, 3])
    every = [gram for text in texts for gram in ngrams(text, 3)]
    assert found[f"distinct-1@{m}"] == len({w for t in texts for w in words(t)}) / sum(len(words(t)) for t in texts)
    assert found.get(f"distinct-3@{m}") == (len(set(every)) / len(every) if every else None)
    adjusted = values_of("ead", graded, most=2, vocabulary=50)
    pooled = [[gram for text in texts for gram in ngrams(text, n)] for n in (1, 2)]
    if all(pooled):
        expected = sum(len(set(g)) / (50 * (1 - (49 / 50) ** len(g))) for g in pooled) / 2
        assert adjusted[f"ead@{m}"] == pytest.approx(expected, rel=1e-12)
    else:
        assert adjusted == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=5))
def test_self_bleu_is_that_of_sacrebleu(texts):
    bleu = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not installed; `tox -e peers` runs this")
    scorer = bleu.BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=True)
    spaced = [" ".join(words(text)) for text in texts]
    scores = [scorer.sentence_score(t, spaced[:i] + spaced[i + 1 :]).score / 100 for i, t in enumerate(spaced)]
    found = values_of("self_bleu", written(texts), correct=len(texts))
    expected = pytest.approx(max(0, 1 - sum(scores) / len(scores)), abs=1e-9)
    assert found == {f"1-self_bleu@{len(texts)}": expected, f"1-self_bleu_correct@{len(texts)}": expected}


def naive_self_bleu(texts):
    translate = pytest.importorskip(
        "nltk.translate.bleu_score", reason="nltk is not installed; `tox -e peers` runs this"
    )
    smooth = translate.SmoothingFunction().method1
    split = [words(text) for text in texts]
    scores = [
        translate.sentence_bleu(split[:i] + split[i + 1 :], text, smoothing_function=smooth)
        for i, text in enumerate(split)
    ]
    return 1 - sum(scores) / len(scores)


def long_texts(n, n_words, seed=0):
    source = random.Random(seed)
    names = [f"w{i}" for i in range(60)]
    return [" ".join(source.choices(names, k=n_words)) for _ in range(n)]


def test_self_bleu_is_that_of_nltk_at_a_tenth_of_its_time():
    texts = long_texts(24, 120)
    began = time.process_time()
    expected = naive_self_bleu(texts)
    theirs = time.process_time() - began
    values_of("self_bleu", written(texts))  # the first call imports
    began = time.process_time()
    found = values_of("self_bleu", written(texts))
    ours = time.process_time() - began
    assert found["1-self_bleu@24"] == pytest.approx(expected, abs=1e-12)
    assert theirs > 10 * ours


def test_equations_of_text_and_latex():
    text = r"So $x = 3\cdot 4=12$, y=2x+ 1. \begin{align*} a &= b \\ c &= \left(d\right) \end{align*} Here = 5; "
    text += "4*9=36;36+2=38"
    assert equations(text) == ["x=3*4", "3*4=12", "y=2x+1", "a=b", "c=(d)", "4*9=36", "36+2=38"]
    assert equations("no equation, x + y") == equations("") == []
    assert values_of("div_equ", written(["a=1, b=2", "a = 1", "c=3"]))["div_equ@3"] == pytest.approx(3 / 4)
    assert values_of("div_equ", written(["none", "none"])) == {}


def test_long_runs_without_an_equation_cost_linear_time():
    began = time.process_time()
    assert equations("1+" * 200_000) == []
    assert time.process_time() - began < 5


# --- every metric -------------------------------------------------------------------------------------------------


def test_there_is_one_file_for_each_measure():
    assert set(METRICS) >= {"answer_entropy", "coverage_at_n", "distinct_answers", "distinct_n", "div_equ", "ead",
                            "hill_numbers", "majority_share", "novelty_distinct", "novelty_utility", "pass_slope",
                            "self_bleu"}  # fmt: skip


@pytest.mark.parametrize("metric", CHEAP)
def test_one_or_no_sample_or_only_ungraded_ones_give_no_estimate(metric):
    for graded in (marked("a"), marked("A", "b"), marked("??"), marked("a?"), []):
        assert values_of(metric, graded) == {}


@pytest.mark.parametrize("metric", CHEAP)
def test_without_a_right_sample_no_right_only_estimate_is_given(metric):
    names = values_of(metric, marked("ABA-", "BBBB"))
    assert not any("correct" in name or "coverage" in name or "hill" in name or "majority" in name for name in names)


@pytest.mark.parametrize("metric", CHEAP)
@pytest.mark.parametrize("texts", [["", "", ""], ["same text = 1"] * 4, ["   ", "\n", ""]])
def test_equal_and_empty_texts_have_the_smallest_value(metric, texts):
    verdict = Verdict("correct", 1.0, "1", details={"solution": "s"})
    graded = [sample("p", i, text, verdict) for i, text in enumerate(texts)]
    for name, value in values_of(metric, graded).items():
        least = {"majority_share": 1.0, "coverage": 1.0, "hill": 1.0, "distinct_answers": 1.0, "novelty_distinct": 1.0}
        smallest = next((v for prefix, v in least.items() if name.startswith(prefix)), None)
        if smallest is not None:
            assert value == pytest.approx(smallest)
        elif name.startswith(("1-self_bleu", "answer_entropy", "pass_")):
            assert value == pytest.approx(0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(TEXT, st.sampled_from("abAB-")), min_size=2, max_size=8), st.randoms())
def test_the_order_of_samples_and_their_arrival_has_no_effect(samples, source):
    shuffled = source.sample(samples, len(samples))
    for metric in CHEAP:
        options = {} if metric in ("coverage_at_n", "hill_numbers", "majority_share") else {"samples": len(samples)}
        first, second = (
            {n: v for n, v in values_of(metric, as_graded(some), **options).items() if "correct" not in n}
            for some in (samples, shuffled)
        )
        assert first == pytest.approx(second, abs=1e-9)
        arrived = as_graded(samples)
        source.shuffle(arrived)
        assert values_of(metric, arrived) == values_of(metric, as_graded(samples))


def as_graded(samples):
    marks = marked("".join(mark for _, mark in samples))
    return [sample("p", i, text, item.verdict) for i, ((text, _), item) in enumerate(zip(samples, marks, strict=True))]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(TEXT, st.sampled_from("abA")), min_size=2, max_size=5))
def test_duplicates_of_every_sample_never_raise_diversity(samples):
    """Measures over all samples; `ead` sees twice the words, so its value falls as well."""
    for metric in set(CHEAP) - {"pass_slope"}:
        fixed = {"samples": len(samples)} if metric not in LEXICAL else {}
        once, twice = (values_of(metric, as_graded(some), **fixed) for some in (samples, [*samples, *samples]))
        for name, value in once.items():
            family = name.partition("@")[0]
            others = {other.partition("@")[0]: found for other, found in twice.items()}
            if "correct" in name or family not in others or family in ("majority_share", "coverage_area"):
                continue
            if metric in ("coverage_at_n", "hill_numbers"):
                continue  # they choose their own N here; `test_measures_of_solutions...` has the formula
            assert others[family] <= value + 1e-9, name


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.tuples(TEXT, st.sampled_from("abA-?")), min_size=1, max_size=6), min_size=1, max_size=4))
def test_values_lie_in_their_intervals_and_bounds(problems):
    graded = [
        sample(f"p{place}", i, text, item.verdict)
        for place, samples in enumerate(problems)
        for i, ((text, _), item) in enumerate(zip(samples, marked("".join(m for _, m in samples)), strict=True))
    ]
    for metric in CHEAP:
        for estimate in config.parse_plugin("metrics", {"id": metric}).build().estimate(graded):
            assert estimate.low - 1e-12 + 2e-12 >= 0 and estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9
            size = int(estimate.name.rpartition("@")[2])
            is_count = estimate.name.startswith(("coverage", "hill", "novelty_distinct", "distinct_answers"))
            assert estimate.value <= (size if is_count else max(1.6, math.log2(size))) + 1e-9


def test_equal_numbers_of_samples_are_taken_in_disjoint_blocks():
    texts = ["a b", "a b", "c d", "e f", "g h"]
    found = per_problem("distinct_n", written(texts), samples=2, orders=[1])["distinct-1@2"]["p0"]
    assert found == pytest.approx((2 / 4 + 4 / 4) / 2)  # the fifth has no partner


def test_the_size_of_right_only_values_is_one_that_half_of_the_solved_problems_have():
    assert [common_size(n) for n in ([], [1, 0], [2], [3, 2], [9, 8, 2], [64, 63, 5, 1], [16, 16, 16])] == [
        None, None, 2, 2, 8, 32, 16]  # fmt: skip


def test_sizes_below_two_are_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        config.parse_plugin("metrics", {"id": "ead", "samples": 1})


def test_the_group_gives_every_cheap_estimate():
    graded = marked("aabbA-AA", "cccAAA--")
    together = values_of("diversity", graded)
    alone = {name: value for metric in CHEAP for name, value in values_of(metric, graded).items()}
    assert together == alone
    assert len(together) == 17
