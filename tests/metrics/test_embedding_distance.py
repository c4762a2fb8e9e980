"""Embedding distance against a plain loop over pairs, with a stand-in for the model and with a real one made here."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from harness.cli import main
from harness.core import extras
from harness.core.errors import ConfigError, PluginError
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.metrics.embedding_distance import Embedded, EmbeddingDistance

RIGHT, WRONG, UNGRADED = Verdict("correct", 1.0), Verdict("incorrect", 0.0), Verdict("ungraded", None)


def graded_of(**problems):
    """Lists of texts by problem id; one that begins with `!` is wrong, with `?` ungraded."""
    verdicts = {"!": WRONG, "?": UNGRADED}
    return [
        Graded(Problem(name, "t", (), None), Completion(name, i, 0, text, "stop", Tokens(1, 1)),
               verdicts.get(text[:1], RIGHT))
        for name, texts in problems.items()
        for i, text in enumerate(texts)
    ]  # fmt: skip


class Vectors:
    """Texts to vectors of any length, as they are given; it keeps what it was asked."""

    def __init__(self, vectors, most=None):
        self.vectors, self.most, self.asked = vectors, most, []

    def embed(self, texts):
        self.asked.append(list(texts))
        n_cut = sum(len(text) > self.most for text in texts) if self.most is not None else 0
        return Embedded(np.array([self.vectors[text] for text in texts]), n_cut, self.most)


def metric_of(vectors, **named):
    return EmbeddingDistance(EmbeddingDistance.Config(model="m"), Vectors(vectors, **named))


def by_pairs(texts, vectors):
    """The definition, one pair after another."""
    distances = [
        1 - np.dot(vectors[a], vectors[b]) / (np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b]))
        for a, b in combinations(texts, 2)
    ]
    return sum(distances) / len(distances)


def test_embedding_distance_of_a_case_computed_by_hand():
    vectors = {"east": (2.0, 0.0), "north": (0.0, 3.0), "west": (-1.0, 0.0)}
    graded = graded_of(p=["east", "north", "west", "!no"], q=["east", "east"], r=["north", "!no"], s=["?", "!no"])
    (found,) = metric_of(vectors, most=4).estimate(graded)
    assert found.value == pytest.approx(((1 + 2 + 1) / 3 + 0) / 2)
    assert (found.name, found.n_problems, found.n_completions, found.n_ungraded) == ("embedding_distance", 2, 6, 1)
    assert "2 problems with fewer than 2 right completions left out" in found.method
    assert "m reads 4 tokens, and 1 of 3 different texts are longer" in found.method
    assert found.low <= found.value <= found.high <= 2


def test_embedding_distance_agrees_with_a_loop_over_pairs_in_any_order():
    random = np.random.default_rng(0)
    texts = {f"p{i}": [f"{i}-{j % 5}" for j in range(int(random.integers(2, 9)))] for i in range(12)}
    vectors = {text: random.normal(0.3, 1, 7) for of_problem in texts.values() for text in of_problem}
    graded = graded_of(**texts)
    metric = metric_of(vectors)
    values = metric.per_problem(graded)["embedding_distance"]
    assert values == {name: pytest.approx(by_pairs(texts[name], vectors), abs=1e-12) for name in texts}
    (found,) = metric.estimate(graded)
    assert found.value == pytest.approx(sum(values.values()) / 12, abs=1e-12)
    assert "reads any length" in found.method
    shuffled = [graded[i] for i in random.permutation(len(graded))]
    assert metric_of(vectors).estimate(shuffled) == [found]
    assert metric._encoder.asked == [sorted(vectors)] * 2  # each text once, all at once


def test_embedding_distance_without_pairs_opens_no_model_and_gives_no_estimate():
    metric = metric_of({})
    assert list(metric.estimate(graded_of(p=["a", "!b"], q=["!c"]))) == []
    assert metric._encoder.asked == []


@pytest.mark.parametrize("broken", [(0.0, 0.0), (np.nan, 1.0)])
def test_an_embedding_without_a_direction_is_refused(broken):
    with pytest.raises(PluginError, match="as zero or not a number"):
        metric_of({"a": (1.0, 0.0), "b": broken}).estimate(graded_of(p=["a", "b"]))


def test_the_missing_extra_embed_is_refused_before_anything_is_generated(tmp_path, capsys):
    if extras.is_installed("embed"):
        pytest.skip("sentence-transformers is installed here")
    assert main(["eval", "countdown-tiny", "--tasks", "countdown", "--limit", "2", "--out", str(tmp_path / "run"),
                 "--set", 'metrics=["avg_at_k", "embedding_distance"]']) == 2  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'flowrl-harness[embed]'" in line
    assert not (tmp_path / "run").exists()


# --- with sentence-transformers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A BERT of two layers with random weights, which reads 8 tokens: six words between its two marks."""
    sentences = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed; `tox -e peers` runs this"
    )
    import torch
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    torch.manual_seed(0)
    shape = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                       intermediate_size=32, max_position_embeddings=32)  # fmt: skip
    BertModel(shape).save_pretrained(folder / "bert")
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "bert")
    layers = [Transformer(str(folder / "bert"), max_seq_length=8), Pooling(16, "mean")]
    sentences.SentenceTransformer(modules=layers, device="cpu").save(str(folder / "whole"))
    return folder / "whole"


@pytest.mark.filterwarnings("default")
def test_embedding_distance_of_a_sentence_model_equals_a_loop_over_its_embeddings(model):
    import sentence_transformers

    texts = {"p": ["a b c", "c b a", "a a a"], "q": ["h g", "h g f e d c", "h g f e d c b a", "h g f e d c a b"]}
    metric = EmbeddingDistance(EmbeddingDistance.Config(model=str(model), device="cpu"))
    opened = sentence_transformers.SentenceTransformer(str(model), device="cpu")
    vectors = {text: opened.encode(text).astype(float) for of_problem in texts.values() for text in of_problem}
    graded = graded_of(**texts)
    values = metric.per_problem(graded)["embedding_distance"]
    # float32 in batches of one, and padded in a batch of all
    assert values == {name: pytest.approx(by_pairs(texts[name], vectors), abs=1e-5) for name in texts}
    assert min(values.values()) > 0.001
    (found,) = metric.estimate(graded)
    assert f"{model} reads 8 tokens, and 2 of 7 different texts are longer" in found.method


@pytest.mark.filterwarnings("default")
def test_an_unreadable_embedding_model_is_refused_in_one_line(model, tmp_path):
    (tmp_path / "empty").mkdir()
    metric = EmbeddingDistance(EmbeddingDistance.Config(model=str(tmp_path / "empty")))
    with pytest.raises(ConfigError, match="can't be opened") as caught:
        metric.estimate(graded_of(p=["a", "b"]))
    assert "\n" not in str(caught.value)
