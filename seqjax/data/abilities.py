"""Made-up sequences that ask what a model can do: recall, copy, go on with a pattern, track a state.

    recall      k_1 v_1 ... k_P v_P, then the keys once more in another order, among blanks; answer to a key: its value.
                Multi-query associative recall, MQAR (Arora et al. 2023, arXiv 2312.04927)
    copying     items among blanks, at random places, then as many questions; answers: the items in their order.
                Selective copying (Gu & Dao 2023, arXiv 2312.00752, section 4.1.1)
    induction   random symbols with a mark among them, at the end the mark again; answer: what followed the mark before.
                Induction heads (Olsson et al. 2022, arXiv 2209.11895; as in Gu & Dao 2023, section 4.1.2)
    parity      random bits; answer at each step: whether the number of ones so far is odd
    s5          five things in an order; at random the first two are swapped or all are turned; answer at each step:
                their order now. The word problem of the group S5 for two generators (Merrill, Petty & Sabharwal
                2024, arXiv 2404.08819)

All kinds have one vocabulary, so that one program can train them side by side. Tokens below 126 are symbols, of which
each kind uses some. A longer sequence has more blanks, symbols or steps, and as many things to remember.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["recall", "copying", "induction", "parity", "s5"]
KINDS: tuple[Kind, ...] = ("recall", "copying", "induction", "parity", "s5")
VOCABULARY, BLANK, MARK = 128, 126, 127
KEYS = BLANK // 2  # keys 0 .. KEYS - 1, values KEYS .. BLANK - 1
NOTHING = -1  # the target where nothing is asked
CHOICES = {"recall": KEYS, "parity": 2, "s5": 120}  # possible answers; of other kinds the number of symbols


class Sequences(NamedTuple):
    """Tokens and the answer after each of them, int32 [B, T]; `NOTHING` where nothing is asked."""

    tokens: np.ndarray
    targets: np.ndarray


def draw(
    kind: Kind, rng: np.random.Generator, count: int, length: int, pairs: int, items: int, symbols: int
) -> Sequences:
    """Sequences of a kind.

    Args:
        count, length: B and T.
        pairs: P of recall; 3 P <= T.
        items: of copying; twice as many fit into T.
        symbols: different ones, of copying and induction.
    """
    match kind:
        case "recall":
            return recall(rng, count, length, pairs)
        case "copying":
            return copying(rng, count, length, items, symbols)
        case "induction":
            return induction(rng, count, length, symbols)
        case "parity":
            bits_BxT = rng.integers(2, size=(count, length), dtype=np.int32)
            return Sequences(bits_BxT, np.cumsum(bits_BxT, axis=1, dtype=np.int32) % 2)
        case "s5":
            return s5(rng, count, length)


def recall(rng: np.random.Generator, count: int, length: int, pairs: int) -> Sequences:
    """All P keys of a sequence are different, values may be equal."""
    keys_BxP = some(rng, count, KEYS, pairs).astype(np.int32)
    values_BxP = rng.integers(KEYS, BLANK, (count, pairs), dtype=np.int32)
    tokens_BxT, targets_BxT = _blanks(count, length)
    tokens_BxT[:, 0 : 2 * pairs : 2], tokens_BxT[:, 1 : 2 * pairs : 2] = keys_BxP, values_BxP
    places_BxP = 2 * pairs + some(rng, count, length - 2 * pairs, pairs)  # of the key number p
    np.put_along_axis(tokens_BxT, places_BxP, keys_BxP, axis=1)
    np.put_along_axis(targets_BxT, places_BxP, values_BxP, axis=1)
    return Sequences(tokens_BxT, targets_BxT)


def copying(rng: np.random.Generator, count: int, length: int, items: int, symbols: int) -> Sequences:
    """The last ``items`` tokens are questions, all alike."""
    found_BxI = rng.integers(symbols, size=(count, items), dtype=np.int32)
    tokens_BxT, targets_BxT = _blanks(count, length)
    places_BxI = np.sort(some(rng, count, length - items, items), axis=1)
    np.put_along_axis(tokens_BxT, places_BxI, found_BxI, axis=1)
    tokens_BxT[:, -items:], targets_BxT[:, -items:] = MARK, found_BxI
    return Sequences(tokens_BxT, targets_BxT)


def induction(rng: np.random.Generator, count: int, length: int, symbols: int) -> Sequences:
    """The mark is once among the first T - 2 tokens, and is the last one."""
    tokens_BxT = rng.integers(symbols, size=(count, length), dtype=np.int32)
    targets_BxT = np.full((count, length), NOTHING, np.int32)
    place_B, row_B = rng.integers(length - 2, size=count), np.arange(count)
    targets_BxT[:, -1] = tokens_BxT[row_B, place_B + 1]
    tokens_BxT[row_B, place_B] = tokens_BxT[:, -1] = MARK
    return Sequences(tokens_BxT, targets_BxT)


def s5(rng: np.random.Generator, count: int, length: int) -> Sequences:
    """Token 0: swap, 1: turn. An answer is the number of one of the 120 orders."""
    tokens_BxT = rng.integers(2, size=(count, length), dtype=np.int32)
    after, order_B = _moves(), np.zeros(count, np.int32)
    targets_BxT = np.empty_like(tokens_BxT)
    for t in range(length):
        order_B = after[order_B, tokens_BxT[:, t]]
        targets_BxT[:, t] = order_B
    return Sequences(tokens_BxT, targets_BxT)


@cache
def _moves() -> np.ndarray:
    """The order after each token from each of the 120 orders, int32 [120, 2]; order 0 is the first one."""
    orders = list(itertools.permutations(range(5)))
    number = {order: index for index, order in enumerate(orders)}
    moved = [((b, a, c, d, e), (b, c, d, e, a)) for a, b, c, d, e in orders]
    return np.array([[number[order] for order in after] for after in moved], np.int32)


def some(rng: np.random.Generator, count: int, among: int, number: int) -> np.ndarray:
    """For each of B rows ``number`` different integers below ``among``, in random order, [B, number]."""
    return rng.random((count, among)).argsort(axis=1)[:, :number]


def _blanks(count: int, length: int) -> Sequences:
    return Sequences(np.full((count, length), BLANK, np.int32), np.full((count, length), NOTHING, np.int32))
