"""Splits by the names of files.

A word such as "train" or "valid" names a split. It is a part of the file's name between separators (``.``, ``-``,
``_``, a space), without the suffix; digits may follow. Or it is the name of a folder; the topmost such folder decides.

1. If every file has one such word, the words are the splits: ``wiki.train.tokens``, ``data_valid_en.txt``.
2. Else, if some file is held out by a word that is the whole name (``valid.txt``, ``test/a.txt``) or that follows one
   other word after a dot (``wiki.valid.tokens``), files without a word are training text if no file is named so; else
   they are left out. So held-out text is never trained on.
3. Else the files are one text.

A name with two words (``train_test.txt``) names no split: it is left out in case 2, otherwise case 3 applies. Files
about the text (``README.md``, ``LICENSE.txt``) are left out in cases 1 and 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from seqjax.data.trees import TEXT_SUFFIXES
from seqjax.errors import UserError

SPLITS = ("train", "validation", "test")
_FIRST_WORDS = {
    "train": "train", "training": "train", "valid": "validation", "validation": "validation", "val": "validation",
    "dev": "validation", "test": "test",
}  # fmt: skip
_EITHER = "validation, or test beside other files of validation"
_WORDS = _FIRST_WORDS | {"devel": "validation", "eval": _EITHER, "evaluation": _EITHER, "heldout": _EITHER}
_ABOUT = ("readme", "license", "licence", "copying", "changelog", "citation", "notice")
_LISTED = 3


class Named(NamedTuple):
    """The split of each file by its name, or None if the files are one text; notes on the files taken and left out.

    ``as_before`` is false if earlier versions chose other files by name.
    """

    splits: dict[str, str] | None
    notes: tuple[str, ...] = ()
    as_before: bool = True


def named_splits(names: Iterable[str]) -> Named:
    """Apply the rule of this module to the paths of files.

    Raises:
        UserError: every file is held out by its name.
    """
    names = list(names)
    texts = [name for name in names if _stem(name) not in _ABOUT or _in_folder(name)]
    words = {name: _words_of(name) for name in texts}
    one = {name: found[0] for name, found in words.items() if len(found) == 1}
    other = [name for name in texts if not words[name]]
    alone = [name for name in one if _is_alone(name)]
    holds_out = any(_WORDS[one[name]] != "train" for name in alone)
    if len(texts) < 2 or not any(words.values()):
        return Named(None)
    if len(one) < len(texts) and not holds_out:
        return Named(None, (_one_text(words),))
    splits = _resolved(one)
    if "train" not in splits.values():
        if not other and holds_out:
            raise UserError(f"no training text: {', '.join(sorted(one)[:_LISTED])} are held out by their names")
        splits |= dict.fromkeys(other, "train")
    if len(set(splits.values())) == 1 or "train" not in splits.values():
        return Named(None, (f"one text: all files are named {' or '.join(sorted(set(splits.values())))}",))
    as_before = (
        all(len(words[name]) < 2 and (name in other or _was_named(name)) for name in texts)
        and (not holds_out or len(alone) == len(one))
        and (len(texts) == len(names) or "train" in map(_WORDS.get, one.values()))
    )
    return Named(splits, tuple(_notes(splits, names)), as_before)


def _words_of(name: str) -> list[str]:
    """The words of splits in a path: the topmost folder with such a name, else all such words of the file's name."""
    for folder in PurePosixPath(_joined(name)).parts[:-1]:
        if folder in _WORDS:
            return [folder]
    parts = re.split(r"[._\- ]", _stem(name))
    return [word for part in parts if (word := re.sub(r"^[\W\d_]+|[\W\d_]+$", "", part)) in _WORDS]


def _stem(name: str) -> str:
    file = PurePosixPath(_joined(name)).name
    return next((file.removesuffix(suffix) for suffix in TEXT_SUFFIXES if file.endswith(suffix)), file)


def _joined(name: str) -> str:
    """The name in lower case, with held_out, held-out and held out as one word."""
    return re.sub(r"held[._\- ]out(?![^\W\d_])", "heldout", name.lower())


def _is_alone(name: str) -> bool:
    """Whether a folder names the split, the word is the whole name, or it follows one other word after a dot."""
    if _in_folder(name):
        return True
    first, *others = _stem(name).split(".")
    (word,) = _words_of(name)
    return _letters(first) == [word] or (len(_letters(first)) == 1 and word in others)


def _in_folder(name: str) -> bool:
    return any(folder in _WORDS for folder in PurePosixPath(_joined(name)).parts[:-1])


def _letters(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


def _resolved(words: Mapping[str, str]) -> dict[str, str]:
    splits = {name: _WORDS[word] for name, word in words.items()}
    either = "test" if "validation" in splits.values() else "validation"
    return {name: either if split == _EITHER else split for name, split in splits.items()}


def _was_named(name: str) -> bool:
    """Whether earlier versions recognized this word: in `_FIRST_WORDS`, at an end of the name or between dots."""
    (word,) = _words_of(name)
    if _in_folder(name):
        return word in _FIRST_WORDS
    stem = _stem(name)
    runs = _letters(stem)
    return word in _FIRST_WORDS and runs.count(word) == 1 and (word in (runs[0], runs[-1]) or word in stem.split("."))


def _one_text(words: Mapping[str, Sequence[str]]) -> str:
    """Why the files are one text although some are named after splits."""
    twice = [name for name, found in words.items() if len(found) > 1]
    if twice:
        return f"one text: {twice[0]} has the names of two splits ({', '.join(words[twice[0]])})"
    without = next(name for name, found in words.items() if not found)
    bearer = next(name for name, found in words.items() if found)
    return f"one text: {bearer} has the name of a split, and {without} does not"


def _notes(splits: Mapping[str, str], names: Sequence[str]) -> Iterable[str]:
    of_split = {split: [name for name in names if splits.get(name) == split] for split in SPLITS}
    yield "splits by name: " + "; ".join(f"{split} {_listed(own)}" for split, own in of_split.items() if own)
    if left := [name for name in names if name not in splits]:
        yield f"left out beside the named splits: {len(left)} ({_listed(left)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)
