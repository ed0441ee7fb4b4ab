"""Published rank files (gpt2, cl100k_base), checked before tiktoken reads them.

tiktoken deletes a cached rank file with a wrong sha256 and downloads it again. So the files are checked here first, and
tiktoken reads a folder that holds only checked copies.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import tiktoken

from seqjax.data import downloads
from seqjax.errors import UserError
from seqjax.host import folders

_HOST = "https://openaipublic.blob.core.windows.net/"
_LOCK = threading.Lock()


@dataclass(frozen=True)
class RankFile:
    """A rank file: its address and the sha256 of its content."""

    address: str
    sha256: str

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def cache_name(self) -> str:
        """The name under which tiktoken caches it."""
        return hashlib.sha1(self.address.encode(), usedforsecurity=False).hexdigest()


SIZES = {"gpt2": 50257, "cl100k_base": 100277}
"""Tokens of each vocabulary, the special ones included."""
FILES: dict[str, tuple[RankFile, ...]] = {
    "gpt2": (
        RankFile(
            _HOST + "gpt-2/encodings/main/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
        ),
        RankFile(
            _HOST + "gpt-2/encodings/main/encoder.json",
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
    ),
    "cl100k_base": (
        RankFile(
            _HOST + "encodings/cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
        ),
    ),
}


def load_encoding(name: str, cache: Path) -> tiktoken.Encoding:
    """The published encoding, from rank files in ``cache``, data folder/tiktoken_cache or TIKTOKEN_CACHE_DIR.

    A file may have its own name or tiktoken's name for it. A missing file is downloaded.

    Raises UserError: a file with other content; a failed download.
    """
    own = folders.make_folder(cache / "tiktoken")
    for file in FILES[name]:
        _provide(name, file, own)
    with _LOCK:
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(own)
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def _provide(name: str, file: RankFile, own: Path) -> None:
    """Put a checked copy of the file into the folder ``own`` under tiktoken's name for it."""
    target = own / file.cache_name
    places = [own, folders.data_folder() / "tiktoken_cache"]
    if os.environ.get("TIKTOKEN_CACHE_DIR"):
        places.append(Path(os.environ["TIKTOKEN_CACHE_DIR"]))
    wrong = None
    for path in (place / known for place in places for known in (file.cache_name, file.name)):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != file.sha256:
            wrong = path
        else:
            _store(target, content)
            return
    if wrong is not None:
        raise UserError(f"{wrong} is not the published {file.name} of {name} (sha256 {file.sha256[:12]}...): delete it")
    _store(target, downloads.fetch(file.name, (file.address,), file.sha256, (places[1], own)).read_bytes())


def _store(target: Path, content: bytes) -> None:
    if not target.exists() or target.read_bytes() != content:
        with folders.replaced_atomically(target) as out:
            out.write(content)
