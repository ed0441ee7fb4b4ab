"""Numbers in words and in digits: a generated translation task with known answers.

    three hundred and four thousand and twenty one  ->  3 0 4 0 2 1

The translation is not word by word: zeros are not spoken, "and" and "hundred" have no digit, and the place of a digit
depends on later words. Numbers are below a million; some are held out.
"""

from __future__ import annotations

import numpy as np

from seqjax.data.pairs import Pair, Pairs

LIMIT = 1_000_000  # numbers are below it
MOST = 500_000  # numbers in all splits together
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """A number from 0 to 999,999 in English words, without hyphens.

    Raises:
        ValueError: outside that range.
    """
    if not 0 <= number < LIMIT:
        raise ValueError(f"{number} is not from 0 to {LIMIT - 1:,}")
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f" {_SMALL[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    link = " and " if 0 < rest < 100 else " "
    return f"{in_words(thousands)} thousand" + (f"{link}{in_words(rest)}" if rest else "")


def distinct_numbers(count: int, seed: int) -> np.ndarray:
    """Numbers for :func:`number_pairs` in random order, int64 [count].

    Eight are drawn for each wanted one. Of the draws for `MOST`, 571,000 are distinct.

    Raises:
        ValueError: more than `MOST`, or the draws have too few distinct ones.
    """
    if count > MOST:
        raise ValueError(f"{count:,} numbers asked for; at most {MOST:,} of the {LIMIT:,} below a million")
    rng = np.random.default_rng(seed)
    digits = rng.integers(1, 7, size=8 * count)
    numbers = np.unique(rng.integers(np.where(digits == 1, 0, 10 ** (digits - 1)), 10**digits))
    if len(numbers) < count:
        raise ValueError(f"{count:,} numbers asked for; the draws of seed {seed} have {len(numbers):,} distinct ones")
    rng.shuffle(numbers)
    return numbers[:count]


def number_pairs(train: int, held_out: int, seed: int = 0) -> Pairs:
    """Distinct numbers: ``train`` for training, ``held_out`` each for validation and test, without overlap.

    Digits are separated by spaces, so each is a word. The number of digits is drawn uniformly from 1 to 6; repeated
    numbers are dropped, so short numbers are rarer.

    Raises:
        ValueError: more than `MOST` numbers.
    """
    numbers = distinct_numbers(train + 2 * held_out, seed)
    pairs: tuple[Pair, ...] = tuple((in_words(int(n)), " ".join(str(n))) for n in numbers)
    return Pairs(
        "numbers",
        {"train": pairs[:train], "validation": pairs[train : train + held_out], "test": pairs[train + held_out :]},
    )
