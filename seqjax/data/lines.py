"""Lines of the embedded corpus with their author as the class.

Shakespeare, Milton and the King James Bible as words and punctuation in lower case. A line is a fixed number of
consecutive words, all in the vocabulary. Milton's Latin poems are left out. The splits are the corpus's, by works.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from seqjax.data.corpora import load_corpus

AUTHORS = ("shakespeare", "milton", "kjv")
LATIN = ("poemata",)
Lines = dict[str, np.ndarray]
"""Author -> int32 [lines, width + 1], the author's token first."""


class Vocabulary(NamedTuple):
    """Known words, then authors; a token's id is its place in this order."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """V, the authors included."""
        return len(self.words) + len(AUTHORS)

    def author(self, name: str) -> int:
        """The first token of an author's lines."""
        return len(self.words) + AUTHORS.index(name)

    def text(self, tokens: Sequence[int]) -> str:
        """Words joined by spaces. An author's token, which no line should contain, is a #."""
        names = (*self.words, *("#" for _ in AUTHORS))
        return " ".join(names[token] for token in tokens)


def split_words(text: str) -> list[str]:
    """Runs of letters, with apostrophes inside, and single punctuation marks, in lower case."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*|[,.;:?!]", text.lower())


@lru_cache(maxsize=3)
def load_words(split: str) -> dict[str, tuple[str, ...]]:
    """The words of each author in a split ("train", "validation" or "test"), work by work.

    Raises:
        UserError: the corpus has no such split, or its file is damaged.
    """
    found: dict[str, list[str]] = {author: [] for author in AUTHORS}
    for document in load_corpus("english").documents(split):
        if document.name not in LATIN:
            found[document.source] += split_words(b"".join(document.chunks()).decode())
    return {author: tuple(words) for author, words in found.items()}


def make_vocabulary(words: dict[str, tuple[str, ...]], size: int) -> Vocabulary:
    """The ``size`` words with the largest mean share in the authors' texts: each author has the same weight."""
    shares: Counter[str] = Counter()
    for own in words.values():
        for word, count in Counter(own).items():
            shares[word] += count / len(own)
    return Vocabulary(tuple(sorted(shares, key=lambda word: (-shares[word], word))[:size]))


def set_in_lines(words: dict[str, tuple[str, ...]], vocabulary: Vocabulary, width: int) -> Lines:
    """Every author's words cut into lines of ``width`` words. Lines with an unknown word are left out."""
    ids = {word: token for token, word in enumerate(vocabulary.words)}
    lines = {}
    for author, own in words.items():
        tokens = np.array([ids.get(word, -1) for word in own], np.int32)
        rows = tokens[: len(tokens) // width * width].reshape(-1, width)
        rows = rows[(rows >= 0).all(axis=1)]
        lines[author] = np.concatenate([np.full((len(rows), 1), vocabulary.author(author), np.int32), rows], axis=1)
    return lines
