"""Corpora: named or local text, as documents in three splits.

Splits keep held-out text unseen: by whole works (`english`), by whole files (folders and archives), by the published
files or offsets (public corpora), by document number (streams), and only for one single file by position in it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath

from seqjax import folders
from seqjax.data import downloads
from seqjax.data.sources import TextFile, cut_after, read_chunks, read_files
from seqjax.errors import UserError, did_you_mean

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.05  # share of the bytes in validation, and in test, of local text

CORPORA: Mapping[str, str] = {
    "english": "Shakespeare, Milton and the King James Bible, 10.3 MB, embedded; split by whole works",
    "tinyshakespeare": "1.1 MB of Shakespeare's plays, 65 characters; nanoGPT's 90/10 split, no test split",
    "wikitext-2": "WikiText-2, words, 13 MB; the published three files",
    "wikitext-103": "WikiText-103, words, 540 MB; the published three files",
    "text8": "Wikipedia 2006 as a-z and space, 100 MB; 90/5/5 million bytes",
    "enwik8": "Wikipedia 2006 with its markup, 100 MB; 90/5/5 million bytes",
}


@dataclass(frozen=True)
class Document:
    """One work. ``chunks()`` yields its bytes in chunks of at most 4 MiB cut at line ends.

    ``n_bytes`` is its length (None where only reading it tells), ``start`` where it begins in the file whose name it
    bears.
    """

    name: str
    source: str
    chunks: Callable[[], Iterator[bytes]]
    n_bytes: int | None = None
    start: int = 0


@dataclass(frozen=True)
class Corpus:
    """A text with its splits.

    ``sha256`` identifies the content: of the raw bytes, or for a remote stream of the request. ``splits`` maps "train",
    "validation" and "test" (as far as the corpus has them) to documents; a stream gives them afresh at each iteration.
    """

    name: str
    sha256: str
    splits: Mapping[str, Iterable[Document]]

    @property
    def label(self) -> str:
        """A name for files: the end of the corpus's name and, where that says more, a digest of the whole."""
        last = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name.rstrip("/").rpartition("/")[2])[:48].strip(".-") or "corpus"
        return last if last == self.name else f"{last}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def documents(self, split: str) -> Iterable[Document]:
        """The documents of one split; UserError when the corpus has no such split."""
        if split not in self.splits:
            raise UserError(
                f"the corpus {self.name} has no split '{split}': it has {', '.join(self.splits)}"
                f"{did_you_mean(split, self.splits)}"
            )
        return self.splits[split]


def load_corpus(spec: str, data_folder: Path | None = None) -> Corpus:
    """The corpus that ``spec`` names.

    ``spec`` is a name in `CORPORA`; a path (also relative to the data folder) to a text file, plain or .gz, .bz2, .xz,
    to a folder of text files, or to an archive of these (.tar, .tar.gz, .tar.bz2, .tar.xz, .zip); or
    ``hf:NAME[#REVISION][:CONFIG][:COLUMN][@LIMIT]`` for a stream (see `seqjax.data.streaming`). A name in the table
    wins over a file of that name: write ``./english`` for the file.

    Splits of local text: a single file (or up to two) 90/5/5 by position, cut at line ends, so that the held-out parts
    are the ends of files; three files or more by whole files, drawn by the sha256 of their names.

    Raises UserError: unknown name or missing path, nothing to read, damaged packing, wrong content, no network.
    """
    data = folders.data_folder() if data_folder is None else Path(data_folder)
    if not spec.strip():
        raise UserError(f"the name of the corpus is empty: it may be {', '.join(CORPORA)}, a path, or hf:NAME")
    if spec == "english":
        return _load_english()
    if spec in downloads.DOWNLOADS:
        return _load_public(spec, data)
    if spec.startswith("hf:"):
        from seqjax.data import streaming

        return streaming.load_stream(spec)
    return _load_local(spec, data)


def decoded(corpus: Corpus, document: Document) -> Iterator[str]:
    """The chunks of a document as text; UserError with file and byte offset where it is not UTF-8."""
    at = document.start
    for chunk in document.chunks():
        try:
            yield chunk.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(corpus, document, at + error.start) from None
        at += len(chunk)


def not_utf8(corpus: Corpus, document: Document, offset: int) -> UserError:
    """The error for a byte that is not UTF-8."""
    file = document.name if document.name == corpus.name else f"{document.name} of {corpus.name}"
    return UserError(
        f"{file} is not UTF-8 at byte {offset}: convert it to UTF-8, or use the tokenizer 'bytes', "
        "which takes any bytes"
    )


def _load_english() -> Corpus:
    from seqjax.data import english

    splits: dict[str, tuple[Document, ...]] = dict.fromkeys(SPLITS, ())
    for work in english.works():
        chunks = partial(english.read_work, work["offset"], work["length"])
        document = Document(work["name"], work["source"], chunks, work["length"])
        splits[work["split"]] += (document,)
    return Corpus("english", english.SHA256, splits)


def _load_public(name: str, data: Path) -> Corpus:
    files = downloads.public_files(name, data, folders.cache_folder())
    if set(files) == set(SPLITS):
        splits = {split: (_document(name, files[split], name=f"{name}/{split}"),) for split in SPLITS}
        return _corpus(name, splits, files.items())
    file = files["all"]
    if name == "tinyshakespeare":  # nanoGPT: int(0.9 n) characters train, the rest validation, nothing left to test on
        cuts = {"train": (0, int(0.9 * file.n_bytes)), "validation": (int(0.9 * file.n_bytes), file.n_bytes)}
    else:
        edges = (0, 90_000_000, 95_000_000, 100_000_000)
        cuts = dict(zip(SPLITS, pairwise(edges), strict=True))
    splits = {split: (_document(name, file, *cut, name=name),) for split, cut in cuts.items()}
    return _corpus(name, splits, files.items())


def _load_local(spec: str, data: Path) -> Corpus:
    path = Path(spec).expanduser()
    if not path.exists() and not path.is_absolute() and (data / path).exists():
        path = data / path
    if not path.exists() and os.sep not in spec:
        near = did_you_mean(spec, [*CORPORA, *_names_in(Path()), *_names_in(data)])
        allowed = f"{', '.join(CORPORA)}, a path (seen from {Path.cwd()}), or hf:NAME"
        raise UserError(f"no corpus and no file '{spec}'{near}; it may be {allowed}")
    files = [f for f in read_files(path, folders.cache_folder()) if f.n_bytes]
    if not files:
        raise UserError(f"{path} is empty: there is no text in it")
    name = str(path.resolve())
    splits = _split_by_position(name, path, files) if len(files) < 3 else _split_by_file(name, files)
    return _corpus(name, splits, [(file.name if len(files) > 1 else "", file) for file in files])


def _names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _split_by_position(name: str, path: Path, files: list[TextFile]) -> dict[str, tuple[Document, ...]]:
    splits: dict[str, tuple[Document, ...]] = dict.fromkeys(SPLITS, ())
    for file in files:
        n = file.n_bytes
        cuts = [0, cut_after(file.path, n * 90 // 100, n), cut_after(file.path, n * 95 // 100, n), n]
        for split, (start, stop) in zip(SPLITS, pairwise(cuts), strict=True):
            if stop > start:
                label = name if path.is_file() and len(files) == 1 else file.name
                splits[split] += (_document(path.name, file, start, stop, name=label),)
    return splits


def _split_by_file(name: str, files: list[TextFile]) -> dict[str, tuple[Document, ...]]:
    held_out = _held_out(files)
    source = _source_of(files, PurePosixPath(name).name)
    splits: dict[str, tuple[Document, ...]] = dict.fromkeys(SPLITS, ())
    for file in files:
        splits[held_out.get(file.name, "train")] += (_document(source(file), file, name=file.name),)
    return splits


def _held_out(files: list[TextFile]) -> dict[str, str]:
    """File name -> held-out split: in the order of the sha256 of the names, up to 5 % of the bytes, at least one."""
    order = sorted(files, key=lambda f: hashlib.sha256(f.name.encode()).hexdigest())
    budget = HELD_OUT * sum(f.n_bytes for f in files)
    chosen: dict[str, str] = {}
    for split in ("validation", "test"):
        left = [f for f in order if f.name not in chosen]
        used = 0
        for file in left:
            if used + file.n_bytes <= budget:
                chosen[file.name] = split
                used += file.n_bytes
        if not used:
            chosen[min(left, key=lambda f: f.n_bytes).name] = split
    return chosen


def _source_of(files: list[TextFile], name: str) -> Callable[[TextFile], str]:
    """Name of the group a file belongs to: its topmost folder below the one all share, or the corpus itself."""
    parents = [PurePosixPath(f.name).parts[:-1] for f in files]
    first, last = min(parents), max(parents)
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return lambda file: (*PurePosixPath(file.name).parts[shared:-1], name)[0]


def _document(source: str, file: TextFile, start: int = 0, stop: int | None = None, *, name: str) -> Document:
    stop = file.n_bytes if stop is None else stop
    return Document(name, source, partial(read_chunks, file.path, start, stop - start), stop - start, start)


def _corpus(name: str, splits: Mapping[str, tuple[Document, ...]], files: Iterable[tuple[str, TextFile]]) -> Corpus:
    digest = hashlib.sha256()
    for label, file in files:
        digest.update(f"{label}\0{file.sha256}\n".encode())
    return Corpus(name, digest.hexdigest(), splits)
