"""Web-scale text by Hugging Face `datasets` in streaming mode, an optional extra: ``pip install 'seqjax[hub]'``."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seqjax.data.corpus import Corpus, Document
from seqjax.data.sources import cut_chunks
from seqjax.data.split_names import SPLITS
from seqjax.errors import UserError
from seqjax.host.optional import need

HELD_OUT_EVERY = 100  # the first page of each hundred is for validation and the second for test ...
HELD_OUT_WITHIN = 100_000  # ... within the first 100,000 pages of the stream
_UNITS = {"": None, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_FORM = "hf:NAME[#REVISION][:CONFIG][:COLUMN][@LIMIT]"


@dataclass(frozen=True)
class Request:
    """A stream: the dataset, its revision and configuration, the column of the text, limits in pages and bytes."""

    name: str
    revision: str | None
    config: str | None
    column: str
    max_documents: int | None
    max_bytes: int | None


@dataclass(frozen=True)
class _Pages:
    """The pages of one split, streamed again at each iteration."""

    pages: Callable[[], Iterator[Document]]

    def __iter__(self) -> Iterator[Document]:
        return self.pages()


def load_stream(spec: str) -> Corpus:
    """The corpus of ``hf:NAME[#REVISION][:CONFIG][:COLUMN][@LIMIT]``, as in ``hf:Skylion007/openwebtext@2GB``.

    Pages come from the dataset's "train" split. The default column is "text". A single name after the dataset is the
    configuration. LIMIT is a number of pages (``@50000``) or of bytes (``@500MB``, ``@2GB``), counted over all splits.
    Each split is streamed from the network by itself. Within the first 100,000 pages, the first page of each hundred is
    for validation and the second for test, so these splits do not depend on a larger limit. The corpus's sha256 is the
    digest of the request: name a revision if the dataset may change.

    Raises UserError: malformed request; on reading: `datasets` not installed, no such dataset, configuration or column,
    no network.
    """
    request = parse_request(spec)
    sha256 = hashlib.sha256(json.dumps(["hf", *vars(request).values()]).encode()).hexdigest()
    return Corpus(spec, sha256, {split: _Pages(partial(_pages, request, split)) for split in SPLITS})


def parse_request(spec: str) -> Request:
    """The parts of ``spec``. Raises UserError if it is malformed."""
    match = re.fullmatch(r"hf:([^:#@]+)(?:#([^:@]+))?(?::([^:@]*))?(?::([^:@]+))?(?:@([0-9]+)([A-Za-z]*))?", spec)
    if not match:
        raise UserError(f"'{spec}' cannot be streamed: the form is {_FORM}, as in hf:Skylion007/openwebtext@2GB")
    name, revision, config, column, number, unit = match.groups()
    if number is not None and (unit not in _UNITS or not int(number)):
        raise UserError(f"'{spec}': the limit is a number of pages, or of bytes with kB, MB or GB, above 0")
    limit = None if number is None else int(number) * (_UNITS[unit] or 1)
    pages, n_bytes = (None, limit) if unit else (limit, None)
    return Request(name, revision, config or None, column or "text", pages, n_bytes)


def split_of(index: int) -> str:
    """The split of page ``index`` of the stream."""
    place = index % HELD_OUT_EVERY if index < HELD_OUT_WITHIN else None
    return {0: "validation", 1: "test"}.get(place, "train")


def _pages(request: Request, split: str) -> Iterator[Document]:
    used = 0
    for index, row in enumerate(_rows(request)):
        if index == request.max_documents or (split != "train" and index >= HELD_OUT_WITHIN):
            return
        text = row.get(request.column)
        if not isinstance(text, str):
            raise UserError(
                f"page {index} of {request.name} has no text in the column '{request.column}': it has {', '.join(row)}"
            )
        data = text.encode("utf-8", errors="replace")
        used += len(data)
        if request.max_bytes is not None and used > request.max_bytes and index:
            return
        if split_of(index) == split:
            chunks = partial(_chunks, data)
            yield Document(f"{request.name}/{index}", request.name, chunks, len(data))


def _chunks(data: bytes) -> Iterator[bytes]:
    return cut_chunks(io.BytesIO(data), len(data), Path("page"))


def _rows(request: Request) -> Iterator[dict[str, Any]]:
    datasets = need("datasets", f"the stream hf:{request.name}")
    try:
        rows: Iterable = datasets.load_dataset(
            request.name, request.config, split="train", streaming=True, revision=request.revision
        )
        yield from rows
    except Exception as error:  # datasets raises many kinds of errors
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot stream {request.name}: {reason}") from None
