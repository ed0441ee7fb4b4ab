"""Fixtures of the data tests: no test reads or writes the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from seqjax.data.corpus import Corpus, Document


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, also behind ``cache_folder()``."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SEQJAX_CACHE", str(folder))
    return folder


@pytest.fixture
def make_corpus() -> Callable[..., Corpus]:
    """Corpus from the texts of its splits: ``make_corpus(train=["..."], validation=[b"..."])``."""

    def make(name: str = "made", **splits: list[str | bytes]) -> Corpus:
        made = {
            split: tuple(_document(f"{split}{i}", text) for i, text in enumerate(texts))
            for split, texts in splits.items()
        }
        return Corpus(name, hashlib.sha256(repr(splits).encode()).hexdigest(), made)

    return make


def _document(name: str, text: str | bytes) -> Document:
    data = text.encode() if isinstance(text, str) else text
    return Document(name, "made", lambda: iter([data] if data else []), len(data))
