"""Graded samples with given texts, answers and solutions, for the tests of diversity."""

from __future__ import annotations

import functools

from harness.core import config, registry
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict


def sample(problem_id, index, text, verdict):
    return Graded(
        Problem(problem_id, "t", (), None), Completion(problem_id, index, 0, text, "stop", Tokens(1, 1)), verdict
    )


def verdict_of(mark):
    """A capital is a wrong answer, `-` none, `?` ungraded, `!` right without a solution, others right with that one."""
    if mark == "?":
        return Verdict("ungraded", None)
    if mark == "-":
        return Verdict("incorrect", 0.0, reason="no answer")
    if mark.isupper():
        return Verdict("incorrect", 0.0, mark, "wrong")
    return Verdict("correct", 1.0, mark, details={} if mark == "!" else {"solution": mark})


def marked(*marks):
    """One problem for each string, one sample for each of its marks, see `verdict_of`."""
    return [
        sample(f"p{place}", index, mark, verdict_of(mark))
        for place, of_problem in enumerate(marks)
        for index, mark in enumerate(of_problem)
    ]


def written(*problems):
    """One problem for each list of texts, all right."""
    right = Verdict("correct", 1.0, "1")
    return [
        sample(f"p{place}", index, text, right)
        for place, texts in enumerate(problems)
        for index, text in enumerate(texts)
    ]


def values_of(metric, graded, **options):
    """Value by estimate of a metric, without its interval, which would take most of the time."""
    found = per_problem(metric, graded, **options)
    return {name: sum(values.values()) / len(values) for name, values in found.items()}


def per_problem(metric, graded, **options):
    return _class_of(metric)(config.parse(_class_of(metric).Config, options)).per_problem(graded)


@functools.cache
def _class_of(metric):
    """Loading a plug-in by name reads the folder of all of them, which a test of many examples can't afford."""
    return registry.load("metrics", metric)
