"""Config: strict parsing with the nearest key named, --set, merging, the round trip through TOML, identity."""

import dataclasses
import json
import re
import tomllib
import typing
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le
from hypothesis import given
from hypothesis import strategies as st

from harness.core import config as configs
from harness.core.config import PluginChoice, incidental, plugin
from harness.core.errors import ConfigError, UnknownNameError, UsageError
from harness.core.types import Sampling
from harness.evaluation.config import EvalConfig, SamplingConfig
from harness.trainers.config import TrainConfig

MINIMAL = {"model": {"path": "countdown-tiny"}, "tasks": ["countdown"], "engine": "scripted", "metrics": []}


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = ()
    mode: Literal["slow", "fast"] = "slow"


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int = 1
    rate: float = 1.0
    is_on: bool = False
    name: str = "x"
    pair: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    workers: int = incidental(default=4)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count must not be negative")


@dataclass(frozen=True, kw_only=True)
class Plugged:
    engine: PluginChoice = plugin("engines", default="scripted")
    graders: tuple[PluginChoice, ...] = plugin("graders", default=[])


@dataclass(frozen=True, kw_only=True)
class Demanding:
    inner: Inner
    steps: int


def refusal(schema, tree):
    with pytest.raises(ConfigError) as caught:
        configs.parse(schema, tree)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- unknown keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "key", "nearest"),
    [
        ({"conut": 1}, "conut", "count"),
        ({"inner": {"rat": 1.0}}, "inner.rat", "rate"),
    ],
)
def test_an_unknown_key_is_named_in_full_with_the_nearest(tree, key, nearest):
    message = refusal(Outer, tree)
    assert f"unknown key {key!r}" in message
    assert f"did you mean {nearest!r}" in message


def test_an_unknown_key_in_the_table_of_a_plugin_names_the_nearest_option():
    message = refusal(Plugged, {"engine": {"id": "scripted", "replie": ["a"]}})
    assert "unknown key 'engine.replie'" in message
    assert "did you mean 'replies'" in message


def test_an_unknown_key_in_a_list_of_plugins_names_the_nearest_option():
    message = refusal(EvalConfig, {**MINIMAL, "tasks": [{"id": "countdown", "min_solution": 3}]})
    assert "unknown key 'tasks.min_solution'" in message
    assert "did you mean 'min_solutions'" in message


def test_unknown_key_without_a_near_match_lists_all_keys():
    assert "there is mode, rate, sizes" in refusal(Outer, {"inner": {"zzzzzz": 1}})


@dataclass(frozen=True)
class Bounded:
    share: Annotated[float, Gt(0), Le(1), "1 is off"] | None = None
    count: Annotated[int, Ge(2)] = 2


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"share": 0}, "'share' must be above 0 (1 is off), not 0"),
        ({"share": 1.5}, "'share' must be at most 1 (1 is off), not 1.5"),
        ({"count": 1}, "'count' must be at least 2, not 1"),
        ({"count": "2"}, "'count': a whole number, such as 8, is expected, not '2'"),
    ],
)
def test_a_value_outside_the_bounds_of_its_field_names_the_bound_and_the_note(tree, message):
    assert refusal(Bounded, tree) == message


def test_values_within_the_bounds_of_their_fields_are_parsed():
    assert configs.parse(Bounded, {"share": 1, "count": 2}) == Bounded(1.0, 2)


def test_sampling_options_can_be_set_in_a_config_under_the_same_bounds():
    types, settable = typing.get_type_hints(Sampling, include_extras=True), SamplingConfig.__dataclass_fields__
    hints = typing.get_type_hints(SamplingConfig, include_extras=True)
    assert list(settable) == list(types)
    assert all(hints[name] == kind | None for name, kind in types.items())


def test_an_unknown_plugin_names_the_nearest_id():
    with pytest.raises(UnknownNameError, match=r"no engine is called 'scriptd'; did you mean 'scripted'"):
        configs.parse(Plugged, {"engine": "scriptd"})


def test_a_missing_key_is_named_in_full():
    assert "the key 'steps' is missing" in refusal(Demanding, {"inner": {}})
    assert "the key 'inner' is missing" in refusal(Demanding, {"steps": 1})


# --- types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        {"count": "1"},
        {"count": True},
        {"count": 1.0},
        {"count": 1.5},
        {"count": None},
        {"count": [1]},
        {"rate": "1.0"},
        {"rate": True},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"is_on": 1},
        {"is_on": "true"},
        {"name": 3},
        {"name": True},
        {"name": "\udcff"},
        {"pair": [1.0]},
        {"pair": [1.0, 2.0, 3.0]},
        {"pair": ["1", "2"]},
        {"pair": 1.0},
        {"limit": "none"},
        {"limit": False},
        {"inner": 3},
        {"inner": [{}]},
        {"inner": {"sizes": [1, "2"]}},
        {"inner": {"sizes": 1}},
        {"inner": {"mode": "fastest"}},
        {"inner": {"mode": 1}},
    ],
)
def test_a_value_of_another_type_is_refused_with_its_key_and_itself(tree):
    key, value = next(iter(tree.items()))
    if isinstance(value, dict):
        key, value = f"{key}.{next(iter(value))}", next(iter(value.values()))
    message = refusal(Outer, tree)
    assert repr(key) in message
    assert (str(value).lower() if isinstance(value, bool) else repr(value)) in message


def test_date_is_refused_as_text():
    assert "'name'" in refusal(Outer, tomllib.loads("name = 2024-01-01"))


def test_config_int_is_accepted_for_a_float_and_converted():
    rate = configs.parse(Outer, {"rate": 2}).rate
    assert rate == 2.0
    assert type(rate) is float


def test_config_list_is_parsed_as_a_tuple():
    parsed = configs.parse(Outer, {"pair": [1, 2.5], "inner": {"sizes": [3, 4]}})
    assert parsed.pair == (1.0, 2.5)
    assert parsed.inner.sizes == (3, 4)


def test_optional_and_literal_values_are_taken_as_they_are():
    parsed = configs.parse(Outer, {"limit": 3, "inner": {"mode": "fast"}})
    assert (parsed.limit, parsed.inner.mode) == (3, "fast")
    assert configs.parse(Outer, {}).limit is None


def test_a_literal_outside_its_set_names_the_set():
    message = refusal(Outer, {"inner": {"mode": "fastest"}})
    assert "'slow'" in message
    assert "'fast'" in message


def test_error_of_a_config_check_names_its_table():
    assert refusal(Outer, {"count": -1}) == "config: count must not be negative"
    assert "tasks" in refusal(EvalConfig, {**MINIMAL, "tasks": [{"id": "countdown", "min_solutions": 0}]})


def test_config_that_is_not_a_table_is_refused():
    assert "a table is expected" in refusal(Outer, ["count"])


# --- plug-ins ---------------------------------------------------------------------------------------------------


def test_a_plugin_is_its_id_or_a_table_of_its_id_and_options():
    assert configs.parse(Plugged, {"engine": "scripted"}) == configs.parse(Plugged, {"engine": {"id": "scripted"}})
    parsed = configs.parse(Plugged, {"engine": {"id": "scripted", "replies": ["a", "b"]}})
    assert parsed.engine.options.replies == ("a", "b")


def test_options_without_an_id_are_those_of_the_default_plugin():
    parsed = configs.parse(Plugged, {"engine": {"replies": ["a"]}})
    assert (parsed.engine.id, parsed.engine.options.replies) == ("scripted", ("a",))


@pytest.mark.parametrize("value", [{}, {"min_solutions": 3}, {"id": 3}, 3, True, [], ["countdown"]])
def test_a_plugin_without_an_id_is_refused_with_an_example(value):
    tree = {"model": {"path": "x"}, "task": value, "objective": "grpo", "loop": {}, "optimizer": {}}
    assert "'task' needs an id, such as id = " in refusal(TrainConfig, tree)


@pytest.mark.parametrize("value", ["exact", {"id": "exact"}, 3, None])
def test_other_values_than_a_list_of_plugins_are_refused(value):
    assert "'graders' is a list of ids or tables, such as [" in refusal(Plugged, {"graders": value})


def test_list_is_refused_where_a_single_plugin_is_expected():
    assert "'engine' needs an id" in refusal(Plugged, {"engine": ["scripted"]})


def test_a_task_named_twice_is_refused_rather_than_dropped():
    twice = [{"id": "countdown"}, {"id": "countdown", "min_solutions": 9}]
    assert "twice" in refusal(EvalConfig, {**MINIMAL, "tasks": twice})


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("max_ungraded", -0.1, "at least 0 (a share, such as 0.01)"),
        ("max_ungraded", 1.1, "at most 1 (a share, such as 0.01)"),
        ("n", 0, "at least 1 (such as 16)"),
        ("limit", 0, "at least 1 (such as 100)"),
    ],
)
def test_a_number_of_an_evaluation_out_of_range_names_the_bound_and_a_good_value(key, value, bound):
    assert refusal(EvalConfig, {**MINIMAL, key: value}) == f"{key!r} must be {bound}, not {value!r}"


# --- files ------------------------------------------------------------------------------------------------------


def test_a_config_file_that_is_absent_a_folder_or_not_toml_is_named(tmp_path):
    (tmp_path / "broken.toml").write_text("a = [1,\n")
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"\n')
    for name in ("absent.toml", ".", "broken.toml", "latin.toml"):
        with pytest.raises(ConfigError, match=r"config file|not TOML") as caught:
            configs.read_toml(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


# --- --set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("n=3", {"n": 3}),
        ("a.b.c=0.5", {"a": {"b": {"c": 0.5}}}),
        ("a = true", {"a": True}),
        (" a . b = 1", {"a": {"b": 1}}),
        ("a=word", {"a": "word"}),
        ("a=two words", {"a": "two words"}),
        ("a=Qwen/Qwen2.5-7B", {"a": "Qwen/Qwen2.5-7B"}),
        ("a='3'", {"a": "3"}),
        ('a="x=y"', {"a": "x=y"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={id = 'b', c = 1}", {"a": {"id": "b", "c": 1}}),
        ("a=-1e-3", {"a": -0.001}),
    ],
)
def test_set_takes_toml_values_and_bare_words(text, tree):
    assert configs.parse_override(text) == tree


@pytest.mark.parametrize(
    "text", ["", "n", "=3", " =3", "a..b=1", ".a=1", "a.=1", "a=[1", "a='x", "a={b=1", 'a="', "a=1\nb=2", "a=1\n[b]"]
)
def test_a_malformed_set_is_refused_rather_than_guessed(text):
    with pytest.raises(ConfigError, match="--set"):
        configs.parse_override(text)


# --- merging ----------------------------------------------------------------------------------------------------


def test_later_config_trees_override_earlier_ones_by_key():
    merged = configs.merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}}, {"b": 2})
    assert merged == {"a": {"x": 1, "y": 3}, "b": 2}


def test_options_of_the_former_plugin_are_dropped_when_the_id_changes():
    former = {"engine": {"id": "hf", "batch": 3}}
    assert configs.merge(former, {"engine": {"id": "scripted"}}) == {"engine": {"id": "scripted"}}
    assert configs.merge(former, {"engine": "scripted"}) == {"engine": "scripted"}


def test_options_stay_when_the_id_is_the_same_or_not_given():
    former = {"engine": {"id": "hf", "batch": 3}}
    assert configs.merge(former, {"engine": {"id": "hf"}}) == former
    assert configs.merge(former, {"engine": {"other": 1}}) == {"engine": {"id": "hf", "batch": 3, "other": 1}}


def test_options_can_be_added_to_a_plugin_named_by_its_bare_id():
    merged = configs.merge({"task": "countdown"}, {"task": {"min_solutions": 3}})
    assert merged == {"task": {"id": "countdown", "min_solutions": 3}}


trees = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | inner, max_size=3),
    max_leaves=8,
)


@given(trees, trees)
def test_merging_configs_changes_neither_and_is_idempotent(old, new):
    before = json.dumps([old, new])
    merged = configs.merge(old, new)
    assert configs.merge(merged, new) == merged
    merged.setdefault("a", {})
    if isinstance(merged["a"], dict):
        merged["a"]["touched"] = 1
    assert json.dumps([old, new]) == before


# --- writing and identity ---------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
inners = st.fixed_dictionaries(
    {}, optional={"rate": finite, "sizes": st.lists(st.integers()), "mode": st.sampled_from(["slow", "fast"])}
)
outers = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(min_value=0),
        "rate": finite | st.integers(-(2**53), 2**53),
        "is_on": st.booleans(),
        "name": text,
        "pair": st.lists(finite, min_size=2, max_size=2),
        "limit": st.integers(),
        "workers": st.integers(),
        "inner": inners,
    },
)


def identity(config):
    return configs.digest(configs.to_tree(config, identity_only=True))


@given(outers)
def test_a_resolved_config_written_as_toml_parses_back_to_itself(tree):
    config = configs.parse(Outer, tree)
    again = configs.parse(Outer, tomllib.loads(configs.to_toml(config)))
    assert again == config
    assert identity(again) == identity(config)


@given(text, st.lists(text, min_size=1), st.integers(min_value=1), finite.filter(lambda x: x >= 0))
def test_an_evaluation_written_as_toml_parses_back_to_itself(path, replies, min_solutions, temperature):
    tree = {
        "model": {"path": path},
        "tasks": [{"id": "countdown", "min_solutions": min_solutions}],
        "engine": {"id": "scripted", "replies": replies},
        "sampling": {"temperature": temperature},
        "metrics": [],
    }
    config = configs.parse(EvalConfig, tree)
    again = configs.parse(EvalConfig, tomllib.loads(configs.to_toml(config)))
    assert again == config
    assert identity(again) == identity(config)


@given(outers, st.integers())
def test_the_digest_ignores_incidental_keys(tree, workers):
    assert identity(configs.parse(Outer, tree)) == identity(configs.parse(Outer, {**tree, "workers": workers}))


@given(outers)
def test_the_digest_ignores_the_order_of_keys(tree):
    backwards = dict(reversed(tree.items()))
    assert configs.digest(tree) == configs.digest(backwards)
    assert identity(configs.parse(Outer, tree)) == identity(configs.parse(Outer, backwards))


def test_digest_depends_on_config_values_and_not_on_their_spelling():
    assert identity(configs.parse(Outer, {})) == identity(configs.parse(Outer, {"rate": 1, "inner": {}}))


CHANGED = {
    "model.path": "other",
    "model.revision": "main",
    "model.dtype": "float32",
    "model.device": "cpu",
    "model.weights": "random",
    "model.chat_template": "other",
    "prompt.user": "{prompt}!",
    "prompt.system": "Be brief.",
    "prompt.plain": True,
    "tasks": [{"id": "countdown", "min_solutions": 3}],
    "grader": {"id": "exact"},
    "engine": {"id": "scripted", "replies": ["other"]},
    "sampling.temperature": 0.25,
    "sampling.top_p": 0.25,
    "sampling.top_k": 7,
    "sampling.min_p": 0.25,
    "sampling.max_tokens": 7,
    "sampling.stop": ["."],
    "split": "validation",
    "seed": 7,
    "problem_seed": 7,
    "per_task": {"countdown": {"max_tokens": 7}},
}
INCIDENTAL = {
    "n": 7,
    "until": 0.02,
    "model.released": "2024-09",
    "model.trust_remote_code": True,
    "limit": 7,
    "problems": ["7"],
    "max_ungraded": 0.5,
    "store_ids": True,
    "strict_data": True,
    "metrics": [],
    "preset": "flowrl",
    "deviations": ["n 7"],
    "grading.on": "ray",
    "grading.address": "10.0.0.1:6379",
    "grading.cpus": 2.0,
}
NEEDED_WITH = {"grading.address": {"grading": {"on": "ray"}}, "grading.cpus": {"grading": {"on": "ray"}}}


def with_key(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return configs.parse(EvalConfig, configs.merge(MINIMAL, NEEDED_WITH.get(key, {}), value))


@pytest.mark.parametrize("key", CHANGED)
def test_the_digest_of_an_evaluation_changes_with_every_key_of_its_identity(key):
    assert identity(with_key(key, CHANGED[key])) != identity(configs.parse(EvalConfig, MINIMAL))


@pytest.mark.parametrize("key", INCIDENTAL)
def test_the_digest_of_an_evaluation_ignores_how_far_it_goes(key):
    assert identity(with_key(key, INCIDENTAL[key])) == identity(configs.parse(EvalConfig, MINIMAL))


def test_no_key_of_an_evaluation_is_left_out_of_these_tests():
    config = configs.parse(EvalConfig, MINIMAL)
    keys = {
        f"{outer.name}.{inner.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, PluginChoice)
        else outer.name
        for outer in dataclasses.fields(config)
        for value in [getattr(config, outer.name)]
        for inner in (dataclasses.fields(value) if dataclasses.is_dataclass(value) else [outer])
    }
    assert keys == {*CHANGED, *INCIDENTAL}


def test_settings_of_one_task_are_its_identity_and_its_grader_is_not():
    def settings(**of_task):
        return configs.parse(EvalConfig, configs.merge(MINIMAL, {"per_task": {"countdown": of_task}}))

    plain = configs.to_tree(configs.parse(EvalConfig, MINIMAL), identity_only=True)
    assert "per_task" not in plain, "a run folder of a version without it is resumed"
    assert configs.to_tree(settings(grader="exact"), identity_only=True) == plain
    told = configs.to_tree(settings(temperature=0.0, grader="exact"), identity_only=True)
    assert told == {**plain, "per_task": {"countdown": {"temperature": 0.0}}}
    again = configs.parse(EvalConfig, tomllib.loads(configs.to_toml(settings(grader="exact", max_tokens=7))))
    assert again == settings(grader="exact", max_tokens=7)


@pytest.mark.parametrize(
    ("per_task", "message"),
    [
        ({"countdwn": {}}, "per_task has settings for 'countdwn', which is not one of the tasks"),
        ({"countdown": {"temperatur": 1}}, "unknown key 'per_task.countdown.temperatur'; did you mean 'temperature'"),
        ({"countdown": {"grader": "exakt"}}, "no grader is called 'exakt'; did you mean 'exact'"),
        ({"countdown": 3}, "'per_task.countdown' is a table, not 3: set its keys (per_task.countdown.max_tokens, "),
        (3, "'per_task' is a table of tables, such as [per_task.name], not 3"),
    ],
)
def test_settings_of_one_task_that_are_wrong_are_named_in_full(per_task, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        configs.parse(EvalConfig, {**MINIMAL, "per_task": per_task})


def test_absent_config_values_are_not_written():
    assert "limit" not in configs.to_tree(configs.parse(Outer, {}))


# --- differences ------------------------------------------------------------------------------------------------


def test_differences_name_the_key_in_full_and_both_values():
    old = {"a": 1, "b": {"c": "x", "d": 2}, "e": [1, 2], "g": True}
    new = {"a": 1, "b": {"c": "y", "f": 3}, "e": [1, 3], "g": False}
    assert list(configs.differences(old, new)) == [
        "b.c: 'x' there, 'y' now",
        "b.d: 2 there, not set now",
        "b.f: not set there, 3 now",
        "e: [1, 2] there, [1, 3] now",
        "g: true there, false now",
    ]


@given(trees, trees)
def test_differences_are_empty_exactly_for_equal_trees(old, new):
    assert bool(configs.differences(old, new)) == (old != new)
