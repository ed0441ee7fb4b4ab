"""Tokenizers: round trips, identity with their tiktoken encodings, training, cache, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data import Corpus, Document, Tokenizer, load_corpus, load_tokenizer, tokenizers, trained_vocabulary
from seqjax.errors import UserError

TEXT = "the cat sat on the mat\nand the d\u00f6g \u20ac ate <unk> mats\n\nthe end\n" * 20
CORPUS = Corpus("made", "0" * 64, {"train": (Document("d", "s", lambda: iter([TEXT.encode()]), len(TEXT.encode())),)})
NAMES = ["bytes", "chars", "words", "words-5", "bpe-257", "bpe-280"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    cache = tmp_path_factory.mktemp("tokenizers")
    return {name: load_tokenizer(name, CORPUS, cache) for name in NAMES}


@pytest.mark.parametrize("name", [n for n in NAMES if n != "words-5"])
def test_round_trip_and_equality_with_tiktoken(name: str, made: dict[str, Tokenizer]) -> None:
    tokenizer = made[name]
    tokens = tokenizer.encode(TEXT.encode())
    assert tokenizer.decode(tokens) == TEXT
    assert tokens.dtype == tokenizer.dtype == np.uint16
    assert tokens.max() < tokenizer.vocab_size
    assert tokenizer.encoding.encode_ordinary(TEXT) == tokens.tolist()
    if not name.startswith("words"):
        assert tokenizer.encoding.decode(tokens.tolist()) == TEXT


@pytest.mark.parametrize("name", ["bytes", "bpe-257", "bpe-280"])
def test_any_text_round_trips(name: str, made: dict[str, Tokenizer]) -> None:
    @given(st.text(max_size=50))
    @settings(max_examples=50, deadline=None)
    def check(text: str) -> None:
        tokens = made[name].encode(text.encode())
        assert made[name].decode(tokens) == text
        assert made[name].encoding.encode_ordinary(text) == tokens.tolist()

    check()


def test_vocabulary_sizes_and_specials(made: dict[str, Tokenizer]) -> None:
    characters, words = len(set(TEXT)), len(set(TEXT.split()) - {"<unk>"})
    expected = {
        "bytes": (257, 256),
        "chars": (characters + 2, characters + 1),
        "words": (words + 2, None),
        "words-5": (5, None),
        "bpe-257": (257, 256),
        "bpe-280": (280, 279),
    }
    assert {n: (t.vocab_size, t.end_of_text) for n, t in made.items()} == expected
    for tokenizer in made.values():
        assert tokenizer.encoding.n_vocab == tokenizer.vocab_size
        if tokenizer.end_of_text is not None:
            assert tokenizer.encoding.decode([tokenizer.end_of_text]) == "<|endoftext|>"
    assert len({t.sha256 for t in made.values()}) == len(NAMES)


def test_special_tokens_are_never_read_from_text(made: dict[str, Tokenizer]) -> None:
    for name in ("bytes", "bpe-280"):
        tokens = made[name].encode(b"<|endoftext|>")
        assert made[name].end_of_text not in tokens and len(tokens) > 1


def test_unseen_characters_and_words_are_unknown(made: dict[str, Tokenizer]) -> None:
    chars, words = made["chars"], made["words"]
    assert chars.encode("t\u4e2d\U0001f600".encode()).tolist()[1:] == [chars.vocab_size - 2] * 2
    assert chars.decode([chars.vocab_size - 2]) == "<unk>"
    assert words.encode(b"the zebra").tolist()[1] == 0
    assert words.encode(b"<unk>").tolist() == [0]


def test_words_end_lines_with_eos_and_keep_the_most_frequent(made: dict[str, Tokenizer]) -> None:
    words = made["words"]
    assert words.encode(b"cat\n\n sat").tolist().count(1) == 2
    assert words.encode(b"cat <eos> sat").tolist()[1] == 1
    assert words.decode(words.encode(b"  cat \t sat  \n mat")) == "cat sat\nmat"
    frequent = made["words-5"]
    assert frequent.decode(range(2, 5)) == "the and ate"  # ties in the order of the alphabet
    assert frequent.encode(b"the cat").tolist() == [2, 0]


def test_every_kind_of_blank_ends_a_word(made: dict[str, Tokenizer]) -> None:
    words = made["words"]
    text = "the\r\nend\x0bcat\u00a0sat\x1cmat"
    assert words.encode(text.encode()).tolist() == words.encode(b"the\nend cat sat mat").tolist()
    assert words.encoding.encode_ordinary(text) == words.encode(text.encode()).tolist()


def test_bytes_take_any_bytes_and_text_must_be_utf8(made: dict[str, Tokenizer]) -> None:
    assert made["bytes"].encode(bytes(range(256))).tolist() == list(range(256))
    for name in ("chars", "words", "bpe-280"):
        with pytest.raises(UnicodeDecodeError):
            made[name].encode(b"ab\xff")
    assert made["bytes"].decode([0xC3]) == "\ufffd"


def test_training_reads_only_the_training_split(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["ab ab"], validation=["xyz"])
    assert load_tokenizer("chars", corpus, cache).vocab_size == 3 + 2
    assert load_tokenizer("words", corpus, cache).encode(b"xyz").tolist() == [0]


def test_dtype_follows_the_vocabulary() -> None:
    assert tokenizers.token_dtype(1 << 16) == np.uint16
    assert tokenizers.token_dtype((1 << 16) + 1) == np.uint32


def test_bpe_of_english_compresses_as_measured(cache: Path) -> None:
    corpus = load_corpus("english")
    tokenizer = load_tokenizer("bpe-1024", corpus, cache)
    text = b"".join(chunk for d in corpus.splits["validation"] for chunk in d.chunks())
    assert tokenizer.vocab_size == 1024
    assert len(text) / len(tokenizer.encode(text)) == pytest.approx(2.528, abs=0.002)


def test_bpe_sample_is_even_deterministic_and_bounded(make_corpus: Callable[..., Corpus]) -> None:
    corpus = make_corpus(train=["a line of text\n" * 1000, "other words\n" * 1000])
    sample = list(trained_vocabulary._sample(corpus, 5000))
    assert sample == list(trained_vocabulary._sample(corpus, 5000))
    assert all(s.endswith("\n") for s in sample)
    assert [len(s) for s in sample] == pytest.approx([5000 * 15 / 27, 5000 * 12 / 27], abs=15)
    stream = Corpus("s", "0", {"train": list(corpus.splits["train"])})
    assert [s[:5] for s in trained_vocabulary._sample(stream, 5000)] == ["a lin"]


def test_trained_vocabulary_is_cached_and_bound_to_the_text(
    make_corpus: Callable[..., Corpus], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_tokenizer("bpe-259", make_corpus(train=["abab abab"]), cache)
    with monkeypatch.context() as patch:
        patch.setattr(tokenizers.bpe, "train_bpe", lambda *a: pytest.fail("trained again"))
        assert load_tokenizer("bpe-259", make_corpus(train=["abab abab"]), cache).sha256 == first.sha256
    other = load_tokenizer("bpe-259", make_corpus(train=["cdcd cdcd"]), cache)
    assert other.sha256 != first.sha256
    assert other.encode(b"cdcd").tolist() == [257]


def test_altered_or_broken_cache_is_refused(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["abc"])
    load_tokenizer("chars", corpus, cache)
    (path,) = cache.glob("tokenizers/*.json")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"vocabulary": ["a", "c", "b"]}))
    with pytest.raises(UserError, match=rf"{path.name} was altered: delete it"):
        load_tokenizer("chars", corpus, cache)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read: delete it"):
        load_tokenizer("chars", corpus, cache)


TEXTS = ("the cat sat\non a mat\n", "  the \t cat\r\n\n\n sat  ", "\n", "a", "the cat", "\r\n the\x0c mat \r\n")


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_spell_what_they_decode_to(text: str, make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["the cat sat\non a mat \t\r\x0c\n"])
    for name in ("bytes", "chars", "words", "bpe-258"):
        tokenizer = load_tokenizer(name, corpus, cache)
        covered = tokenizer.coverage(text.encode())
        assert covered.n_spelled == len(tokenizer.decode(tokenizer.encode(text.encode())).encode())
        assert covered.n_unknown == covered.n_unknown_bytes == 0


@pytest.mark.parametrize(
    ("name", "text", "unknown", "n_bytes"),
    [
        ("words-4", "the cat sat\non\n", 2, len("sat on ")),
        ("words", "the dog\n\u00fcber <unk> <eos>\n", 2, len("dog \u00fcber ".encode())),
        ("words", "<unk> the <unk>", 0, 0),
        ("chars", "the dog\n", 2, 2),
        ("chars", "\u20ac\U0001f600 the", 2, 7),
        ("bytes", "\u20ac\0", 0, 0),
        ("bpe-258", "dog \u20ac", 0, 0),
    ],
)
def test_text_that_tokens_call_unknown_is_counted(
    name: str, text: str, unknown: int, n_bytes: int, make_corpus: Callable[..., Corpus], cache: Path
) -> None:
    tokenizer = load_tokenizer(name, make_corpus(train=["the the cat cat sat\non a mat\n"]), cache)
    assert tokenizer.coverage(text.encode())[1:] == (unknown, n_bytes)


@pytest.mark.parametrize(
    "name, message",
    [
        ("byte", "no tokenizer 'byte'; did you mean 'bytes'.*bytes, chars, words"),
        ("bpe", "no tokenizer 'bpe'"),
        ("bpe-1k", "did you mean 'bpe-1024'"),
        ("bpe-256", "at least 257"),
        ("words-2", "at least 3"),
        ("cl100k", "did you mean 'cl100k_base'"),
        ("", "no tokenizer ''"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str, cache: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_tokenizer(name, CORPUS, cache)


def test_vocabulary_larger_than_the_text_allows_is_refused(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["abc de"])
    with pytest.raises(UserError, match="only 4 pairs to merge: ask for at most bpe-261"):
        load_tokenizer("bpe-262", corpus, cache)
    assert load_tokenizer("bpe-261", corpus, cache).vocab_size == 261
    with pytest.raises(UserError, match="has 2 words: ask for at most words-4"):
        load_tokenizer("words-5", corpus, cache)
    for name in ("chars", "words", "bpe-280"):
        with pytest.raises(UserError, match="training split of empty is empty"):
            load_tokenizer(name, make_corpus("empty", train=[""]), cache)
