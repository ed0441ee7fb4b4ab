"""Tokenizers as a ``tokenizer.json`` of the library `tokenizers`, and back.

Byte-level pair encodings are expressed (`bytes`, `bpe-V`, `gpt2`, `cl100k_base`) and characters (`chars`). `words` is
not: it drops blanks. Ours cut a run of more than 1024 blanks into pieces, theirs do not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from seqjax.data import bpe
from seqjax.data.kept import first_rank, tokenizer_of
from seqjax.data.tokenizers import ANY_CHARACTER, Tokenizer
from seqjax.errors import UserError

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""tiktoken's form of the pattern of GPT-2."""
SINGLE_DIGITS = (
    r"""\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s++(?![^\s\p{N}])|(?:\s(?=\s)){1,1024}+|\s"""
)
"""The pattern of GPT-2 on the text between digits, each of which is a piece of its own (SmolLM)."""
KEPT = (None, "NFC")  # normalizers that leave text in Unicode's usual form as it is
GPT2_SHA256 = "b23b0addbe0afdb0769ef0d8693ca5ecd764021de7c1a2fa06b058f96513c99a"
"""`Tokenizer.sha256` of `gpt2`."""


def letters() -> dict[int, str]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the others for letters from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def to_json(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The contents of ``tokenizer.json``; None if it cannot be expressed."""
    kind, encoding = tokenizer.name.partition("-")[0], tokenizer.encoding
    if kind == "words":
        return None
    ranks = dict(sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1]))
    shared = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        "added_tokens": [_special(text, number) for text, number in encoding._special_tokens.items()],
    }
    if kind == "chars":
        vocabulary = {token.decode(): rank for token, rank in ranks.items()} | dict(encoding._special_tokens)
        return shared | {
            "pre_tokenizer": _split(r"[\s\S]"),
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
        }
    spelling = letters()
    spelled = {token: "".join(spelling[byte] for byte in token) for token in ranks}
    merges = [tuple(spelled[part] for part in parts(token, ranks)) for token in ranks if len(token) > 1]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    pattern = encoding._pat_str
    if pattern in (bpe.PATTERN, GPT2_PATTERN, ANY_CHARACTER):
        cut: dict[str, Any] = byte_level | {"use_regex": True}
    else:
        steps = [_split(pattern), byte_level | {"use_regex": False}]
        cut = {"type": "Sequence", "pretokenizers": steps}
    return shared | {
        "pre_tokenizer": cut,
        "decoder": byte_level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": [list(pair) for pair in merges],
        },
    }


def _split(pattern: str) -> dict[str, Any]:
    own = re.sub(r"(\{\d+,\d+\})\+", r"\1", pattern)  # after braces the + of their engine is a repetition
    return {"type": "Split", "pattern": {"Regex": own}, "behavior": "Isolated", "invert": False}


def _special(text: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **flags, "special": True}


def parts(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that were merged into this one: its encoding by the ranks below its own."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(pieces)]
        at = min(range(len(joined)), key=joined.__getitem__)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces[0], pieces[1]


def from_json(saved: Mapping[str, Any], source: str, vocab_size: int = 0) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json`` with byte-level pairs.

    It is named `gpt2` if it is, else ``bpe-V``. Text is not normalized first: see `normalizes`.

    Args:
        vocab_size: of the model; ids that the tokenizer does not use are special tokens, which no text has.
    Raises:
        UserError: it is of another kind.
    """
    try:
        model, pattern = saved["model"], _pattern(saved["pre_tokenizer"])
        if model["type"] != "BPE" or pattern is None or _normal(saved) not in KEPT or model.get("ignore_merges"):
            raise UserError(f"{source}: is not a byte-level pair encoding, the one kind that can be read")
        added = {entry["content"]: entry["id"] for entry in saved.get("added_tokens", ())}
        known = {text: number for text, number in model["vocab"].items() if text not in added}
        byte_of = {letter: byte for byte, letter in letters().items()}
        tokens = [bytes(byte_of[letter] for letter in text) for text in sorted(known, key=known.__getitem__)]
        merged = ["".join(pair if isinstance(pair, list) else pair.split(" ")) for pair in model["merges"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source}: is no tokenizer.json with byte-level pairs ({type(error).__name__} {error})"
        ) from None
    first = first_rank(added)
    ids = list(range(first, first + len(known)))
    if sorted(known.values()) != ids or [known.get(text) for text in merged] != ids[len(known) - len(merged) :]:
        raise UserError(f"{source}: its tokens are not numbered in the order of their merges")
    largest = max([*known.values(), *added.values()], default=-1)
    added |= {f"<|unused {number}|>": number for number in range(largest + 1, vocab_size)}
    found = tokenizer_of("gpt2", GPT2_PATTERN if pattern == bpe.PATTERN else pattern, tokens, added)
    if found.sha256 == GPT2_SHA256:
        return found
    return tokenizer_of(f"bpe-{found.vocab_size}", pattern, tokens, added)


def _normal(saved: Mapping[str, Any]) -> str | None:
    return (saved.get("normalizer") or {}).get("type")


def normalizes(saved: Mapping[str, Any]) -> bool:
    """Whether `tokenizers` would write text in Unicode's form NFC first. Ours reads it as it is: the same for NFC."""
    return _normal(saved) == "NFC"


def _pattern(cut: Mapping[str, Any]) -> str | None:
    """The regular expression that cuts text; None: text is cut in another way."""
    steps = cut["pretokenizers"] if cut["type"] == "Sequence" else [cut]
    *splits, last = steps
    if last["type"] != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):
        if splits == [{"type": "Digits", "individual_digits": True}]:
            return SINGLE_DIGITS
        return None if splits else bpe.PATTERN
    if len(splits) == 1 and splits[0]["type"] == "Split" and splits[0]["behavior"] == "Isolated":
        return splits[0]["pattern"]["Regex"]
    return None
