"""The embedded corpus: Shakespeare, Milton and the King James Bible, 10,264,685 bytes of public domain English.

The text lies beside this file, xz-compressed, with `works.json`: name, source, offset, length and split of each work.
`build.py` makes both from two source packages. Validation and test are whole works of each source. They share only
stage directions, quotations and greetings with the training works: at most 0.4 % of a work lies in a run of 60
characters, ignoring spaces and case, that occurs in a training work.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from seqjax.errors import UserError

SHA256 = "258e7e057ccfa2956e17825f38fd1e7daae3ecb5bc23deb47cc793944453cf3c"
TEXT_FILE = Path(__file__).parent / "english.txt.xz"
WORKS_FILE = Path(__file__).parent / "works.json"


@lru_cache(maxsize=1)
def works() -> tuple[dict, ...]:
    """The works in the order of the text: dictionaries with name, source, offset and length (bytes), and split."""
    return tuple(json.loads(WORKS_FILE.read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def text() -> bytes:
    """The whole text, checked against its sha256. Raises UserError if the installed file is damaged."""
    try:
        raw = lzma.decompress(TEXT_FILE.read_bytes())
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{TEXT_FILE} cannot be read ({error}): install seqjax again") from None
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise UserError(f"{TEXT_FILE} does not hold the embedded corpus: install seqjax again")
    return raw


def read_work(offset: int, length: int) -> Iterator[bytes]:
    """One work in chunks of at most 4 MiB."""
    from seqjax.data.sources import cut_chunks

    return cut_chunks(io.BytesIO(text()[offset : offset + length]), length, TEXT_FILE)
