"""A generated text with copies at log-uniform distances, whose best possible loss at every position is known.

Keys and values take turns: ``k v k v ...``. Every key has a value, which it repeats each time it comes, but for a new
one now and then:

    key_n ~ p,  p_i = 1 / (i H_M),  i = 1..M            the harmonic number H_M makes it a distribution
    value_n = the value of that key's last time, or with probability r a new one, uniform over V

Because p_i falls as 1 / i, the distance from one time of a key to the next is log-uniform, from p_1^-1 to p_M^-1 pairs.
To predict a value one has to find the key's last time; before that has come in the context, nothing can be known. So
the loss of a perfect reader falls through the whole context, and that of one who forgets stops falling. Everything is
stationary: a window may begin anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&()*+,-./:;<=>?@[]^_{|}~"
VALUES = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Copies:
    """The process.

    Attributes:
        keys: M, at most 64. values: V, at most 26. renewal: r, the probability of a new value.
    """

    keys: int = 32
    values: int = 8
    renewal: float = 0.1

    @property
    def probability_M(self) -> np.ndarray:
        """p, the probability of each key."""
        weights = 1.0 / np.arange(1, self.keys + 1)
        return weights / weights.sum()

    def text(self, pairs: int, seed: int) -> str:
        """A sample of so many pairs: two characters each."""
        rng = np.random.default_rng(seed)
        keys_N = rng.choice(self.keys, size=pairs, p=self.probability_M)
        fresh_N = rng.integers(self.values, size=pairs)
        renewed_N = rng.random(pairs) < self.renewal
        now_M = rng.integers(self.values, size=self.keys)
        letters = []
        for key, fresh, renewed in zip(keys_N, fresh_N, renewed_N, strict=True):
            if renewed:
                now_M[key] = fresh
            letters.append(KEYS[key] + VALUES[now_M[key]])
        return "".join(letters)

    def write(self, folder: Path, pairs: int, files: int = 40, seed: int = 0) -> Path:
        """A corpus of so many pairs in equal files, which split it into training and held-out text."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (folder / f"{number:03d}.txt").write_text(self.text(pairs // files, seed * files + number))
        return folder

    def floor(self, context: int) -> np.ndarray:
        """The lowest possible expected loss at each position, nats, [2, T].

        Row 0 is of windows that begin with a key, row 1 of those that begin with a value. Position t, from 1, predicts
        the token after t tokens. With n pairs seen, key i has been among them with probability 1 - (1 - p_i)^n.
        """
        of_key = _entropy(self.probability_M)
        pairs_seen = np.arange(context + 1)
        value_after_pairs = self._value_loss(pairs_seen, orphan=False)
        value_after_orphan = self._value_loss(pairs_seen, orphan=True)
        positions = np.arange(1, context + 1)
        begins_with_key = np.where(positions % 2 == 1, value_after_pairs[(positions - 1) // 2], of_key)
        begins_with_value = np.where(positions % 2 == 1, of_key, value_after_orphan[np.maximum(positions // 2 - 1, 0)])
        return np.stack([begins_with_key, begins_with_value])

    def _value_loss(self, pairs_n: np.ndarray, orphan: bool) -> np.ndarray:
        """Expected loss of a value after n whole pairs, and perhaps before them a value whose key was not seen."""
        p = self.probability_M
        kept = 1 - self.renewal + self.renewal / self.values
        known = _one_against_others(np.array(kept), self.values)
        # an orphaned value is the unseen key's with its probability p
        guess_M = p * kept + (1 - p) / self.values if orphan else np.full(self.keys, 1 / self.values)
        unknown_M = _one_against_others(guess_M, self.values)
        unseen_nxM = (1 - p) ** pairs_n[:, None]
        return ((1 - unseen_nxM) * known + unseen_nxM * unknown_M) @ p


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


def _one_against_others(p: np.ndarray, values: int) -> np.ndarray:
    """Entropy where one value has probability p and the others share the rest evenly."""
    rest = (1 - p) / (values - 1)
    return -p * np.log(p) - (values - 1) * rest * np.log(np.maximum(rest, 1e-300))
