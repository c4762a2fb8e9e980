"""MBPP+'s inputs: one problem of each shape, as the function's own tests call it."""

from __future__ import annotations

import pytest

from harness.tasks._base.mbpp_inputs import BY_POSITION, EVERY, python_values

SHAPES = [
    ("Mbpp/2", [[3, 4], [5, 4]], [(3, 4), (5, 4)]),
    ("Mbpp/63", [[[3, 5], [1, 7]]], [[(3, 5), (1, 7)]]),
    ("Mbpp/259", [[[1, 3], [4, 5]], [[6, 7]]], [((1, 3), (4, 5)), ((6, 7),)]),
    ("Mbpp/278", [[1, 5, [4, 6], 3]], [(1, 5, (4, 6), 3)]),
    ("Mbpp/580", [[4, [7, 6, [2, 4]], 6]], [(4, (7, 6, (2, 4)), 6)]),
    ("Mbpp/75", [[[6, 24], [7, 9]], 6], [[(6, 24), (7, 9)], 6]),
    ("Mbpp/720", [[4, 5], {"a": 1}], [(4, 5), {"a": 1}]),
    ("Mbpp/307", [[1, [2], 3], 1, 50], [(1, [2], 3), 1, 50]),
    ("Mbpp/106", [[5, 6], [9, 10]], [[5, 6], (9, 10)]),
    ("Mbpp/115", [[[], [1, 2]]], [[{}, {1, 2}]]),
    ("Mbpp/124", [0, "1j"], [0.0, 1j]),
    ("Mbpp/252", ["(1+2j)"], [1 + 2j]),
    ("Mbpp/722", [{"Ann": [6.2, 70]}, 6.0, 70], [{"Ann": (6.2, 70)}, 6.0, 70]),
    ("Mbpp/3", [[1, 2]], [[1, 2]]),
]


@pytest.mark.parametrize(("problem", "published", "meant"), SHAPES)
def test_mbpp_inputs_have_the_types_the_function_expects(problem, published, meant):
    assert repr(python_values(problem, [published, published])) == repr([meant, meant])


def test_each_mbpp_problem_is_listed_under_one_shape():
    assert not set(EVERY) & set(BY_POSITION)
    assert len(EVERY) + len(BY_POSITION) == 62
