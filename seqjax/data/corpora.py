"""Corpora: named or local text, as documents in three splits.

Held-out text is cut off by whole works (`english`), by the published files or offsets (public corpora), or by document
number (streams). Local text is split by file names, by whole files or by position (`seqjax.data.splits`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath

from seqjax.data import downloads
from seqjax.data.corpus import Corpus, Document
from seqjax.data.sources import Absent, TextFile, read_chunks, read_files
from seqjax.data.split_names import SPLITS
from seqjax.data.splits import split_texts
from seqjax.errors import UserError, did_you_mean, printable
from seqjax.host import folders

CORPORA: Mapping[str, str] = {
    "english": "Shakespeare, Milton and the King James Bible, 10.3 MB, embedded; split by whole works",
    "novels": "186 English novels of 1839 to 1930, 130 MB; split by whole novels",
    "tinyshakespeare": "1.1 MB of Shakespeare's plays, 65 characters; nanoGPT's 90/10 split, no test split",
    "wikitext-2": "WikiText-2, words, 13 MB; the published three files",
    "wikitext-103": "WikiText-103, words, 540 MB; the published three files",
    "text8": "Wikipedia 2006 as a-z and space, 100 MB; 90/5/5 million bytes",
    "enwik8": "Wikipedia 2006 with its markup, 100 MB; 90/5/5 million bytes",
}


def load_corpus(spec: str, data_folder: Path | None = None) -> Corpus:
    """The corpus that ``spec`` names.

    ``spec`` is a name in `CORPORA`; a path (also relative to the data folder) to a text file, plain or .gz, .bz2, .xz,
    to a folder of text files, or to an archive of these (.tar, .tar.gz, .tar.bz2, .tar.xz, .zip); or
    ``hf:NAME[#REVISION][:CONFIG][:COLUMN][@LIMIT]`` for a stream (see `seqjax.data.streaming`). A name in `CORPORA`
    has precedence over a file of that name: write ``./english`` for the file. `seqjax.data.trees` decides which files
    of a folder are text; `seqjax.data.splits` splits them.

    Raises:
        Absent: unknown name or missing path.
        UserError: nothing to read, damaged packing, wrong content, no network.
    """
    data = folders.data_folder() if data_folder is None else Path(data_folder)
    if not spec.strip():
        raise UserError(f"the name of the corpus is empty: it may be {', '.join(CORPORA)}, a path, or hf:NAME")
    if spec == "english":
        return _load_english()
    if spec == "novels":
        return _load_novels(data)
    if spec in downloads.DOWNLOADS:
        return _load_public(spec, data)
    if spec.startswith("hf:"):
        from seqjax.data import streaming

        return streaming.load_stream(spec)
    return _load_local(spec, data)


def decoded(corpus: Corpus, document: Document) -> Iterator[str]:
    """The chunks of a document as text. Raises UserError with file and byte offset if a byte is not UTF-8."""
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


def _load_novels(data: Path) -> Corpus:
    from seqjax.data import novels

    return _of_texts("novels", novels.texts(data, folders.cache_folder()))


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
    path = folders.expanded(spec)
    if not path.exists() and not path.is_absolute() and (data / path).exists():
        path = data / path
    if not path.exists() and os.sep not in spec:
        near = did_you_mean(spec, [*CORPORA, *_names_in(Path()), *_names_in(data)])
        allowed = f"{', '.join(CORPORA)}, a path (seen from {Path.cwd()}), or hf:NAME"
        raise Absent(f"no corpus and no file '{printable(spec)}'{near}; it may be {allowed}")
    found = read_files(path, folders.cache_folder())
    files = [f for f in found.files if f.n_bytes]
    name = printable(str(path.resolve()))
    if not files:
        raise UserError(f"{name} is empty: there is no text in it")
    left_out = (f"left out: {found.left_out}",) if found.left_out else ()
    return _of_texts(name, files, path.is_file() and len(files) == 1, left_out)


def _of_texts(name: str, files: Sequence[TextFile], is_file: bool = False, notes: tuple[str, ...] = ()) -> Corpus:
    """A corpus of texts, with their splits. Of a single file the document has the name of the corpus."""
    parts = split_texts(files)
    splits = {
        split: tuple(
            _document(_source(piece.file, name), *piece, name=name if is_file else piece.file.name) for piece in pieces
        )
        for split, pieces in parts.pieces.items()
    }
    labelled = [(file.name if len(files) > 1 else "", file) for file in files]
    return _corpus(name, splits, labelled, parts.rule, (*notes, *parts.notes))


def _names_in(folder: Path) -> list[str]:
    return list(map(printable, os.listdir(folder))) if folder.is_dir() else []


def _source(file: TextFile, name: str) -> str:
    """Name of the group a file belongs to: its topmost folder, or the corpus itself."""
    return (*PurePosixPath(file.name).parts[:-1], PurePosixPath(name).name)[0]


def _document(source: str, file: TextFile, start: int = 0, stop: int | None = None, *, name: str) -> Document:
    stop = file.n_bytes if stop is None else stop
    return Document(name, source, partial(read_chunks, file.path, start, stop - start), stop - start, start)


def _corpus(
    name: str,
    splits: Mapping[str, tuple[Document, ...]],
    files: Iterable[tuple[str, TextFile]],
    rule: str = "",
    notes: tuple[str, ...] = (),
) -> Corpus:
    """A corpus of files. ``rule`` names the way of splitting: it is part of the digest."""
    digest = hashlib.sha256()
    for label, file in files:
        digest.update(f"{label}\0{file.sha256}\n".encode())
    digest.update(rule.encode())
    return Corpus(name, digest.hexdigest(), splits, notes)
