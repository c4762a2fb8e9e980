"""Countdown in two to five steps: enumeration, verdicts, demonstrations and splits, against a brute force."""

import time
from collections import Counter
from functools import cache
from itertools import combinations_with_replacement, islice
from random import Random

import pytest

from harness.core import config, registry
from harness.core.errors import ConfigError
from harness.core.types import Completion, Message, Problem, Tokens
from harness.graders.countdown import GRADER
from harness.graders.countdown.rules import RunningTotalReference
from harness.graders.countdown.running_totals import draw_legal_chain, draw_text, text_counts, writings
from harness.tasks.countdown import TASK as TWO_STEPS
from harness.tasks.countdown_steps import TASK
from tests.support.arithmetic_trees import brute_values, counted

SPLITS = ("train", "validation", "test")
MULTISETS = list(combinations_with_replacement(range(1, 10), 6))
GIVEN = (1, 2, 4, 5, 7, 9)


def problem_of(numbers=GIVEN, target=38):
    return Problem("p", "countdown_steps", (), RunningTotalReference(tuple(numbers), target))


def verdict_of(text, problem=None, finish_reason="stop"):
    completion = Completion("p", 0, 0, text, finish_reason, Tokens(9, 12))
    return GRADER(GRADER.Config()).grade(problem if problem is not None else problem_of(), completion)


def task_of(**options):
    return TASK(config.parse(TASK.Config, options))


def one_pass(task, split, seed=0):
    """Every problem of a split once: `train` goes round for ever, so stop at the first repeat."""
    seen = {}
    for problem in task.problems(split, seed):
        if problem.id in seen:
            break
        seen[problem.id] = problem
    return seen


# --- an independent brute force: every order of the numbers and operations as a left-leaning tree -----------------


@cache
def brute_chains(numbers):
    """Text -> tree of every legal chain of two to five steps."""
    chains = {}

    def extend(tree, before, text, left):
        n_steps = len(numbers) - len(left) - 1
        if n_steps >= 2:
            chains[text] = tree
        for index, last in enumerate(left if n_steps < 5 else ()):
            for operation in "+-*/":
                value = brute_values((operation, before, last))[-1]
                if value.denominator == 1 and 1 <= value <= 99:
                    step = f"{before}{operation}{last}={value}"
                    rest = left[:index] + left[index + 1 :]
                    extend((operation, tree, last), int(value), f"{text};{step}" if text else step, rest)

    for index, first in enumerate(numbers):
        extend(first, first, "", numbers[:index] + numbers[index + 1 :])
    return chains


@cache
def brute_by_target(numbers):
    found = {target: {} for target in range(1, 100)}
    for text, tree in brute_chains(numbers).items():
        found[int(text.rpartition("=")[2])][text] = tree
    return found


def brute_right(numbers, target):
    return brute_by_target(numbers)[target]


CASES = [(1, 2, 4, 5, 7, 9), (2, 2, 4, 4, 8, 8), (1, 1, 2, 3, 3, 6), (1, 1, 1, 1, 1, 1)]


@pytest.mark.parametrize("numbers", CASES)
def test_right_texts_and_their_numbers_equal_a_brute_force(numbers):
    for target in range(1, 100):
        texts = task_of().right_texts(problem_of(numbers, target))
        assert len(set(texts)) == len(texts)
        assert set(texts) == set(brute_right(numbers, target))
        by_steps = Counter(text.count(";") + 1 for text in texts)
        assert [int(text_counts(numbers, n)[target]) for n in (2, 3, 4, 5)] == [by_steps[n] for n in (2, 3, 4, 5)]


@pytest.mark.parametrize("numbers", CASES)
def test_solutions_of_a_running_total_are_classes_of_equal_expressions(numbers):
    for target in (10, 12, 24, 36, 38):
        classes = {}
        for text, tree in brute_right(numbers, target).items():
            classes.setdefault(counted(tree), set()).add(text)
        solutions = writings(RunningTotalReference(numbers, target))
        assert sorted(map(sorted, solutions.values())) == sorted(map(sorted, classes.values()))


@pytest.mark.parametrize("numbers", CASES)
def test_a_chain_is_graded_correct_if_and_only_if_it_ends_in_the_target(numbers):
    task, chains = task_of(), brute_chains(numbers)
    solution_of = {
        chain: solution
        for target in (12, 36)
        for solution, written in writings(RunningTotalReference(numbers, target)).items()
        for chain in written
    }
    for text in [*solution_of, *Random(1).sample(sorted(chains), min(300, len(chains)))]:
        for target in (12, 36):
            verdict = verdict_of(text, problem_of(numbers, target))
            assert (verdict.outcome == "correct") == text.endswith(f"={target}")
            if verdict.outcome == "correct":
                assert verdict.details["solution"] == solution_of[text] == task.canonical(text)


@pytest.mark.parametrize(
    ("texts", "solution"),
    [
        (("4*9=36;36+2=38", "9*4=36;36+2=38"), "2+4*9"),
        (("9-4=5;5+7=12;12-2=10", "7+9=16;16-2=14;14-4=10", "9-2=7;7-4=3;3+7=10"), "7+9-2-4"),
        (("7*4=28;28/1=28;28/2=14", "4/2=2;2*1=2;2*7=14", "1*4=4;4*7=28;28/2=14"), "1*4*7/2"),
        (("9-5=4;4*7=28;28+2=30;30*1=30",), "1*(2+(9-5)*7)"),
    ],
)
def test_the_order_of_terms_and_factors_is_not_part_of_a_solution(texts, solution):
    task = task_of()
    for text in texts:
        target = int(text.rpartition("=")[2])
        assert verdict_of(text, problem_of(target=target)).details["solution"] == task.canonical(text) == solution


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "2 to 5 steps are asked for, 1 given"),
        ("38*1=38", "2 to 5 steps are asked for, 1 given"),
        ("4*9=36;36+2=38;38*1=38;38+5=43;43-5=38;38*1=38", "2 to 5 steps are asked for, 6 given"),
        ("4*9=36;2+36=38", "step 2 begins with 2, not with 36, the result before"),
        ("4*9=36;5+2=7;36+7=43", "step 2 begins with 5, not with 36, the result before"),
        ("4*9=36;36+1=37;37+1=38", "step 3 uses 1, which is neither a number left nor a result left"),
        ("4*9=36;36+3=39", "step 2 uses 3, which is neither a number left nor a result left"),
        ("4*9=35;35+2=37", "step 1: 4*9 is 36, not 35"),
        ("4*9=36;36+1=37;37+5=42", "the last value is 42, not the target 38"),
        ("4*9=36;36+2=38;", "step 3 is not of the form a+b=c"),
        ("1-9=8;8+5=13", "step 1: 1-9 is -8, outside 1..99"),
    ],
)
def test_verdict_of_a_wrong_chain_names_the_step_and_the_broken_rule(text, reason):
    verdict = verdict_of(text)
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("incorrect", 0.0, reason)


def test_a_chain_cut_off_by_the_token_budget_is_truncated():
    assert verdict_of("4*9=36;36+2=38", finish_reason="length").reason == "truncated"


# --- the task ---------------------------------------------------------------------------------------------------


def test_countdown_steps_has_the_documented_problems():
    card = task_of().card
    assert card.sizes == {"train": "16905 problems", "validation": "911 problems", "test": "1010 problems"}
    assert card.fingerprint == "2329598bfbecc2cc"
    assert task_of(max_texts=500).card.fingerprint != card.fingerprint


def test_splits_share_no_numbers_with_each_other_or_with_another_split_of_countdown():
    task, two_steps = task_of(min_texts=1, max_texts=10_000), TWO_STEPS(TWO_STEPS.Config(min_solutions=1))
    numbers = {s: {p.reference.numbers for p in one_pass(task, s).values()} for s in ("validation", "test")}
    others = {s: {p.reference.numbers for p in one_pass(two_steps, s).values()} for s in SPLITS}
    assert not numbers["validation"] & numbers["test"]
    assert numbers["test"] <= others["test"] and numbers["validation"] <= others["validation"]
    train = {p.reference.numbers for p in islice(task.problems("train", 0), 20_000)}
    assert train <= others["train"]


def test_every_problem_has_right_texts_of_each_number_of_steps_within_the_limits():
    task = task_of()
    for problem in islice(task.problems("test", 0), 100):
        by_steps = Counter(text.count(";") + 1 for text in task.right_texts(problem))
        assert set(by_steps) == {2, 3, 4, 5} and min(by_steps.values()) >= 4
        assert by_steps.total() == int(problem.tags["n_texts"]) <= 600
        assert len(task.solutions(problem)) > 4


def test_countdown_steps_prompt_states_the_numbers_and_target_that_are_graded():
    problem = one_pass(task_of(min_texts=1, max_texts=10_000), "test")["1-2-4-5-7-9=38"]
    assert problem.messages == (Message("user", "1 2 4 5 7 9 = 38 :"),)
    assert problem.reference == RunningTotalReference((1, 2, 4, 5, 7, 9), 38, 2, 5)


def test_held_out_splits_are_one_pass_and_train_is_endless():
    task = task_of()
    ids = [p.id for p in task.problems("validation", 3)]
    assert len(set(ids)) == len(ids) == 911
    assert sorted(ids) == sorted(p.id for p in task.problems("validation", 4))
    assert len(list(islice(task.problems("train", 0), 17_000))) == 17_000


def test_a_right_demonstration_has_every_number_of_steps_with_the_same_probability():
    task = task_of()
    problems = list(islice(task.problems("train", 0), 2000))
    texts = [task.demonstrate(problem, seed) for seed, problem in enumerate(problems)]
    assert all(verdict_of(text, p).outcome == "correct" for text, p in zip(texts, problems, strict=True))
    lengths = Counter(text.count(";") + 1 for text in texts)
    assert all(abs(lengths[n] - 500) < 100 for n in (2, 3, 4, 5))  # five deviations of 19


def test_texts_of_a_number_of_steps_are_drawn_uniformly():
    reference = RunningTotalReference(GIVEN, 38)
    for n_steps in (2, 3):
        texts = [text for text in brute_right(GIVEN, 38) if text.count(";") + 1 == n_steps]
        rng, n_drawn = Random(n_steps), 200 * len(texts)
        drawn = Counter(draw_text(rng, reference, n_steps) for _ in range(n_drawn))
        assert set(drawn) == set(texts)
        assert all(abs(count - 200) < 5 * 200**0.5 for count in drawn.values())


def test_sloppy_demonstrations_of_steps_are_legal_chains_of_any_value():
    task = task_of(sloppiness=0.4)
    pairs = list(islice(task.problems("train", 0), 1000))
    verdicts = [verdict_of(task.demonstrate(p, i), p) for i, p in enumerate(pairs)]
    assert 560 < sum(v.outcome == "correct" for v in verdicts) < 700  # 600, and some of the sloppy ones by chance
    assert {v.reason.partition(" is")[0] for v in verdicts if v.outcome == "incorrect"} == {"the last value"}
    rng, chains = Random(0), brute_chains(GIVEN)
    assert all(draw_legal_chain(rng, GIVEN, n_steps) in chains for n_steps in (2, 3, 4, 5) for _ in range(50))


def test_listing_the_right_texts_of_an_evaluation_is_fast():
    started = time.process_time()
    task = task_of()
    sizes = [len(task.right_texts(problem)) for problem in islice(task.problems("test", 0), 96)]
    assert max(sizes) <= 600
    assert time.process_time() - started < 10.0  # measured 1 s, with counting the answers of every problem


def test_golden_completions_of_both_countdown_tasks_have_the_known_verdicts():
    for task in (task_of(), TWO_STEPS(TWO_STEPS.Config())):
        for problem in islice(task.problems("test", 0), 30):
            golden = task.golden_completions(problem)
            assert {g.outcome for g in golden} == {"correct", "incorrect"}
            assert all(verdict_of(g.text, problem).outcome == g.outcome for g in golden)


@pytest.mark.parametrize("options", [{"min_texts": 0}, {"sloppiness": 1.5}])
def test_countdown_steps_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        task_of(**options)


def test_limits_that_no_problem_meets_are_an_error_not_an_endless_loop():
    with pytest.raises(ConfigError, match="lower min_texts or raise max_texts"):
        task_of(max_texts=1).problems("train", 0)


def test_countdown_steps_is_registered():
    assert registry.load("tasks", "countdown_steps") is TASK
