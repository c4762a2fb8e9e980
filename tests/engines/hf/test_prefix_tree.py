"""Scoring with shared prefixes: every token of a tree is read once, and the numbers are those of single passes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CONFIGS
from transformers import AutoModelForCausalLM

from harness.engines.hf import prefix_tree, scoring
from harness.engines.hf.prefix_tree import Node, branches, forest, pack, plan
from harness.engines.hf.scoring import score_windows
from harness.models.passages import ScoringWindow

VOCABULARY = 110


def paths(nodes: Sequence[Node], before: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Return the sequences of a forest."""
    found = []
    for node in nodes:
        assert node.start == len(before)
        assert node.ids
        sequence = before + node.ids
        found += [sequence] if node.is_end else []
        found += paths(node.children, sequence)
    return found


@given(st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple), min_size=1, max_size=12))
def test_a_forest_holds_exactly_its_sequences(sequences: set[tuple[int, ...]]) -> None:
    trees = forest(sorted(sequences))
    assert sorted(paths(trees)) == sorted(sequences)
    assert all(len(tree.ids) >= prefix_tree.MIN_SHARED for tree in trees if tree.children)
    for tree in trees:
        assert sorted(paths(branches(tree), ())) == sorted(paths([tree])) or not tree.children


@given(
    st.sets(st.lists(st.integers(0, 1), min_size=1, max_size=40).map(tuple), min_size=1, max_size=12),
    st.integers(1, 3),
)
def test_a_plan_reads_each_sequence_and_caches_nothing_that_is_scored(
    sequences: set[tuple[int, ...]], n_scored: int
) -> None:
    first = {ids: max(0, len(ids) - n_scored) for ids in sequences}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "MIN_SHARED", 2)
        patch.setattr(prefix_tree, "MIN_CACHED", 3)
        patch.setattr(prefix_tree, "ROW_TOKENS", 8)
        whole = plan(forest(sorted(sequences)), first)
    assert sorted(placed(whole, (), first)) == sorted(sequences)


def placed(shared: Any, before: tuple[int, ...], first: dict[tuple[int, ...], int]) -> list[tuple[int, ...]]:
    prefix = before + shared.ids
    found = []
    for row in shared.rows:
        for sequence, columns in row.places.items():
            assert prefix + tuple(row.ids[column] for column in columns) == sequence
            assert [row.positions[column] for column in columns] == list(range(len(prefix), len(sequence)))
            assert first[sequence] >= len(prefix)
            found.append(sequence)
    for inner in shared.inner:
        found += placed(inner, prefix, first)
    return found


# --- numbers ----------------------------------------------------------------------------------------------------------


def model(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def ids(draw: random.Random, n: int) -> tuple[int, ...]:
    return tuple(draw.randrange(VOCABULARY) for _ in range(n))


def few_shot(draw: random.Random, *, n_shots: int = 150, n_questions: int = 14) -> list[ScoringWindow]:
    """Return windows of two subjects, each with a long prefix of its own behind one for both."""
    windows = []
    common = ids(draw, n_shots // 2)
    for subject in (ids(draw, n_shots), ids(draw, n_shots // 3)):
        for _ in range(n_questions):
            question = common + subject + ids(draw, draw.randint(5, 40))
            for _ in range(4):
                ending = ids(draw, draw.randint(1, 9))
                windows.append(ScoringWindow(question + ending, len(ending)))
    return windows


def endings(draw: random.Random, n_questions: int = 12) -> list[ScoringWindow]:
    windows = []
    for _ in range(n_questions):
        question = ids(draw, draw.randint(1, 60))
        several = [ids(draw, draw.randint(1, 9)) for _ in range(4)]
        several.append(several[0] + ids(draw, 3))  # one that continues another
        windows += [ScoringWindow(question + ending, len(ending)) for ending in several]
    return windows


def expected(module: Any, window: ScoringWindow) -> tuple[float, bool, float]:
    """Return the log-probability in float64, whether it is greedy, and the least gap between the best two tokens."""
    with torch.no_grad():
        logits = module.double()(torch.tensor([window.ids])).logits[0, :-1]
    logp = torch.log_softmax(logits, -1)[-window.n_scored :]
    scored = torch.tensor(window.ids[-window.n_scored :])
    best = logp.topk(2, -1).values
    gap = float((best[:, 0] - best[:, 1]).min())
    return float(logp.gather(1, scored[:, None]).sum()), bool((logp.argmax(-1) == scored).all()), gap


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("make", [few_shot, endings])
def test_shared_prefixes_change_no_number(name: str, make: Any) -> None:
    windows = make(random.Random(1))
    module = model(name)
    found = score_windows(module, windows)
    assert scoring._shares_prefixes[module]
    for window in windows:
        logp, is_greedy, gap = expected(module, window)
        assert found[window][0] == pytest.approx(logp, rel=1e-5, abs=1e-5)
        assert found[window][1] == is_greedy or gap < 1e-4


def test_a_prefix_is_read_once_and_passes_stay_within_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PASS_TOKENS", 1024)
    module, windows = model("llama"), few_shot(random.Random(2))
    scoring._shares_prefixes[module] = True  # the trial reads some tokens a second time
    read: list[tuple[int, int]] = []

    def note(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        rows, width = arguments["input_ids"].shape
        cache = arguments.get("past_key_values")
        read.append((rows * width, rows * (width + (cache.get_seq_length() if cache is not None else 0))))

    hook = module.base_model.register_forward_pre_hook(note, with_kwargs=True)
    score_windows(module, windows)
    hook.remove()
    n_different = sum(tree.n_tokens() for tree in forest(sorted({window.input_ids for window in windows})))
    n_plain = sum(len(window.input_ids) for window in windows)
    assert n_different <= sum(tokens for tokens, _ in read) < 1.4 * n_different < n_plain / 8  # padding to 4 columns
    assert max(held for _, held in read) <= 1024


def test_a_model_that_ignores_the_mask_is_read_without_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, windows = model("llama"), endings(random.Random(3))
    forward = module.base_model.forward
    monkeypatch.setattr(module.base_model, "forward", lambda *a, attention_mask=None, **k: forward(*a, **k))
    found = score_windows(module, windows)
    assert not scoring._shares_prefixes[module]
    monkeypatch.undo()
    for window in windows:
        assert found[window][0] == pytest.approx(expected(module, window)[0], rel=1e-5, abs=1e-5)


def test_a_window_of_attention_shorter_than_the_text_prevents_sharing() -> None:
    module = model("gemma2")
    module.config.sliding_window = 16
    for layer in module.model.layers:
        if getattr(layer.self_attn, "sliding_window", None):
            layer.self_attn.sliding_window = 16
    windows = few_shot(random.Random(4), n_questions=2)
    found = score_windows(module, windows)
    assert module not in scoring._shares_prefixes
    for window in windows:
        assert found[window][0] == pytest.approx(expected(module, window)[0], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", scoring._WINDOWS)
def test_a_layer_of_local_attention_narrower_than_a_row_prevents_sharing(name: str) -> None:
    module = model("llama")
    setattr(module.config, name, 300)  # more than any of the sequences, less than a packed row may have
    score_windows(module, endings(random.Random(5)))
    assert module not in scoring._shares_prefixes


def test_no_windows_need_no_pass() -> None:
    assert score_windows(model("llama"), []) == {}


def test_packing_a_tree_gives_each_node_the_columns_of_those_above_it() -> None:
    leaf, other = Node(2, (7,), [], True), Node(2, (8, 9), [], True)
    row = pack(Node(0, (5, 6), [leaf, other], False), ())
    assert row.ids == [5, 6, 7, 8, 9]
    assert row.positions == [0, 1, 2, 2, 3]
    assert row.spans == [(0, 2, []), (2, 3, [(0, 2)]), (3, 5, [(0, 2)])]
    assert row.places == {(5, 6, 7): [0, 1, 2], (5, 6, 8, 9): [0, 1, 3, 4]}
