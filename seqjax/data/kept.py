"""The tokenizer in a run folder, ``tokenizer.json``: a run is sampled and continued without the text it was trained on.

name, sha256    as in `Tokenizer`
pattern         the regular expression that cuts text
tokens          the bytes of each token, base64, in the order of their ids
special         text -> id
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import tiktoken

from seqjax.data import tokenizers
from seqjax.data.tokenizers import END_OF_TEXT, Tokenizer, token_dtype
from seqjax.host import disk

FILE = "tokenizer.json"


def keep_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write ``tokenizer.json`` into a run folder that does not have it."""
    if (folder / FILE).is_file():
        return
    encoding = tokenizer.encoding
    ranks = sorted(encoding._mergeable_ranks, key=encoding._mergeable_ranks.__getitem__)
    value = {
        "name": tokenizer.name,
        "sha256": tokenizer.sha256,
        "pattern": encoding._pat_str,
        "special": encoding._special_tokens,
        "tokens": [base64.b64encode(token).decode() for token in ranks],
    }
    disk.write_atomically(folder / FILE, json.dumps(value) + "\n")


def kept_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a run folder; None if it has none: earlier versions did not keep it.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    saved = disk.read_json(path)
    try:
        tokens = [base64.b64decode(token, validate=True) for token in saved["tokens"]]
        found = tokenizer_of(saved["name"], saved["pattern"], tokens, saved["special"])
        if found.sha256 != saved["sha256"]:
            raise ValueError("its vocabulary is not as it was written")
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
        raise disk.damaged(path, str(error) or "its tokens are not as they were written") from None
    return found


def first_rank(special: Mapping[str, int]) -> int:
    """The id of the first token that is not special: the least that no special one has."""
    taken = set(special.values())
    return next(rank for rank in range(len(taken) + 1) if rank not in taken)


def tokenizer_of(name: str, pattern: str, tokens: list[bytes], special: dict[str, int]) -> Tokenizer:
    """The tokenizer of this name, with its tokens in the order of their ids."""
    kind = name.partition("-")[0]
    if kind == "bytes":
        return tokenizers._bytes()
    if kind == "chars":
        return tokenizers._chars(name, [token.decode() for token in tokens])
    if kind == "words":
        return tokenizers._words(name, [token.decode() for token in tokens[2:]])
    ranks = {token: rank for rank, token in enumerate(tokens, first_rank(special))}
    encoding = tiktoken.Encoding(f"seqjax_{name}", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    sha256, size = tokenizers._identity(pattern, ranks, special), encoding.n_vocab
    encode = partial(tokenizers._encode_with, encoding, token_dtype(size))
    return Tokenizer(name, encoding, size, special.get(END_OF_TEXT), sha256, encode, encoding.decode)
