"""Parallel text: pairs of sentences in two files, line by line, and Multi30k (Elliott et al. 2016)."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqjax.data.downloads import find_file, published_bytes
from seqjax.data.repeats import count_repeats, repeats_said
from seqjax.data.text import lines_of
from seqjax.errors import UserError, printable
from seqjax.host.pointers import refuse_pointer_file

Pair = tuple[str, str]
_UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs of a parallel text by split; "validation" is never empty, "test" may be absent."""

    name: str
    splits: dict[str, tuple[Pair, ...]]

    @property
    def inputs(self) -> dict[str, list[str]]:
        """Split -> its source sentences."""
        return {split: [source for source, _ in pairs] for split, pairs in self.splits.items()}

    @property
    def repeats(self) -> dict[str, int]:
        """Held-out split -> number of its source sentences that are in the training set too."""
        return count_repeats(self.inputs)

    @property
    def notes(self) -> tuple[str, ...]:
        """`repeats` in words, a line for each split with repeats."""
        return repeats_said(self.inputs)


def read_pairs(source: Path, target: Path) -> tuple[Pair, ...]:
    """Line n of ``source`` with line n of ``target``; both UTF-8, plain or packed as .gz or .xz.

    Raises:
        UserError: a file is missing, a pointer of Git LFS or not UTF-8; the numbers of lines differ; a sentence is
            empty (with its line).
    """
    return _paired(source, _content(source), target, _content(target))


def _paired(source: Path, source_text: bytes, target: Path, target_text: bytes) -> tuple[Pair, ...]:
    left, right = (
        [" ".join(line.split()) for line in lines_of(text, printable(str(path)))]
        for path, text in ((source, source_text), (target, target_text))
    )
    if len(left) != len(right):
        raise UserError(
            f"{source} has {len(left):,} lines and {target} has {len(right):,}: line n of one belongs to line n of the "
            f"other; the shorter one ends at line {min(len(left), len(right)):,}"
        )
    for path, lines in ((source, left), (target, right)):
        empty = next((number for number, line in enumerate(lines, 1) if not line), None)
        if empty is not None:
            raise UserError(f"{path}:{empty}: an empty sentence; take the line out of both files")
    if not left:
        raise UserError(f"{source}: has no sentences")
    return tuple(zip(left, right, strict=True))


def _content(path: Path) -> bytes:
    refuse_pointer_file(path)
    try:
        return _UNPACK.get(path.suffix, bytes)(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


MULTI30K_ADDRESS = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
MULTI30K = {  # parts, and the sha256 of their German and English files
    "train": ("train", "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
              "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    "validation": ("val", "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
                   "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
    "test": ("test_2016_flickr", "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
             "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
}  # fmt: skip


def load_multi30k(data: Path, cache: Path) -> Pairs:
    """German to English captions: 29,000 training pairs, 1,014 for validation, the 1,000 of the Flickr test of 2016.

    From ``multi30k.tar.xz`` or the published files in the data folder, else downloaded; checked by sha256. For
    non-commercial research and education only (see github.com/multi30k/dataset).

    Raises:
        UserError: a failed download; not the published files.
    """
    archive = find_file(("multi30k.tar.xz", "multi30k.tar.gz", "multi30k.tar"), (data,))
    folders = (data / "multi30k", cache / "multi30k")
    splits = {}
    for split, (part, *digests) in MULTI30K.items():
        files = []
        for language, digest in zip(("de", "en"), digests, strict=True):
            name = f"{part}.{language}.gz"
            packed = published_bytes(name, (MULTI30K_ADDRESS + name,), digest, folders, archive)
            files += [Path(name), gzip.decompress(packed)]
        splits[split] = _paired(*files)
    return Pairs("multi30k", splits)


def lowercased(pairs: Pairs) -> Pairs:
    """The same pairs without capitals."""
    splits = {name: tuple((a.lower(), b.lower()) for a, b in split) for name, split in pairs.splits.items()}
    return Pairs(pairs.name, splits)


def first_pairs(pairs: Pairs, count: int) -> Pairs:
    """Only the first ``count`` training pairs."""
    return Pairs(pairs.name, {**pairs.splits, "train": pairs.splits["train"][:count]})


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """All sentences of both sides."""
    return [text for pair in pairs for text in pair]
