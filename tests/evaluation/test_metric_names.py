"""Metrics by the names that tables print, and what is refused before anything is generated."""

from __future__ import annotations

import pytest
from command_output import output, tables

from harness.core import registry
from harness.core.errors import ConfigError, UnknownNameError
from harness.evaluation.metric_names import PRINTED, metric_settings, samples_averaged

EVAL = ("eval", "countdown-tiny", "--tasks", "countdown", "--engine", "scripted", "--set", "engine.replies=['no']")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_names_become_ids_and_k():
    assert metric_settings(["pass@k", "avg@16"]) == [{"id": "pass_at_k"}, {"id": "avg_at_k"}]
    assert metric_settings(["pass@8", "maj@4", "pass@1"]) == [
        {"id": "pass_at_k", "ks": [1, 8]},
        {"id": "maj_at_k", "ks": [4]},
    ]
    assert metric_settings(["pass^2", "pass-all@4"]) == [{"id": "pass_hat_k", "ks": [2, 4]}]
    assert metric_settings(["g-pass(tau=0.5)@4", "no answer", "pass_at_k"]) == [
        {"id": "g_pass_at_k", "ks": [4]},
        {"id": "no_answer"},
        {"id": "pass_at_k"},
    ]


def test_every_id_and_every_name_in_the_list_is_known():
    ids = registry.entries("metrics")
    assert [table["id"] for table in metric_settings(list(ids))] == list(ids)
    assert set(PRINTED.values()) <= set(ids)


def test_wrong_names_are_refused():
    with pytest.raises(UnknownNameError, match=r"no metric is called 'pas@k'; did you mean 'pass@k'"):
        metric_settings(["pas@k"])
    with pytest.raises(ConfigError, match="every k of pass_at_k is at least 1"):
        metric_settings(["pass@0"])


def test_the_number_of_an_average_is_the_number_of_samples():
    assert samples_averaged(["pass@k", "avg@16"]) == 16
    assert samples_averaged(["pass@8", "avg@k"]) is None


def test_eval_takes_the_names_and_prints_them(capsys):
    (table,) = tables(capsys, *EVAL, "--limit", "2", "--metrics", "avg@4,pass@2,maj@k", "--out", "run")
    assert {"avg@4", "pass@2", "maj@4"} <= set(table["columns"])
    assert not {"pass@1", "pass@4", "maj@1"} & set(table["columns"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "2", "--metrics", "avg@16"], "avg@16 is the average of 16 samples, and --n is 2"),
        (["--n", "4", "--metrics", "pass@8"], "the metric pass_at_k needs k = 8 samples per problem, and n is 4"),
        (["--n", "4", "--set", "metrics=[{id='maj_at_k',ks=[5]}]"], "the metric maj_at_k needs k = 5 samples"),
        (["--metrics", "maj@x"], "no metric is called 'maj@x'; did you mean 'maj@k'"),
    ],
)
def test_eval_refuses_metrics_before_it_generates(capsys, tmp_path, arguments, message):
    assert message in output(capsys, *EVAL, *arguments, "--out", "run", code=2).err
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_cannot_be_opened_is_refused_before_anything_is_generated(capsys, tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "encoder").mkdir()
    metric = "metrics=[{id='embedding_distance',model='./encoder'}]"
    err = output(capsys, *EVAL, "--limit", "1", "--set", metric, "--out", "run", code=2).err
    assert "the embedding model './encoder' can't be opened" in err
    assert not (tmp_path / "run").exists()


def test_distinct_is_0_where_nothing_is_right_and_the_grader_identifies_solutions(capsys):
    (table,) = tables(capsys, *EVAL, "--n", "4", "--limit", "2", "--out", "a")
    assert table["rows"][0]["distinct@4"]["value"] == 0.0
