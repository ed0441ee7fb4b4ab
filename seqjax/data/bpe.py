"""Byte pair encoding: training of merge ranks (Sennrich et al. 2016, on bytes as in GPT-2, Radford et al. 2019)."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

# GPT-2's pieces: contractions, words, numbers and signs, each with the space before it. In a run of blanks before a
# word, the last blank belongs to the word. GPT-2 writes that as \s+(?!\S)|\s+, which exhausts the stack of tiktoken's
# engine on long runs. This pattern does not backtrack; it only cuts long runs into pieces of 1024.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s++(?!\S)|(?:\s(?=\s)){1,1024}+|\s"""
_SHIFT = 32  # the pair (a, b) is the integer a << 32 | b, which keeps the order of pairs


def train_bpe(texts: Iterable[str], n_merges: int) -> dict[bytes, int]:
    """Ranks of the 256 bytes and of up to ``n_merges`` merged tokens, in the order of the merges.

    Each step joins the most frequent pair of neighbouring tokens inside the pieces of `PATTERN`. Ties go to the pair
    with the smallest ids. There are fewer merges if no pair is left to join.
    """
    return merge_words(count_pieces(texts), n_merges)


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """The count of each piece of `PATTERN` in the texts."""
    import regex

    find = regex.compile(PATTERN).findall
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(find(text))
    return counts


def merge_words(counts: Mapping[str, int], n_merges: int) -> dict[bytes, int]:
    """The merging part of `train_bpe`: from the counts of pieces to ranks.

    All distinct pieces are stored in one linked list of tokens. ``places`` holds the places of each pair; places that
    have changed since they were listed are skipped. So training visits each token of the distinct pieces a few times,
    independent of the size of the corpus.
    """
    tokens = [bytes([i]) for i in range(256)]
    ranks = {token: i for i, token in enumerate(tokens)}
    ids, weights, following, preceding = _linked(counts)
    pair_counts, places = _initial_pairs(ids, weights, following)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    end = len(tokens) + n_merges
    while len(tokens) < end and heap:
        count, pair = heapq.heappop(heap)
        current = pair_counts.get(pair, 0)
        if current != -count:  # the count has changed since it was pushed
            if current:
                heapq.heappush(heap, (-current, pair))
            continue
        a, b = pair >> _SHIFT, pair & ((1 << _SHIFT) - 1)
        merged = tokens[a] + tokens[b]
        new = ranks.setdefault(merged, len(tokens))  # two pairs can give the same token: it keeps its id
        if new == len(tokens):
            tokens.append(merged)
        grown = set()
        for i in sorted(places.pop(pair)):  # from left to right, which matters for runs of one token
            j = following[i]
            if ids[i] != a or j < 0 or ids[j] != b:
                continue
            weight, before, after = weights[i], preceding[i], following[j]
            if before >= 0:
                left = ids[before]
                pair_counts[left << _SHIFT | a] -= weight
                key = left << _SHIFT | new
                pair_counts[key] += weight
                places[key].append(before)
                grown.add(key)
            if after >= 0:
                right = ids[after]
                pair_counts[b << _SHIFT | right] -= weight
                key = new << _SHIFT | right
                pair_counts[key] += weight
                places[key].append(i)
                grown.add(key)
                preceding[after] = i
            ids[i], ids[j], following[i] = new, -1, after
        del pair_counts[pair]
        for key in grown:
            if pair_counts[key]:
                heapq.heappush(heap, (-pair_counts[key], key))
    return ranks


def _linked(counts: Mapping[str, int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """For all bytes of all pieces: id, count of their piece, index of the next and of the previous byte (-1: none)."""
    pieces = [(piece.encode("utf-8"), count) for piece, count in counts.items()]
    lengths = np.array([len(piece) for piece, _ in pieces], np.int64)
    ids = np.frombuffer(b"".join(piece for piece, _ in pieces), np.uint8)
    weights = np.repeat(np.array([count for _, count in pieces], np.int64), lengths)
    ends = np.cumsum(lengths)
    following = np.arange(1, len(ids) + 1)
    preceding = np.arange(-1, len(ids) - 1)
    following[ends - 1] = -1
    preceding[ends - lengths] = -1
    return ids.tolist(), weights.tolist(), following.tolist(), preceding.tolist()


def _initial_pairs(ids: list[int], weights: list[int], following: list[int]) -> tuple[defaultdict, defaultdict]:
    """Count of every pair, and the places of its first tokens."""
    pair_counts: defaultdict[int, int] = defaultdict(int)
    places: defaultdict[int, list[int]] = defaultdict(list)
    for i, (left, weight, j) in enumerate(zip(ids, weights, following, strict=True)):
        if j >= 0:
            key = left << _SHIFT | ids[j]
            pair_counts[key] += weight
            places[key].append(i)
    return pair_counts, places
