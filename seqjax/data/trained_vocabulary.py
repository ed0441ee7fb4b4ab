"""Vocabularies of the tokenizers that are trained on a corpus, kept in the cache."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqjax.data import bpe
from seqjax.data.corpora import decoded
from seqjax.data.corpus import Corpus
from seqjax.errors import UserError
from seqjax.host.folders import replaced_atomically

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
BPE_SAMPLE_BYTES = 16 << 20
_FORMAT = 1


def trained_vocabulary(name: str, kind: str, size: int | None, corpus: Corpus, cache: Path) -> list[str]:
    """The vocabulary of `chars`, `words` or `bpe`, from the cache or trained now on the training split.

    Raises UserError: vocabulary too large for the corpus, text that is not UTF-8, an altered cached file.
    """
    path = cache / "tokenizers" / f"{corpus.label}.{name}.json"
    vocabulary = _read_vocabulary(path, name, corpus)
    if vocabulary is None:
        vocabulary = {"chars": _train_chars, "words": _train_words, "bpe": _train_bpe}[kind](corpus, size)
        _write_vocabulary(path, name, corpus, vocabulary)
    return vocabulary


def _train_chars(corpus: Corpus, _: int | None) -> list[str]:
    found: set[str] = set()
    for text in _training_text(corpus):
        found.update(text)
    return sorted(found)


def _train_words(corpus: Corpus, size: int | None) -> list[str]:
    counts: Counter[str] = Counter()
    for text in _training_text(corpus):
        counts.update(text.split())
    for special in (UNKNOWN, END_OF_LINE):
        counts.pop(special, None)
    words = sorted(counts, key=lambda word: (-counts[word], word))
    if size is not None and len(words) < size - 2:
        raise UserError(
            f"tokenizer 'words-{size}': the training split of {corpus.name} has {len(words)} words: ask for at most "
            f"words-{len(words) + 2}, or for 'words'"
        )
    return words if size is None else words[: size - 2]


def _train_bpe(corpus: Corpus, size: int | None) -> list[str]:
    merges = size - 257
    found = bpe.train_bpe(_sample(corpus, BPE_SAMPLE_BYTES), merges)
    if len(found) < 256 + merges:
        raise UserError(
            f"tokenizer 'bpe-{size}': the training split of {corpus.name} has only {len(found) - 256} pairs to merge: "
            f"ask for at most bpe-{len(found) + 1}"
        )
    return [base64.b64encode(token).decode() for token in list(found)[256:]]


def _training_text(corpus: Corpus) -> Iterator[str]:
    empty = True
    for document in corpus.documents("train"):
        for text in decoded(corpus, document):
            empty = False
            yield text
    if empty:
        raise UserError(f"the training split of {corpus.name} is empty: a tokenizer cannot be trained on it")


def _sample(corpus: Corpus, limit: int) -> Iterator[str]:
    """Training text of about ``limit`` bytes: the same share of each chunk, from its start to a line end.

    The length of a stream is unknown: its sample is the first ``limit`` bytes.
    """
    documents = corpus.documents("train")
    known = isinstance(documents, tuple) and all(d.n_bytes is not None for d in documents)
    share = min(1.0, limit / max(1, sum(d.n_bytes for d in documents))) if known else 1.0
    used = 0
    for text in _training_text(corpus):
        kept = text if share == 1.0 else text[: _line_end(text, int(share * len(text)))]
        used += len(kept)
        yield kept
        if not known and used >= limit:
            return


def _line_end(text: str, at: int) -> int:
    newline = text.rfind("\n", 0, at)
    return newline + 1 if newline >= 0 else at


def _read_vocabulary(path: Path, name: str, corpus: Corpus) -> list[str] | None:
    """The cached vocabulary; None if it is absent or of other text. Raises UserError if it was altered."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, NotADirectoryError):
            raise UserError(f"{path}: cannot be made there ({error.strerror}): set SEQJAX_CACHE to a folder") from None
        raise UserError(f"the tokenizer {path} cannot be read: delete it and it is trained again") from None
    bound = {"format": _FORMAT, "name": name, "corpus_sha256": corpus.sha256}
    if not isinstance(data, dict) or any(data.get(key) != value for key, value in bound.items()):
        return None
    if data.get("vocabulary_sha256") != _vocabulary_sha256(data.get("vocabulary")):
        raise UserError(f"the tokenizer {path} was altered: delete it and it is trained again")
    return data["vocabulary"]


def _write_vocabulary(path: Path, name: str, corpus: Corpus, vocabulary: list[str]) -> None:
    data = {
        "format": _FORMAT,
        "name": name,
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "vocabulary_sha256": _vocabulary_sha256(vocabulary),
        "vocabulary": vocabulary,
    }
    with replaced_atomically(path) as file:
        file.write(json.dumps(data, indent=0).encode())


def _vocabulary_sha256(vocabulary: Any) -> str:
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()
