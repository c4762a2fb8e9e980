"""The values: frozen, and a verdict has a reward exactly when it is graded."""

import dataclasses
import inspect
import pickle

import pytest

from harness.core import types
from harness.core.types import Sampling, Verdict

CLASSES = [
    cls
    for cls in vars(types).values()
    if inspect.isclass(cls) and dataclasses.is_dataclass(cls) and cls.__module__ == types.__name__
]


@pytest.mark.parametrize(("outcome", "reward"), [("correct", 1.0), ("incorrect", 0.0), ("ungraded", None)])
def test_a_verdict_has_a_reward_exactly_when_it_is_graded(outcome, reward):
    assert Verdict(outcome, reward).reward == reward


@pytest.mark.parametrize(
    ("outcome", "reward"), [("correct", None), ("incorrect", None), ("ungraded", 0.0), ("ungraded", 1.0)]
)
def test_ungraded_verdict_with_a_reward_cannot_be_constructed(outcome, reward):
    with pytest.raises(ValueError, match="exactly when it is graded"):
        Verdict(outcome, reward)


def test_an_ungraded_verdict_can_not_be_given_a_reward_later():
    with pytest.raises(ValueError, match="exactly when it is graded"):
        dataclasses.replace(Verdict("ungraded", None), reward=0.0)


def test_a_verdict_may_be_wrong_with_a_reward_and_right_with_another():
    assert Verdict("incorrect", 0.3).reward == 0.3
    assert Verdict("correct", 0.9).reward == 0.9


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_core_types_are_frozen_and_slotted(cls):
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)


@pytest.mark.parametrize(
    ("options", "truncating"),
    [({}, []), ({"top_p": 0.9, "top_k": 3}, ["top_p", "top_k"]), ({"temperature": 0.5, "stop": ("x",)}, [])],
)
def test_sampling_knows_which_options_are_changed_and_which_leave_out_tokens(options, truncating):
    sampling = Sampling(8, **options)
    assert sampling.changed() == options
    assert sampling.truncating() == truncating


def test_verdicts_can_be_pickled():
    verdict = Verdict("correct", 1.0, "4", "", {"solution": "2+2"})
    assert pickle.loads(pickle.dumps(verdict)) == verdict
