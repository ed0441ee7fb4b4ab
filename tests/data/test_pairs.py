"""Parallel text: lines belong together, mistakes are named with file and line; numbers in words; batches by length."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from seqjax.data.buckets import TokenPairs, ordered_batches, pair_batch, training_batches
from seqjax.data.numbers import MOST, distinct_numbers, in_words, number_pairs
from seqjax.data.pairs import load_multi30k, lowercased, read_pairs, texts_of
from seqjax.data.vocabulary import bpe_vocabulary, word_vocabulary
from seqjax.errors import UserError


def written(folder: Path, **files: str | bytes) -> list[Path]:
    paths = []
    for name, text in files.items():
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        paths.append(path)
    return paths


def test_lines_belong_together(tmp_path: Path) -> None:
    a, b = written(tmp_path, de="ein Hund\n  zwei\tHunde \n", en="a dog\ntwo dogs")
    assert read_pairs(a, b) == (("ein Hund", "a dog"), ("zwei Hunde", "two dogs"))
    packed = tmp_path / "de.gz"
    packed.write_bytes(gzip.compress(a.read_bytes()))
    assert read_pairs(packed, b) == read_pairs(a, b)


@pytest.mark.parametrize(
    ("de", "en", "message"),
    [
        ("a\nb\nc\n", "x\ny\n", r"de has 3 lines and .*en has 2: .* ends at line 2"),
        ("a\n\nc\n", "x\ny\nz\n", r"de:2: an empty sentence"),
        ("a\nb\n", "x\n \t\n", r"en:2: an empty sentence"),
        (b"a\n\xff\xfe\n", "x\ny\n", r"de:2: not UTF-8"),
        ("", "", r"de: has no sentences"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, de: str | bytes, en: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pairs(*written(tmp_path, de=de, en=en))


def test_a_missing_and_a_damaged_file(tmp_path: Path) -> None:
    (a,) = written(tmp_path, de="a\n")
    with pytest.raises(UserError, match="en: no such file"):
        read_pairs(a, tmp_path / "en")
    (damaged,) = written(tmp_path, **{"de.gz": b"no gzip"})
    with pytest.raises(UserError, match=r"de\.gz: cannot be read"):
        read_pairs(damaged, a)


def test_multi30k_is_the_published_one(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "multi30k.tar.xz").is_file():
        pytest.skip("Multi30k is not in the folder of real corpora")
    pairs = load_multi30k(shared_data, tmp_path)
    assert {name: len(split) for name, split in pairs.splits.items()} == {
        "train": 29_000,
        "validation": 1_014,
        "test": 1_000,
    }
    assert lowercased(pairs).splits["train"][0] == (
        "zwei junge weiße männer sind im freien in der nähe vieler büsche.",
        "two young, white males are outside near many bushes.",
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (305, "three hundred and five"),
        (1000, "one thousand"),
        (1042, "one thousand and forty two"),
        (1100, "one thousand one hundred"),
        (999_999, "nine hundred and ninety nine thousand nine hundred and ninety nine"),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words


def test_numbers_are_distinct_and_held_out() -> None:
    pairs = number_pairs(500, 50)
    splits = [{source for source, _ in split} for split in pairs.splits.values()]
    assert [len(split) for split in splits] == [500, 50, 50] and len(set.union(*splits)) == 600
    assert all(in_words(int(digits.replace(" ", ""))) == words for words, digits in pairs.splits["test"])
    assert pairs == number_pairs(500, 50) != number_pairs(500, 50, seed=1)
    with pytest.raises(ValueError, match="at most 500,000"):
        number_pairs(600_000, 10)
    assert len(set(distinct_numbers(MOST, 0).tolist())) == MOST
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "unique", lambda drawn: drawn[:99])
        with pytest.raises(ValueError, match="100 numbers asked for; the draws of seed 0 have 99 distinct ones"):
            distinct_numbers(100, 0)


def test_vocabularies_give_back_what_they_were_given() -> None:
    texts = texts_of(number_pairs(200, 10).splits["train"])
    for vocabulary in (word_vocabulary(texts), bpe_vocabulary(texts, 280)):
        for text in texts:
            tokens = vocabulary.encode(text)
            assert vocabulary.decode([*tokens, vocabulary.end, 0, 1]) == text
            assert max(tokens) < vocabulary.begin < vocabulary.end < vocabulary.size
    words = word_vocabulary(texts)
    assert words.decode(words.encode("two dozen")) == "two <unk>"
    with pytest.raises(UserError, match="gives only"):
        bpe_vocabulary(texts, 5000)


def rows(count: int, seed: int = 0) -> TokenPairs:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, size=(2, count))
    sources, targets = (tuple(rng.integers(1, 99, size=n).astype(np.int32) for n in side) for side in lengths)
    return TokenPairs(sources, tuple(np.concatenate([[0], row]).astype(np.int32) for row in targets))


def test_an_epoch_has_every_pair_once_and_batches_are_a_function_of_the_step() -> None:
    pairs, size = rows(100), 16
    batches = training_batches(pairs, seed=3, size=size)
    seen, shapes = [], set()
    for step in range(6):
        batch = pair_batch(pairs, batches(step))
        shapes.add(batch["source"].shape)
        assert batch["target"].shape[1] == batch["source"].shape[1] + 1 and batch["source"].shape[1] % 8 == 0
        for source, mask in zip(batch["source"], batch["source_mask"], strict=True):
            assert not source[~mask].any()
            seen.append(source[mask].tobytes())
    assert len(seen) == len(set(seen)) == 96 and set(seen) <= {source.tobytes() for source in pairs.sources}
    assert len(shapes) <= 4
    again = training_batches(pairs, seed=3, size=size)
    for step in (40, 2, 40):
        np.testing.assert_array_equal(again(step), batches(step))
    assert not np.array_equal(again(0), training_batches(pairs, 4, size)(0))


def test_evaluation_reads_every_pair_once() -> None:
    pairs = rows(37)
    seen = []
    for indices, batch in ordered_batches(pairs, 10):
        assert batch["source"].shape[0] == 10 and not batch["target_mask"][len(indices) :].any()
        for place, index in enumerate(indices):
            np.testing.assert_array_equal(batch["target"][place][batch["target_mask"][place]], pairs.targets[index])
        seen += list(indices)
    assert sorted(seen) == list(range(37))
