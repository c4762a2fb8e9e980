"""The index of a run folder, against the reader that builds every completion and verdict whole."""

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import RunFolderError
from harness.core.types import Completion, Likelihood, RunRecord, Tokens, Verdict
from harness.runs import index as module
from harness.runs.folder import CompletionFile, RunReader
from harness.runs.index import CompletionIndex
from harness.runs.jsonl import encode_line
from harness.runs.schema import counts_of

RECORD = RunRecord("r", "eval", "now", "d", "c", {}, {}, {}, "done")
# Text that looks like the border of a field, and half of a surrogate pair.
TEXTS = st.text(st.sampled_from('a"\\,{}:\n\u00e9\ud800') | st.characters(), max_size=20) | st.sampled_from(
    ['","finish_reason":"length","tokens":{},"engine_s":1', ',"seed":7,"text":"', ',"grader":"x","index":3', "\\", '"']
)
COMPLETIONS = st.builds(
    Completion,
    problem_id=TEXTS,
    index=st.integers(0, 2000),
    seed=st.integers(0, 2**63 - 1),
    text=TEXTS,
    finish_reason=st.sampled_from(["stop", "length"]),
    tokens=st.builds(
        Tokens,
        st.integers(0, 10),
        st.integers(0, 10),
        completion_ids=st.none() | st.lists(st.integers(0, 9), max_size=3),
        cost_usd=st.none() | st.floats(0, 1),
    ),
    engine_s=st.none() | st.floats(0, 100),
)
VERDICTS = st.builds(
    Verdict,
    outcome=st.just("incorrect"),
    reward=st.floats(0, 1),
    extracted=st.none() | TEXTS,
    reason=TEXTS,
    details=st.dictionaries(TEXTS, TEXTS, max_size=2),
)


def folder_of(folder, completions=(), verdicts=()):
    """Write a run folder with these lines."""
    from dataclasses import asdict

    folder.mkdir(exist_ok=True)
    lines = [encode_line({"task": task, **asdict(c)}) for task, c in completions]
    (folder / "completions.jsonl").write_bytes(b"".join(lines))
    rows = [
        {"task": task, "problem_id": problem, "index": index, "grader": grader, **asdict(verdict)}
        for task, problem, index, grader, verdict in verdicts
    ]
    (folder / "verdicts.jsonl").write_bytes(b"".join(map(encode_line, rows)))
    return RunReader(folder, RECORD)


def without_ids(completion):
    tokens = counts_of(completion.tokens)
    text = completion.load().text
    return (completion.problem_id, completion.index, completion.seed, text, completion.finish_reason, tokens)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, COMPLETIONS), max_size=6))
def test_indexed_completions_equal_parsed_ones(tmp_path_factory, completions):
    view = folder_of(tmp_path_factory.mktemp("run"), completions)
    parsed = list(view.completions())
    found = CompletionIndex(view, {task: "g" for task, _ in parsed}).completions
    expected = {(task, c.problem_id, c.index): (without_ids(c), c.engine_s) for task, c in parsed}
    assert {
        (task, *key): (without_ids(c), c.engine_s) for task, samples in found.items() for key, c in samples.items()
    } == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.integers(0, 9), TEXTS, VERDICTS), min_size=1, max_size=6))
def test_indexed_verdicts_equal_parsed_ones(tmp_path_factory, verdicts):
    view = folder_of(tmp_path_factory.mktemp("run"), (), verdicts)
    graders = {task: grader for task, _, _, grader, _ in verdicts}
    found = CompletionIndex(view, graders).verdicts
    for task, grader in graders.items():
        expected = {(problem, i): v for (name, problem, i), v in view.verdicts(grader).items() if name == task}
        assert found[task] == expected


def completion(problem_id="p", index=0, text="some text", **fields):
    return Completion(problem_id, index, 5, text, "stop", Tokens(2, 3), **fields)


def test_the_last_verdict_of_the_task_s_own_grader_counts(tmp_path):
    right, wrong = Verdict("correct", 1.0), Verdict("incorrect", 0.0, "x", "wrong", {"a": [1]})
    rows = [
        ("t", "p", 0, "g", right),
        ("t", "p", 0, "other", right),
        ("u", "p", 1, "g", right),
        ("t", "p", 0, "g", wrong),
    ]
    found = CompletionIndex(folder_of(tmp_path / "run", [("t", completion()), ("u", completion())], rows), {"t": "g"})
    assert found.verdicts == {"t": {("p", 0): wrong}}
    assert list(found.completions) == ["t"]


def test_a_stored_completion_is_loaded_whole_on_demand(tmp_path):
    whole = Completion("p", 1, 5, "\ud800 other", "stop", Tokens(2, 3, [1, 2], [3, 4, 5], [0.0, 0.5, 1.0]), (), 0.5)
    view = folder_of(tmp_path / "run", [("t", completion()), ("t", whole)])
    stored = CompletionIndex(view, {"t": "g"}).completions["t"]["p", 1]
    assert not hasattr(stored, "text")
    assert stored.tokens == Tokens(2, 3)
    for twin in (stored, copy.copy(stored), pickle.loads(pickle.dumps(stored))):
        assert twin.load() == whole
        assert twin.load().engine_s == whole.engine_s
    assert whole.load() is whole
    for damaged in (b"", b"{}\n" * 1000):
        (tmp_path / "run" / "completions.jsonl").write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"completions.jsonl was altered while it was in use"):
            stored.load()


def test_a_handle_of_an_appended_completion_equals_the_one_that_is_read_later(tmp_path):
    long = Tokens(2, 3, [1, 2], [3, 4, 5], [0.0, 0.5, 1.0], cost_usd=0.25)
    whole = Completion("p", 0, 5, "text", "stop", long, engine_s=0.5)
    view = folder_of(tmp_path / "run", [("t", whole)])
    stored = CompletionFile(tmp_path / "run" / "completions.jsonl").handle(whole, 0)
    (read,) = CompletionIndex(view, {"t": "g"}).completions["t"].values()
    assert stored == read
    assert without_ids(stored) == without_ids(whole)
    assert stored.engine_s == read.engine_s == 0.5


def test_index_reads_infinities_as_python_writes_them(tmp_path):
    row = ("t", "p", 0, "g", Verdict("incorrect", 0.0, details={"logp": float("-inf")}))
    view = folder_of(tmp_path / "run", [("t", completion(likelihoods=(Likelihood(float("-inf"), False, 1),)))], [row])
    found = CompletionIndex(view, {"t": "g"})
    assert found.verdicts["t"]["p", 0] == row[-1]
    assert found.completions["t"]["p", 0].load().likelihoods[0].logp == float("-inf")


def test_index_reads_lines_written_in_another_form(tmp_path):
    view = folder_of(tmp_path / "run", [("t", completion())], [("t", "p", 0, "g", Verdict("correct", 1.0))])
    row = json.loads((tmp_path / "run" / "completions.jsonl").read_text())
    del row["engine_s"], row["tokens"]["cost_usd"]
    (tmp_path / "run" / "completions.jsonl").write_text(json.dumps(dict(reversed(row.items()))) + "\n")
    row = json.loads((tmp_path / "run" / "verdicts.jsonl").read_text())
    (tmp_path / "run" / "verdicts.jsonl").write_text(json.dumps(dict(reversed(row.items()))) + "\n")
    found = CompletionIndex(view, {"t": "g"})
    assert without_ids(found.completions["t"]["p", 0]) == without_ids(completion())
    assert found.verdicts["t"] == {("p", 0): Verdict("correct", 1.0)}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("completions.jsonl", "{"),
        ("completions.jsonl", "[]"),
        ("completions.jsonl", '{"task":"t"}'),
        ("completions.jsonl", '{"task":"t","problem_id":"p","index":1.5,"seed":1,"text":"","finish_reason":"stop"}'),
        ("verdicts.jsonl", '{"task":"t","problem_id":"p","index":"x","grader":"g"}'),
        ("verdicts.jsonl", '{"task":"t","problem_id":"p","index":1,"grader":"g","outcome":"correct","reward":null}'),
        ("verdicts.jsonl", "nonsense"),
    ],
)
def test_altered_line_is_reported_with_its_number(tmp_path, file, line):
    view = folder_of(tmp_path / "run", [("t", completion())], [("t", "p", 0, "g", Verdict("correct", 1.0))])
    with (tmp_path / "run" / file).open("a") as journal:
        journal.write(line + "\n")
    with pytest.raises(RunFolderError, match=rf"{file}, line 2 .*the file was altered"):
        CompletionIndex(view, {"t": "g"})


def test_partial_line_before_another_is_ignored(tmp_path):
    """A crash of the machine may leave the head of one completion before the tail of the next."""
    view = folder_of(tmp_path / "run", [("t", completion()), ("t", completion(index=1)), ("t", completion(index=2))])
    path = tmp_path / "run" / "completions.jsonl"
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[: second.index(b"some text") + 4] + third)
    with pytest.raises(RunFolderError, match=r"completions.jsonl, line 2 .*the file was altered"):
        CompletionIndex(view, {"t": "g"})


def test_torn_last_line_is_ignored_by_the_index(tmp_path):
    view = folder_of(tmp_path / "run", [("t", completion())])
    with (tmp_path / "run" / "completions.jsonl").open("ab") as journal:
        journal.write(encode_line({"task": "t"})[:-1])
    assert len(CompletionIndex(view, {"t": "g"}).completions["t"]) == 1


def test_equal_verdicts_and_counts_share_an_object_up_to_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_SHARED", 2)
    texts = ["a", "b", "c", "a", "c"]
    verdicts = [("t", "p", i, "g", Verdict("incorrect", 0.0, text)) for i, text in enumerate(texts)]
    long = {"long": "x" * module.LONGEST_SHARED}
    verdicts += [("t", "p", 5 + i, "g", Verdict("incorrect", 0.0, "a", details=long)) for i in range(2)]
    found = CompletionIndex(folder_of(tmp_path / "run", [], verdicts), {"t": "g"}).verdicts["t"]
    assert [found["p", i] for i in range(7)] == [verdict for *_, verdict in verdicts]
    shared = {i: found["p", i] is found["p", j] for i, j in ((0, 3), (2, 4), (5, 6))}
    assert shared == {0: True, 2: False, 5: False}


def test_garbage_collection_is_restored_after_indexing(tmp_path):
    import gc

    with module.no_collections():
        assert not gc.isenabled()
    assert gc.isenabled()
