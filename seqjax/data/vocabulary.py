"""One vocabulary for both sides of a parallel text, with marks for the beginning and the end of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tiktoken

from seqjax.data import bpe
from seqjax.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """Byte pair encoding, or whole words; two ids more than it has tokens.

    Attributes:
        size: V, with the two marks.
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
        """Ids of a sentence, without marks.

        Raises:
            UserError: a word that is not in a vocabulary of words.
        """
        if self.encoding is not None:
            return self.encoding.encode_ordinary(text)
        index = {word: i for i, word in enumerate(self.words)}
        unknown = next((word for word in text.split() if word not in index), None)
        if unknown is not None:
            raise UserError(f"the word {unknown!r} is not in the vocabulary of {len(self.words)} words")
        return [index[word] for word in text.split()]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of the ids up to the mark of the end."""
        ids = [int(t) for t in tokens]
        ids = ids[: ids.index(self.end)] if self.end in ids else ids
        ids = [t for t in ids if t < self.begin]
        if self.encoding is not None:
            return self.encoding.decode(ids)
        return " ".join(self.words[t] for t in ids)


def bpe_vocabulary(texts: Sequence[str], size: int) -> Vocabulary:
    """Byte pair encoding of ``size`` tokens (the 256 bytes among them), trained on the texts.

    Raises:
        UserError: the texts do not have so many pairs to merge.
    """
    ranks = bpe.train_bpe(texts, size - 256)
    if len(ranks) < size:
        raise UserError(f"task.vocabulary: the training text gives only {len(ranks)} tokens; ask for at most so many")
    encoding = tiktoken.Encoding("pairs", pat_str=bpe.PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Vocabulary("bpe", encoding, ())


def word_vocabulary(texts: Sequence[str]) -> Vocabulary:
    """Every word of the texts, in alphabetical order."""
    return Vocabulary("words", None, tuple(sorted({word for text in texts for word in text.split()})))
