"""A small mirror of data, a folder to work in, and no network."""

import pytest
from official_shapes import wiki, write

AIME = "aime24/qwen25math_aime24_test.jsonl"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with two rows of aime24; the current folder is empty, and the network is off."""
    from huggingface_hub import constants

    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "mirror"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    rows = [
        {"problem": f"What is ${n} + {n}$?", "answer": f"{2 * n:03d}", "url": wiki(2024, "AIME_I", n)} for n in (1, 2)
    ]
    write(tmp_path / "mirror" / AIME, rows)
    return tmp_path / "mirror"
