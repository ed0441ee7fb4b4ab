"""Token shards: the tokens of one split on disk, with the digests of their text and tokenizer.

A shard file holds the magic bytes, the length of the header (8 bytes, little-endian), the header (JSON, padded with
spaces to a multiple of 4096 bytes), and the tokens (little-endian uint16 or uint32).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seqjax.data.corpora import not_utf8
from seqjax.data.corpus import Corpus, Document
from seqjax.data.sources import last_cut
from seqjax.data.tokenizers import Coverage, Tokenizer
from seqjax.errors import UserError
from seqjax.host.disk import need_room
from seqjax.host.folders import replaced_atomically, scratch

MAGIC = b"seqjax-tokens-1\n"
_ALIGNMENT = 4096
_PIECE_BYTES = 1 << 18  # text tokenized at once; tiktoken fails on runs of about a million spaces
_LISTED_DOCUMENTS = 4096
_BUILDS = 3  # of a shard that another process replaces
_SAMPLES, _SAMPLE_BYTES = 8, 1 << 13  # to estimate the disk space of the tokens

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class TokenShard:
    """Tokens of one split.

    ``tokens`` is a read-only memory map. ``n_bytes`` counts the UTF-8 bytes of the text without separators.
    ``coverage`` counts the bytes that the tokens encode, for losses in bits per byte. ``header`` holds corpus,
    corpus_sha256, split, tokenizer, tokenizer_sha256, vocab_size, dtype, n_tokens, n_bytes, coverage, tokens_sha256 and
    documents, a list of [name, source, first token].
    """

    tokens: np.ndarray
    n_bytes: int
    header: Mapping[str, Any]

    @property
    def coverage(self) -> Coverage:
        return Coverage(*self.header["coverage"])


def prepare_shard(
    corpus: Corpus, split: str, tokenizer: Tokenizer, cache: Path, progress: Progress | None = None
) -> TokenShard:
    """The tokens of one split of a corpus, from the cache if it has a matching shard, else built.

    The tokenizer's end-of-text token, if it has one, follows each document. Building streams through the text in
    bounded memory and calls ``progress(bytes done, bytes in total or None)``. A shard of other text or of another
    tokenizer is replaced. Several processes may build the same shard at once.

    Raises UserError: no such split, a split without text, text that is not UTF-8, a truncated or altered shard, too
    little disk space, another process that goes on replacing the shard.
    """
    path = cache / "tokens" / f"{corpus.label}.{split}.{tokenizer.name}.tokens"
    bound = {
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "split": split,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "dtype": tokenizer.dtype.str,
    }
    shard = _matching(path, bound)
    for _ in range(_BUILDS):
        if shard is None:
            _build(path, bound, corpus, tokenizer, progress)
            shard = _matching(path, bound)
    if shard is None:
        raise UserError(
            f"the token shard {path} is replaced again and again: another process builds one of another text or "
            "tokenizer there; wait for it, or set another SEQJAX_CACHE"
        )
    return shard


def _matching(path: Path, bound: Mapping[str, Any]) -> TokenShard | None:
    """The shard at this path, if there is one with these entries in its header."""
    if not path.exists():
        return None
    header, start = _read_header(path)
    if "coverage" not in header or any(header.get(key) != value for key, value in bound.items()):
        return None
    return _open(path, header, start)


def _build(
    path: Path, bound: Mapping[str, Any], corpus: Corpus, tokenizer: Tokenizer, progress: Progress | None
) -> None:
    """Write the shard with these entries in its header."""
    split = bound["split"]
    documents = corpus.documents(split)
    need_room(
        path.parent, _bytes_to_write(corpus, documents, tokenizer), f"tokenizing the {split} split into SEQJAX_CACHE"
    )
    with scratch(path.parent) as payload:
        header = {**bound, **_encode_documents(corpus, documents, tokenizer, payload, progress)}
        if not header["n_tokens"]:
            raise UserError(f"the split '{split}' of {corpus.name} is empty: the text is too short to have one")
        payload.seek(0)
        with replaced_atomically(path) as file:
            _write_header(file, header)
            shutil.copyfileobj(payload, file, 1 << 20)


def _bytes_to_write(corpus: Corpus, documents: Any, tokenizer: Tokenizer) -> float:
    """Estimated bytes that building a shard writes (the tokens twice), from samples. 0 if the length is unknown."""
    if not isinstance(documents, tuple) or any(document.n_bytes is None for document in documents):
        return 0
    sampled = n_tokens = 0
    for document in documents[:: max(1, len(documents) // _SAMPLES)]:
        chunk = next(iter(document.chunks()), b"")
        sample = chunk[: last_cut(chunk[:_SAMPLE_BYTES])] if len(chunk) > _SAMPLE_BYTES else chunk
        sampled += len(sample)
        n_tokens += len(_encode_piece(corpus, document, tokenizer, sample, document.start))
    total = sum(document.n_bytes for document in documents)
    return 2 * tokenizer.dtype.itemsize * (total * n_tokens / max(1, sampled) + len(documents))


def _encode_documents(
    corpus: Corpus, documents: Any, tokenizer: Tokenizer, payload: BinaryIO, progress: Progress | None
) -> dict[str, Any]:
    """Write the tokens of all documents; return their entries of the header."""
    sizes = [d.n_bytes for d in documents] if isinstance(documents, tuple) else [None]
    total = None if None in sizes else sum(sizes)
    digest, n_tokens, n_bytes, covered = hashlib.sha256(), 0, 0, Coverage(0, 0, 0)
    listed: list[tuple[str, str, int]] = []

    def write(tokens: np.ndarray) -> None:
        nonlocal n_tokens
        data = tokens.tobytes()
        digest.update(data)
        payload.write(data)
        n_tokens += len(tokens)

    for document in documents:
        # A stream has millions of pages: the header lists the first ones and each change of source.
        if len(listed) < _LISTED_DOCUMENTS or listed[-1][1] != document.source:
            listed.append((document.name, document.source, n_tokens))
        at = document.start
        for chunk in document.chunks():
            for piece in _pieces(chunk):
                write(_encode_piece(corpus, document, tokenizer, piece, at))
                covered = Coverage(*map(sum, zip(covered, tokenizer.coverage(piece), strict=True)))
                at += len(piece)
                n_bytes += len(piece)
                if progress is not None:
                    progress(n_bytes, total)
        if tokenizer.end_of_text is not None:
            write(np.array([tokenizer.end_of_text], tokenizer.dtype))
    return {
        "n_tokens": n_tokens,
        "n_bytes": n_bytes,
        "coverage": covered,
        "tokens_sha256": digest.hexdigest(),
        "documents": listed,
    }


def _pieces(chunk: bytes) -> Iterator[bytes]:
    while len(chunk) > _PIECE_BYTES:
        cut = last_cut(chunk[:_PIECE_BYTES])
        yield chunk[:cut]
        chunk = chunk[cut:]
    yield chunk


def _encode_piece(corpus: Corpus, document: Document, tokenizer: Tokenizer, piece: bytes, at: int) -> np.ndarray:
    try:
        return tokenizer.encode(piece)
    except UnicodeDecodeError as error:
        raise not_utf8(corpus, document, at + error.start) from None


def _write_header(file: BinaryIO, header: Mapping[str, Any]) -> None:
    text = json.dumps({**header, "header_sha256": _header_sha256(header)}).encode()
    fixed = len(MAGIC) + 8
    text += b" " * (-(fixed + len(text)) % _ALIGNMENT)
    file.write(MAGIC + len(text).to_bytes(8, "little") + text)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a shard and the offset of its tokens."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 8)
        length = int.from_bytes(start[len(MAGIC) :], "little")
        if not start.startswith(MAGIC) or len(start) + length > size:
            raise _damaged(path, "it is truncated or is no token shard")
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise _damaged(path, "its header was altered") from None
    if not isinstance(header, dict) or header.pop("header_sha256", None) != _header_sha256(header):
        raise _damaged(path, "its header was altered")
    return header, len(start) + length


def _header_sha256(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _open(path: Path, header: Mapping[str, Any], start: int) -> TokenShard:
    dtype, n_tokens = np.dtype(header["dtype"]), header["n_tokens"]
    expected, size = start + dtype.itemsize * n_tokens, path.stat().st_size
    if size != expected:
        raise _damaged(path, f"it has {size} bytes where its header says {expected}")
    tokens = np.memmap(path, dtype, mode="r", offset=start, shape=(n_tokens,))
    if hashlib.sha256(tokens).hexdigest() != header["tokens_sha256"]:
        raise _damaged(path, "its tokens were altered")
    return TokenShard(tokens, header["n_bytes"], header)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"the token shard {path} is damaged: {what}; delete it and it is built again")
