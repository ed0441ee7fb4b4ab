"""Tokenizers: text to token ids and back. Each holds a tiktoken encoding.

| name          | vocabulary V                                                          | end of text   |
|---------------|-----------------------------------------------------------------------|---------------|
| `bytes`       | 257: the 256 bytes, end of text                                       | 256           |
| `chars`       | characters of the training split, `<unk>`, end of text                | V - 1         |
| `words`       | words of the training split, `<unk>` (0), `<eos>` (1) at line ends    | none          |
| `words-V`     | the same with the V - 2 most frequent words                           | none          |
| `bpe-V`       | V: 256 bytes, V - 257 merges of the training split, end of text       | V - 1         |
| `gpt2`        | 50,257, from its published rank files                                 | 50,256        |
| `cl100k_base` | 100,277, from its published rank file                                 | 100,257       |
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken

from seqjax.data import bpe, ranks
from seqjax.data.corpus import Corpus
from seqjax.data.trained_vocabulary import END_OF_LINE, UNKNOWN, trained_vocabulary
from seqjax.errors import UserError, did_you_mean

END_OF_TEXT = "<|endoftext|>"
ANY_CHARACTER = r"(?s:.)"
# The blanks of str.split as a regular expression of tiktoken. A newline is a word.
WORD = r"\n|[^\s\x1c-\x1f]+"
NAMES = ("bytes", "chars", "words", "words-V", "bpe-V", *ranks.FILES)


class Coverage(NamedTuple):
    """The bytes of a text that its tokens encode.

    Attributes:
        n_spelled: UTF-8 bytes encoded by the tokens: all, except for blanks that `words` does not keep.
        n_unknown: number of `<unk>` tokens that replace other text.
        n_unknown_bytes: bytes of the replaced text; a word counts with the blank after it.
    """

    n_spelled: int
    n_unknown: int
    n_unknown_bytes: int


@dataclass(frozen=True)
class Tokenizer:
    """A named map from text to token ids.

    ``encoding`` can be used alone. ``vocab_size`` is V. ``end_of_text`` follows each document (None: nothing does).
    ``sha256`` is the digest of the vocabulary and of its rule for cutting text.
    """

    name: str
    encoding: tiktoken.Encoding
    vocab_size: int
    end_of_text: int | None
    sha256: str
    _encode: Callable[[bytes], np.ndarray] = field(repr=False, compare=False)
    _decode: Callable[[list[int]], str] = field(repr=False, compare=False)
    _coverage: Callable[[bytes], Coverage] | None = field(default=None, repr=False, compare=False)

    @property
    def dtype(self) -> np.dtype:
        """uint16 if it holds every id, else uint32."""
        return token_dtype(self.vocab_size)

    def encode(self, text: bytes) -> np.ndarray:
        """Ids of UTF-8 text, in `dtype`. Special tokens are never recognized in text.

        Raises UnicodeDecodeError for bytes that are not UTF-8, except with `bytes`.
        """
        return self._encode(text)

    def coverage(self, text: bytes) -> Coverage:
        """The bytes of ``text`` that its tokens, `encode(text)`, encode."""
        return Coverage(len(text), 0, 0) if self._coverage is None else self._coverage(text)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of the ids; bytes that are not UTF-8 become U+FFFD."""
        return self._decode(np.asarray(tokens, np.int64).tolist())


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 up to 65,536 tokens, uint32 above."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def load_tokenizer(name: str, corpus: Corpus, cache: Path) -> Tokenizer:
    """The tokenizer ``name``; `chars`, `words` and `bpe` are trained on the training split and kept in ``cache``.

    Raises UserError: unknown name, vocabulary too large or too small for the corpus, text that is not UTF-8, an altered
    cached file, rank files that are missing and cannot be downloaded.
    """
    kind, size = _parse(name)
    if kind == "bytes":
        return _bytes()
    if kind in ranks.FILES:
        return _published(kind, cache)
    make = {"chars": _chars, "words": _words, "bpe": _bpe}[kind]
    return make(name, trained_vocabulary(name, kind, size, corpus, cache))


def known_size(name: str) -> int | None:
    """V by the name of a tokenizer; None if it depends on the corpus (chars, words).

    Raises UserError if there is no such tokenizer.
    """
    kind, size = _parse(name)
    return {"bytes": 257, **ranks.SIZES}.get(kind, size)


def _parse(name: str) -> tuple[str, int | None]:
    """Kind and vocabulary size of a name. Raises UserError if there is no such tokenizer."""
    if name in ("bytes", "chars", "words", *ranks.FILES):
        return name, None
    match = re.fullmatch(r"(bpe|words)-([0-9]{1,9})", name)
    if not match:
        near = did_you_mean(name, ["bytes", "chars", "words", "words-10000", "bpe-1024", *ranks.FILES])
        raise UserError(f"no tokenizer '{name}'{near}; it may be {', '.join(NAMES)} with a vocabulary size for V")
    kind, size = match[1], int(match[2])
    least = {"bpe": 257, "words": 3}[kind]
    if size < least:
        raise UserError(f"tokenizer '{name}': the vocabulary of {kind}-V has at least {least} tokens")
    return kind, size


def _build(
    name: str,
    pattern: str,
    mergeable: dict[bytes, int],
    special: dict[str, int],
    end_of_text: int | None,
    encode: Callable[[bytes], np.ndarray] | None = None,
    decode: Callable[[list[int]], str] | None = None,
    coverage: Callable[[bytes], Coverage] | None = None,
) -> Tokenizer:
    size = len(mergeable) + len(special)
    encoding = tiktoken.Encoding(
        name=f"seqjax_{name}", pat_str=pattern, mergeable_ranks=mergeable, special_tokens=special, explicit_n_vocab=size
    )
    sha256 = _identity(pattern, mergeable, special)
    encode = encode or partial(_encode_with, encoding, token_dtype(size))
    return Tokenizer(name, encoding, size, end_of_text, sha256, encode, decode or encoding.decode, coverage)


def _identity(pattern: str, mergeable: dict[bytes, int], special: dict[str, int]) -> str:
    digest = hashlib.sha256(json.dumps([pattern, sorted(special.items())]).encode())
    for token, rank in sorted(mergeable.items(), key=lambda item: item[1]):
        digest.update(b"%d %s\n" % (rank, token.hex().encode()))
    return digest.hexdigest()


def _encode_with(encoding: tiktoken.Encoding, dtype: np.dtype, text: bytes) -> np.ndarray:
    return encoding.encode_to_numpy(text.decode("utf-8"), disallowed_special=()).astype(dtype)


def _bytes() -> Tokenizer:
    mergeable = {bytes([i]): i for i in range(256)}
    dtype = token_dtype(257)

    def encode(text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8).astype(dtype)

    return _build("bytes", ANY_CHARACTER, mergeable, {END_OF_TEXT: 256}, 256, encode)


def _published(name: str, cache: Path) -> Tokenizer:
    encoding = ranks.load_encoding(name, cache)
    size = encoding.n_vocab
    identity = _identity(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)
    encode = partial(_encode_with, encoding, token_dtype(size))
    return Tokenizer(name, encoding, size, encoding.eot_token, identity, encode, encoding.decode)


def _chars(name: str, vocabulary: list[str]) -> Tokenizer:
    unknown, end = len(vocabulary), len(vocabulary) + 1
    points = np.array([ord(c) for c in vocabulary])
    table = np.full(0x110000, unknown, token_dtype(end + 1))
    table[points] = np.arange(unknown)

    def encode(text: bytes) -> np.ndarray:
        return table[np.frombuffer(text.decode("utf-8").encode("utf-32-le"), "<u4")]

    def coverage(text: bytes) -> Coverage:
        points = np.frombuffer(text.decode("utf-8").encode("utf-32-le"), "<u4")
        others = points[table[points] == unknown]
        return Coverage(len(text), len(others), len(others.tobytes().decode("utf-32-le").encode("utf-8")))

    mergeable = {c.encode("utf-8"): i for i, c in enumerate(vocabulary)}
    return _build(name, ANY_CHARACTER, mergeable, {UNKNOWN: unknown, END_OF_TEXT: end}, end, encode, coverage=coverage)


def _words(name: str, vocabulary: list[str]) -> Tokenizer:
    """Words between blanks, and `<eos>` for each newline. Decoding puts one blank between the words of a line."""
    spelled = [UNKNOWN, "\n", *vocabulary]
    ids = {word: i for i, word in enumerate(spelled)}
    known = {**ids, END_OF_LINE: 1}
    dtype = token_dtype(len(spelled))

    def encode(text: bytes) -> np.ndarray:
        lines = text.decode("utf-8").split("\n")
        found: list[int] = []
        for line in lines[:-1]:
            found += [known.get(word, 0) for word in line.split()]
            found.append(1)
        found += [known.get(word, 0) for word in lines[-1].split()]
        return np.array(found, dtype)

    def coverage(text: bytes) -> Coverage:
        lines = [line.split() for line in text.decode("utf-8").split("\n")]
        words = [word for line in lines for word in line]
        others = [word for word in words if word not in known]
        n_spelled = len("".join(words).encode()) + sum(max(len(line) - 1, 0) for line in lines) + len(lines) - 1
        return Coverage(n_spelled, len(others), len("".join(others).encode()) + len(others))

    def decode(tokens: list[int]) -> str:
        return " ".join(spelled[t] for t in tokens).replace(" \n", "\n").replace("\n ", "\n")

    return _build(name, WORD, {word.encode("utf-8"): i for word, i in ids.items()}, {}, None, encode, decode, coverage)


def _bpe(name: str, vocabulary: list[str]) -> Tokenizer:
    mergeable = {bytes([i]): i for i in range(256)}
    mergeable |= {base64.b64decode(token): i for i, token in enumerate(vocabulary, 256)}
    return _build(name, bpe.PATTERN, mergeable, {END_OF_TEXT: len(mergeable)}, len(mergeable))
