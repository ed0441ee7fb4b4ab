"""One vocabulary for both sides of a parallel text, with marks for the beginning and the end of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tiktoken

from seqjax.data import bpe
from seqjax.errors import UserError

UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Vocabulary:
    """Byte pair encoding, or whole words, and two marks.

    Attributes:
        size: V, the two marks included.
        begin, end: ids of the marks.
        name: "bpe" or "words".
    """

    name: str
    encoding: tiktoken.Encoding | None
    words: tuple[str, ...]

    @property
    def size(self) -> int:
        return self.end + 1

    @property
    def begin(self) -> int:
        return len(self.words) if self.encoding is None else self.encoding.n_vocab

    @property
    def end(self) -> int:
        return self.begin + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a sentence, without marks. An unknown word becomes `UNKNOWN`."""
        if self.encoding is not None:
            return self.encoding.encode_ordinary(text)
        return [self._index.get(word, 0) for word in text.split()]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of the ids before the end mark."""
        ids = [int(t) for t in tokens]
        ids = ids[: ids.index(self.end)] if self.end in ids else ids
        ids = [t for t in ids if t < self.begin]
        if self.encoding is not None:
            return self.encoding.decode(ids)
        return " ".join(self.words[t] for t in ids)


def bpe_vocabulary(texts: Sequence[str], size: int) -> Vocabulary:
    """Byte pair encoding of ``size`` tokens (the 256 bytes included), trained on the texts.

    Raises:
        UserError: the texts have too few pairs to merge.
    """
    ranks = bpe.train_bpe(texts, size - 256)
    if len(ranks) < size:
        raise UserError(f"task.vocabulary: {size} tokens; the training text gives only {len(ranks)} tokens")
    encoding = tiktoken.Encoding("pairs", pat_str=bpe.PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Vocabulary("bpe", encoding, ())


def word_vocabulary(texts: Sequence[str]) -> Vocabulary:
    """`UNKNOWN` and every word of the texts in alphabetical order."""
    words = {word for text in texts for word in text.split()} - {UNKNOWN}
    return Vocabulary("words", None, (UNKNOWN, *sorted(words)))
