"""A corpus: a text as documents in its splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from seqjax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Document:
    """One work. ``chunks()`` yields its bytes in chunks of at most 4 MiB cut at line ends.

    ``n_bytes`` is its length, None if it is unknown before reading. ``start`` is its offset in the file ``name``.
    """

    name: str
    source: str
    chunks: Callable[[], Iterator[bytes]]
    n_bytes: int | None = None
    start: int = 0


@dataclass(frozen=True)
class Corpus:
    """A text with its splits.

    ``sha256`` is the digest of the raw bytes; for a remote stream, of the request. ``splits`` maps "train",
    "validation" and "test" (those that the corpus has) to documents. A stream reads them again at each iteration.
    ``notes`` are lines for the user: files left out, text held out.
    """

    name: str
    sha256: str
    splits: Mapping[str, Iterable[Document]]
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """A name for files: the last part of the corpus's name, with a digest of the whole name if they differ."""
        last = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name.rstrip("/").rpartition("/")[2])[:48].strip(".-") or "corpus"
        return last if last == self.name else f"{last}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def documents(self, split: str) -> Iterable[Document]:
        """The documents of one split. Raises UserError if the corpus has no such split."""
        if split not in self.splits:
            raise UserError(
                f"the corpus {self.name} has no split '{split}': it has {', '.join(self.splits)}"
                f"{did_you_mean(split, self.splits)}"
            )
        return self.splits[split]
