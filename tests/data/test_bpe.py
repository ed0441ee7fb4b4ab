"""Training of byte pair encoding, against rustbpe and against plain counting."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data import bpe, english

TEXT = english.text()[:400_000].decode()


def counted_again(words: Counter[str], n_merges: int) -> list[bytes]:
    """Merged tokens by counting every pair of every word anew at each step."""
    split = {tuple(bytes([b]) for b in word.encode()): n for word, n in words.items()}
    order = [bytes([i]) for i in range(256)]
    for _ in range(n_merges):
        pairs: Counter[tuple[int, int]] = Counter()
        for word, n in split.items():
            for a, b in pairwise(word):
                pairs[order.index(a), order.index(b)] += n
        if not pairs:
            break
        a, b = min(pairs, key=lambda p: (-pairs[p], p))
        a, b = order[a], order[b]
        if a + b not in order:
            order.append(a + b)
        merged: dict[tuple[bytes, ...], int] = {}
        for word, n in split.items():
            new: list[bytes] = []
            i = 0
            while i < len(word):
                pair = word[i : i + 2] == (a, b)
                new.append(a + b if pair else word[i])
                i += 2 if pair else 1
            merged[tuple(new)] = merged.get(tuple(new), 0) + n
        split = merged
    return order


@pytest.mark.parametrize("n_merges", [0, 1, 700])
def test_ranks_are_those_of_rustbpe(n_merges: int) -> None:
    rustbpe = pytest.importorskip("rustbpe")
    oracle = rustbpe.Tokenizer()
    oracle.train_from_iterator(iter([TEXT]), 256 + n_merges, pattern=bpe.PATTERN)
    assert {bytes(token): rank for token, rank in oracle.get_mergeable_ranks()} == bpe.train_bpe([TEXT], n_merges)


@given(st.dictionaries(st.text("aab \u00e9", min_size=1, max_size=12), st.integers(1, 5), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_merging_is_plain_counting(words: dict[str, int]) -> None:
    assert list(bpe.merge_words(words, 12)) == counted_again(Counter(words), 12)


def test_merges_stop_when_no_pair_is_left() -> None:
    assert len(bpe.train_bpe(["abc"], 100)) == 258
    assert len(bpe.train_bpe([], 100)) == 256


@given(st.text("ab1 \n\t\r.'s\u00e9\u2003", max_size=30))
@settings(max_examples=50, deadline=None)
def test_pattern_cuts_as_gpt2_does_here_and_in_tiktoken(text: str) -> None:
    import regex

    published = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    pieces = regex.findall(bpe.PATTERN, text)
    assert pieces == regex.findall(published, text)
    # Every piece is one token where all pieces are in the vocabulary.
    tokens = {bytes([i]): i for i in range(256)}
    for piece in pieces:
        tokens.setdefault(piece.encode(), len(tokens))
    encoding = tiktoken.Encoding("test", pat_str=bpe.PATTERN, mergeable_ranks=tokens, special_tokens={})
    assert [encoding.decode_single_token_bytes(t).decode() for t in encoding.encode_ordinary(text)] == pieces


def test_long_runs_of_blanks_are_encoded() -> None:
    tokens = {bytes([i]): i for i in range(256)}
    encoding = tiktoken.Encoding("test", pat_str=bpe.PATTERN, mergeable_ranks=tokens, special_tokens={})
    text = " " * 1_000_000 + "a"
    assert np.array_equal(encoding.encode_ordinary(text), list(text.encode()))
