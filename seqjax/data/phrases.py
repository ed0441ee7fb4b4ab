"""A generated language of opinions whose label depends on the order of the words: negation and contrast.

    clause    = subject "is" [negation] [degree] adjective       its sign: the adjective's, reversed by a negation
    sentence  = clause                                           its sign
              | clause "but" clause'                             the sign of the second; the two are opposite
              | clause "although" clause'                        the sign of the first; the two are opposite
              | "although" clause "," clause'                    the sign of the second; the two are opposite
              | subject "is" "not" adjective "but" adjective'    the sign of the second; the two are opposite

Every label follows from these rules, so accuracy 1 is possible. A model that adds up weights of words cannot reach it.
Exchanging the two clauses of a contrast keeps the words and reverses the label. And a sum gets at most three of "good",
"bad", "not good" and "not bad" right.
"""

from __future__ import annotations

import numpy as np

SUBJECTS = tuple(
    f"{article} {noun}"
    for article in ("the", "this")
    for noun in ("film", "plot", "acting", "script", "ending", "music", "cast", "pace", "camera", "story")
)
GOOD = ("good", "clever", "funny", "moving", "fresh", "honest", "gripping", "lovely", "sharp", "warm", "bold", "rich")
BAD = ("bad", "dull", "stale", "clumsy", "hollow", "dreary", "shallow", "lazy", "bland", "weak", "cold", "messy")
NEGATIONS = ("not", "never", "hardly")
DEGREES = ("very", "really", "quite", "rather")
LABELS = ("0", "1")  # negative, positive


def phrases(count: int, seed: int) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
    """``count`` different sentences as words, and their labels 0 or 1, int32; half are positive on average."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, ...], int] = {}
    while len(found) < count:
        label = int(rng.integers(2))
        found.setdefault(_sentence(rng, 2 * label - 1), label)
    return tuple(found), np.array(list(found.values()), np.int32)


def _sentence(rng: np.random.Generator, sign: int) -> tuple[str, ...]:
    form = rng.integers(5)
    if form == 0:
        return _clause(rng, sign)
    if form == 1:
        return *_clause(rng, -sign), "but", *_clause(rng, sign)
    if form == 2:
        return *_clause(rng, sign), "although", *_clause(rng, -sign)
    if form == 3:
        return "although", *_clause(rng, -sign), ",", *_clause(rng, sign)
    return *_one_of(rng, SUBJECTS).split(), "is", "not", _adjective(rng, -sign), "but", _adjective(rng, sign)


def _clause(rng: np.random.Generator, sign: int) -> tuple[str, ...]:
    negated = rng.integers(2)
    degree = (_one_of(rng, DEGREES),) if rng.integers(2) else ()
    negation = (_one_of(rng, NEGATIONS),) if negated else ()
    return *_one_of(rng, SUBJECTS).split(), "is", *negation, *degree, _adjective(rng, -sign if negated else sign)


def _adjective(rng: np.random.Generator, sign: int) -> str:
    return _one_of(rng, GOOD if sign > 0 else BAD)


def _one_of(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]
