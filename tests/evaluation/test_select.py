"""Choosing problems by id or number."""

from __future__ import annotations

import pytest

from harness.core.errors import ConfigError, UnknownNameError
from harness.core.types import Problem
from harness.evaluation.select import find_problem, select_problems


def problems(*ids: str) -> list[Problem[str]]:
    return [Problem(each, "t", (), "r", {"tag": "x"}) for each in ids]


FIRST, SECOND = problems("2024-I-1", "2024-I-2"), problems("10", "2", "0")


@pytest.mark.parametrize(
    ("name", "expected"), [("2024-I-2", 1), ("0", 0), ("1", 1), ("2", None), ("-1", None), ("2024", None), ("", None)]
)
def test_a_problem_is_found_by_id_or_by_number(name, expected):
    assert find_problem(FIRST, name) == (FIRST[expected] if expected is not None else None)


def test_numeric_problem_id_is_matched_as_an_id():
    assert [find_problem(SECOND, name).id for name in ("2", "0", "1", "10")] == ["2", "0", "2", "10"]


def test_each_task_selects_its_own_problems_and_each_once():
    chosen = select_problems({"a": FIRST, "b": SECOND}, ["0", "2024-I-1", "2"])
    assert {task: [p.id for p in some] for task, some in chosen.items()} == {"a": ["2024-I-1"], "b": ["0", "2"]}


def test_unknown_problem_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="no problem is called '2024-II-1'; did you mean '2024-I-1'"):
        select_problems({"a": FIRST}, ["2024-I-1", "2024-II-1"])


def test_task_without_any_selected_problem_is_refused():
    with pytest.raises(ConfigError, match="b has none of the problems 2024-I-1; leave that task out"):
        select_problems({"a": FIRST, "b": SECOND}, ["2024-I-1"])
