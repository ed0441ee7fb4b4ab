"""Public corpora: their addresses and digests, and how a name becomes verified files.

A file in the data folder is used without a network, as published or repacked. Downloads go through pooch and are
checked against the sha256 of the published file. Every text inside is checked against its own digest.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from seqjax.data.sources import TextFile, file_digest, read_files
from seqjax.errors import UserError
from seqjax.host.folders import make_folder
from seqjax.host.pointers import refuse_pointer_file


@dataclass(frozen=True)
class Text:
    """One text of a public corpus: its possible names in an archive, its size in bytes and ``algorithm:digest``."""

    names: tuple[str, ...]
    n_bytes: int | None
    digest: str


@dataclass(frozen=True)
class Download:
    """A public file: name, addresses (the first, then mirrors), sha256, other names accepted in the data folder."""

    file: str
    addresses: tuple[str, ...]
    sha256: str
    also: tuple[str, ...]
    texts: Mapping[str, Text]


def _repacked(stem: str, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(stem + suffix for suffix in suffixes)


_FILE_FORMS = ("", ".txt", ".gz", ".bz2", ".xz", ".txt.gz", ".txt.bz2", ".txt.xz")
ARCHIVE_FORMS = ("", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip")
_WIKITEXT = ("https://wikitext.smerity.com/", "https://s3.amazonaws.com/research.metamind.io/wikitext/")


def _wikitext(name: str, sha256: str, sizes: tuple[int | None, ...], digests: tuple[str, ...]) -> Download:
    parts = {"train": "train", "validation": "valid", "test": "test"}
    texts = {
        split: Text((f"wiki.{part}.tokens", f"{part}.txt"), size, digest)
        for (split, part), size, digest in zip(parts.items(), sizes, digests, strict=True)
    }
    file = f"{name}-v1.zip"
    return Download(file, tuple(a + file for a in _WIKITEXT), sha256, _repacked(name, ARCHIVE_FORMS), texts)


DOWNLOADS: Mapping[str, Download] = {
    "enwik8": Download(
        "enwik8.zip",
        ("https://mattmahoney.net/dc/enwik8.zip", "http://mattmahoney.net/dc/enwik8.zip"),
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        _repacked("enwik8", _FILE_FORMS),
        {"all": Text(("enwik8",), 10**8, "sha256:2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8")},
    ),
    "text8": Download(
        "text8.zip",
        ("https://mattmahoney.net/dc/text8.zip", "http://mattmahoney.net/dc/text8.zip"),
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        _repacked("text8", _FILE_FORMS),
        {"all": Text(("text8",), 10**8, "md5:3bea1919949baf155f99411df5fada7e")},
    ),
    "wikitext-2": _wikitext(
        "wikitext-2",
        "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        (10_797_148, 1_121_681, 1_256_449),
        (
            "sha256:9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
            "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        ),
    ),
    "wikitext-103": _wikitext(
        "wikitext-103",
        "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
        (None, None, None),
        (
            "sha1:b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
            "sha1:c326ac59dc587676d58c422eb8a03e119582f92b",
            "sha1:8a5befc548865cec54ed4273cf87dbbad60d1e47",
        ),
    ),
    "tinyshakespeare": Download(
        "tinyshakespeare.txt",
        ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        _repacked("tinyshakespeare", _FILE_FORMS),
        {
            "all": Text(
                ("tinyshakespeare.txt", "tinyshakespeare", "input.txt"),
                1_115_394,
                "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            )
        },
    ),
}


def public_files(name: str, data: Path, cache: Path) -> dict[str, TextFile]:
    """Verified texts of a public corpus by part ("all", or "train", "validation" and "test").

    Looks in the data folder, then among earlier downloads, then on the network. Raises UserError if the file is not
    found (with its name, its address and where to put it) or its content is not the published one.
    """
    download = DOWNLOADS[name]
    path = find_file((download.file, *download.also), (data, cache / "corpora"))
    if path is None:
        path = fetch(download.file, download.addresses, download.sha256, (data, cache / "corpora"))
    return _verified(name, path, cache)


def find_file(names: tuple[str, ...], folders: tuple[Path, ...]) -> Path | None:
    """The first of ``names`` in the first of ``folders`` that has one. Raises UserError for a pointer of Git LFS."""
    path = next((folder / name for folder in folders for name in names if (folder / name).exists()), None)
    if path is not None:
        refuse_pointer_file(path)
    return path


def fetch(file: str, addresses: tuple[str, ...], sha256: str | None, folders: tuple[Path, ...]) -> Path:
    """Download ``file`` from the first address that answers into the first writable folder.

    Without ``sha256`` (an archive that is packed anew on each request) the caller checks its contents.

    Raises UserError with the file, its addresses and the folder to put it in by hand.
    """
    import pooch

    folder = next((f for f in folders if _writable(f)), None)
    if folder is None:
        raise UserError(f"cannot store {file}: none of {', '.join(map(str, folders))} can be written to")
    reasons = []
    for address in addresses:
        try:
            return Path(pooch.retrieve(address, known_hash=sha256 and f"sha256:{sha256}", fname=file, path=folder))
        except ValueError as error:
            if "hash" not in str(error):
                raise
            reasons.append(f"{address}: its content is not the published one (sha256 {sha256[:12]}...)")
        except Exception as error:  # the network layers raise many kinds; each means that the download failed
            reasons.append(f"{address}: {type(error).__name__}")
    raise UserError(
        f"{file} is missing and could not be downloaded ({'; '.join(reasons)}): "
        f"fetch it from {addresses[0]} and put it at {folders[0] / file}"
    )


def published_bytes(
    file: str, addresses: tuple[str, ...], sha256: str, folders: tuple[Path, ...], archive: Path | None
) -> bytes:
    """The contents of a published file: from the archive, if there is one, else from a folder, or downloaded.

    Raises UserError: the archive is damaged or lacks the file, a failed download, another sha256.
    """
    path = archive or find_file((file,), folders) or fetch(file, addresses, sha256, folders)
    content = path.read_bytes() if archive is None else _member(archive, file)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path}: {file} is not the published one (sha256 {sha256[:12]}...); remove it, or load it as your own"
        )
    return content


def _member(archive: Path, name: str) -> bytes:
    """The file of this name, in any folder of an archive."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and PurePosixPath(member.name).name == name:
                    return tar.extractfile(member).read()
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{archive} is damaged or cannot be read ({error})") from None
    raise UserError(f"{archive} does not hold {name}")


def _writable(folder: Path) -> bool:
    try:
        make_folder(folder)
    except UserError:
        return False
    return os.access(folder, os.W_OK)


def _verified(name: str, path: Path, cache: Path) -> dict[str, TextFile]:
    texts = DOWNLOADS[name].texts
    files = read_files(path, cache).files
    found = {}
    for part, text in texts.items():
        matching = [f for f in files if len(files) == len(texts) == 1 or PurePosixPath(f.name).name in text.names]
        if len(matching) != 1:
            raise UserError(f"{path} does not hold {' or '.join(text.names)} of the corpus {name}")
        algorithm, _, digest = text.digest.partition(":")
        file = matching[0]
        if text.n_bytes not in (None, file.n_bytes) or file_digest(file.path, algorithm) != digest:
            raise UserError(
                f"{path} is not the published {name}: {file.name} has {file.n_bytes} bytes and another {algorithm} "
                f"than {digest[:12]}...; remove it, or load it as your own text by its path"
            )
        found[part] = file
    return found
