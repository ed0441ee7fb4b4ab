"""The corpus `novels`: 186 English novels of 1839 to 1930, 130 MB, from two public collections; no work is in both.

- novels100: 98 of https://github.com/computationalstylistics/100_english_novels at 143e6018. Novels after 1930 are left
  out (not yet in the public domain everywhere).
- eltec_eng: 88 of https://github.com/COST-ELTeC/ELTeC-eng at 3db3b673, level 1, as plain text: one line a paragraph,
  without the TEI header. The 11 novels that novels100 has too are left out.

Byte order marks are removed, and every line ends in a newline alone: the collections differ in both. Whole novels are
held out, drawn by the sha256 of their names (:mod:`seqjax.data.splits`). Content is checked by digest on every use.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from seqjax.data.downloads import ARCHIVE_FORMS, fetch, find_file
from seqjax.data.sources import TextFile, file_digest, read_files
from seqjax.data.text import mark_length
from seqjax.errors import UserError
from seqjax.host.disk import storage_errors
from seqjax.host.folders import make_folder

LAST_YEAR = 1930
SHA256 = "379e22f65a9af236cd188d37e13144e5b99af4bdea213bba714ff9f34667ccf8"
"""Of all prepared texts, in the order of their names."""


@dataclass(frozen=True)
class Collection:
    """One of the two collections.

    Attributes:
        name: of its folder or archive in the data folder.
        files: how many novels; sha256: of their bytes one after another, in the byte order of their names.
        address: of an archive that holds them, or of their source where that is another form.
        archive: the name under which a download is kept; empty: the address holds no plain text.
    """

    name: str
    files: int
    sha256: str
    address: str
    archive: str = ""


COLLECTIONS = (
    Collection(
        "novels100",
        98,
        "e4acbff8df8680384c0a1ce668b162419ad2765535badb9f23b35f8fb22fbcfd",
        "https://github.com/computationalstylistics/100_english_novels/archive/143e6018.tar.gz",
        "100_english_novels-143e6018.tar.gz",
    ),
    Collection(
        "eltec_eng",
        88,
        "6e08bde5c9fb8cc1f25915f847f7a1da0d0db619ab9dec671d012fef5fdac17c",
        "https://github.com/COST-ELTeC/ELTeC-eng (level1 at 3db3b673)",
    ),
)


def texts(data: Path, cache: Path) -> list[TextFile]:
    """The novels as plain files in the cache, by name: prepared once, checked on every use.

    Raises:
        UserError: a collection is nowhere (naming it, its address and where to put it), or has another content.
    """
    folder = cache / "corpora" / f"novels-{SHA256[:12]}"
    found = _prepared(folder)
    if not found:
        _prepare(folder, [(c, _read(c, data, cache)) for c in COLLECTIONS])
        found = _prepared(folder)
    if not found:
        raise UserError(f"cannot prepare the corpus novels in {folder}: remove that folder and try again")
    return found


def _prepared(folder: Path) -> list[TextFile]:
    """The texts in the folder; none where they are not the expected ones."""
    try:
        paths = sorted(folder.glob("*/*.txt"), key=lambda p: os.fsencode(p.relative_to(folder)))
        if digest_of(paths) != SHA256:
            return []
        names = [f"{path.parent.name}/{path.name}" for path in paths]
        return [TextFile(name, p, p.stat().st_size, file_digest(p)) for name, p in zip(names, paths, strict=True)]
    except OSError:
        return []


def digest_of(paths: Iterable[Path]) -> str:
    """sha256 of the bytes of all files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(collection: Collection, data: Path, cache: Path) -> list[TextFile]:
    """The verified novels of a collection, in the byte order of their names."""
    folders = (data, cache / "corpora")
    names = [collection.name + form for form in ARCHIVE_FORMS]
    path = find_file((*names, collection.archive) if collection.archive else tuple(names), folders)
    if path is None and not collection.archive:
        raise UserError(
            f"the corpus novels needs {collection.name}, {collection.files} novels as plain text, made from "
            f"{collection.address}: put {collection.name}.tar.xz at {data / (collection.name + '.tar.xz')}"
        )
    if path is None:
        path = fetch(collection.archive, (collection.address,), None, folders)
    found = sorted((f for f in read_files(path, cache).files if _is_novel(f.name)), key=lambda f: os.fsencode(_base(f)))
    if len(found) != collection.files or digest_of(f.path for f in found) != collection.sha256:
        raise UserError(
            f"{path} is not the published {collection.name}: it has {len(found)} novels where {collection.files} are "
            f"expected, or another sha256 than {collection.sha256[:12]}...; remove it, or load it as your own text "
            "by its path"
        )
    return found


def _base(file: TextFile) -> str:
    return PurePosixPath(file.name).name


def _is_novel(name: str) -> bool:
    """Author_Title_YEAR.txt up to `LAST_YEAR`, or ENGxxxxx_Author.txt."""
    year = re.search(r"_(\d{4})\.txt$", name)
    return int(year[1]) <= LAST_YEAR if year else bool(re.search(r"(^|/)ENG\d+_\w+\.txt$", name))


def _prepare(folder: Path, collections: Sequence[tuple[Collection, Sequence[TextFile]]]) -> None:
    """Write the texts without marks and carriage returns: all of them or none."""
    make_folder(folder.parent)
    with storage_errors(folder.parent):
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix="tmp-"))
        try:
            for collection, files in collections:
                (temporary / collection.name).mkdir()
                for file in files:
                    (temporary / collection.name / _base(file)).write_bytes(normalised(file.path.read_bytes()))
            if folder.exists() and not _prepared(folder):
                shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def normalised(text: bytes) -> bytes:
    r"""Without byte order mark, with lines that end in \n."""
    return text[mark_length(text[:4], "a novel") :].replace(b"\r\n", b"\n")
