"""Training, validation and test parts of local text. The first of these rules that applies:

1. Files and folders named after splits (`train.txt`, `wiki.valid.tokens`, `test/a.txt`) are these splits; see
   `seqjax.data.split_names`.
2. Whole files are held out, drawn by the sha256 of their names, if each part gets about 5 % of the bytes.
3. The end of each file is held out: 90/5/5 by position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from seqjax.data.sources import TextFile, cut_after
from seqjax.data.split_names import SPLITS, Named, named_splits
from seqjax.data.text import has_lone_returns, mark_length
from seqjax.host.pointers import HEAD_BYTES

HELD_OUT = 0.05  # share of the bytes in validation, and in test
_SANE = (0.01, 0.075)  # allowed shares of whole files


class Piece(NamedTuple):
    """Bytes ``start`` to ``stop`` of a text."""

    file: TextFile
    start: int
    stop: int


class Parts(NamedTuple):
    """The pieces of each split; ``rule`` names an unusual way of cutting, or is ""; notes for the user."""

    pieces: dict[str, list[Piece]]
    rule: str = ""
    notes: tuple[str, ...] = ()


def split_texts(files: Sequence[TextFile]) -> Parts:
    r"""The splits of the texts of a file, folder or archive.

    A byte order mark is not part of a text. If a \r alone ends a line, ``rule`` records it: earlier versions did not
    count it as an end of a line, and cut elsewhere.

    Raises:
        UserError: UTF-16 or UTF-32; a pointer of Git LFS; all files held out by their names.
    """
    starts = {file.name: _body(file) for file in files}
    named = named_splits(file.name for file in files)
    parts = _by_name(files, starts, named) if named.splits else _unnamed(files, starts, SPLITS[1:])
    returns = any(has_lone_returns(file.path) for file in files)
    rule = parts.rule + " without mark" * any(starts.values()) + " with returns" * returns
    pieces = {split: [piece for piece in own if piece.stop > piece.start] for split, own in parts.pieces.items()}
    notes = parts.notes if named.splits else named.notes
    return Parts(pieces, rule, (*notes, *_notes(files, starts, pieces)))


def _by_name(files: Sequence[TextFile], starts: Mapping[str, int], named: Named) -> Parts:
    """The pieces of files named after splits."""
    of_split = {split: [f for f in files if named.splits.get(f.name) == split] for split in SPLITS}
    notes = list(named.notes)
    if of_split["validation"]:
        pieces = {split: [Piece(f, starts[f.name], f.n_bytes) for f in own] for split, own in of_split.items() if own}
    else:
        notes.append("nothing is named validation: a part of the training text is held out for it")
        pieces = _unnamed(of_split["train"], starts, ("validation",)).pieces
        pieces["test"] = [Piece(f, starts[f.name], f.n_bytes) for f in of_split["test"]]
    return Parts(pieces, "named" if named.as_before else "named, second rule", tuple(notes))


def _unnamed(files: Sequence[TextFile], starts: Mapping[str, int], held_out: Sequence[str]) -> Parts:
    """Whole files if their shares are allowed, else the ends of files."""
    if len(files) > 2:
        chosen = _draw(files, held_out)
        pieces: dict[str, list[Piece]] = {split: [] for split in ("train", *held_out)}
        for file in files:
            pieces[chosen.get(file.name, "train")].append(Piece(file, starts[file.name], file.n_bytes))
        if all(_SANE[0] <= share <= _SANE[1] for share in _shares(pieces, held_out)):
            return Parts(pieces)
    pieces = _ends(files, starts, held_out)
    rule = "ends of files" * (len(files) > 2)
    if all(share >= _SANE[0] for share in _shares(pieces, held_out)):
        return Parts(pieces, rule)
    return Parts(_ends(files, starts, held_out, inside_lines=True), rule + " inside lines")


def _shares(pieces: Mapping[str, list[Piece]], splits: Iterable[str]) -> list[float]:
    """The share of the bytes in each of these splits."""
    sizes = {split: sum(piece.stop - piece.start for piece in own) for split, own in pieces.items()}
    return [sizes[split] / max(1, sum(sizes.values())) for split in splits]


def _ends(
    files: Sequence[TextFile], starts: Mapping[str, int], held_out: Sequence[str], inside_lines: bool = False
) -> dict[str, list[Piece]]:
    """Hold out the end of each file, 5 % for each part. Cuts are at line ends, or ``inside_lines`` of long lines."""
    pieces: dict[str, list[Piece]] = {split: [] for split in ("train", *held_out)}
    for file in files:
        n, cuts = file.n_bytes, [starts[file.name]]
        targets = [max(cuts[0], n * (100 - 5 * k) // 100) for k in range(len(held_out), -1, -1)]
        for at, limit in pairwise(targets):
            cut = cut_after(file.path, at, n)
            for marks in ((b" ",), ()) if inside_lines else ():
                if cut > (at + limit) // 2:
                    cut = cut_after(file.path, at, n, marks)
            cuts.append(max(cut, cuts[-1]))
        for split, (start, stop) in zip(pieces, pairwise([*cuts, n]), strict=True):
            pieces[split].append(Piece(file, start, stop))
    return pieces


def _draw(files: Sequence[TextFile], held_out: Sequence[str]) -> dict[str, str]:
    """File name -> held-out split, by the order of the names' sha256: up to 5 % of the bytes, at least one file."""
    order = sorted(files, key=lambda f: hashlib.sha256(f.name.encode()).hexdigest())
    budget = HELD_OUT * sum(f.n_bytes for f in files)
    chosen: dict[str, str] = {}
    for split in held_out:
        left = [f for f in order if f.name not in chosen]
        used = 0
        for file in left:
            if used + file.n_bytes <= budget:
                chosen[file.name] = split
                used += file.n_bytes
        if not used and left:
            chosen[min(left, key=lambda f: f.n_bytes).name] = split
    return chosen


def _body(file: TextFile) -> int:
    """The offset of the text after its byte order mark."""
    with file.path.open("rb") as opened:
        return min(mark_length(opened.read(HEAD_BYTES), file.name), file.n_bytes)


def _notes(files: Sequence[TextFile], starts: Mapping[str, int], pieces: Mapping[str, list[Piece]]) -> list[str]:
    notes = []
    if wide := next((file.name for file in files if _every_other_is_nul(file, starts[file.name])), None):
        notes.append(f"{wide} looks like UTF-16 (every other byte is 0): convert it: iconv -f UTF-16 -t UTF-8")
    shares = []
    for (split, own), share in zip(pieces.items(), _shares(pieces, pieces), strict=True):
        count = f" {len(own)} {'file' if len(own) == 1 else 'files'}," if len(files) > 1 else ""
        shares.append(f"{split}{count} {share:.1%}")
    notes.append(f"splits: {'; '.join(shares)}")
    return notes


def _every_other_is_nul(file: TextFile, start: int) -> bool:
    with file.path.open("rb") as opened:
        head = opened.read(start + 4096)[start:]
    return len(head) > 7 and any(not any(head[side::2]) and all(head[1 - side :: 2]) for side in (0, 1))
