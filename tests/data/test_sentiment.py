"""Labelled sentences: what is read, what is refused and where; batches in which every sentence comes once."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqjax.data.phrases import BAD, GOOD, NEGATIONS, phrases
from seqjax.data.sentiment import (
    Sentences,
    batch_at,
    in_order,
    into_buckets,
    length_bounds,
    load_splits,
    load_sst2,
    make_vocabulary,
    parse,
    steps_per_epoch,
)
from seqjax.errors import UserError


def test_a_file_is_read_as_it_stands() -> None:
    found = parse("\ufeff1 a  good film\r\n0\tnot at all\nmixed caf\u00e9 1\n".encode(), ("0", "1", "mixed"), "my.txt")
    assert found.words == (("a", "good", "film"), ("not", "at", "all"), ("caf\u00e9", "1"))
    assert found.labels.tolist() == [1, 0, 2] and found.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1", "my.txt:2: an empty sentence after the label '1'"),
        (b"0  \t", "my.txt:2: an empty sentence after the label '0'"),
        (b"", "my.txt:2: a line without a label: expected a label, a space or tab, and a sentence"),
        (b"  a good film", "my.txt:2: a line without a label"),
        (b"pos a good film", "my.txt:2: the label 'pos' is none of 0, 1"),
        (b"a good film", "my.txt:2: the label 'a' is none of 0, 1"),
        (b"1 caf\xe9", "my.txt:2: not UTF-8: byte 0xe9 at column 6"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(line: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(b"1 a good film\n" + line + b"\n0 a bad one\n", ("0", "1"), "my.txt")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_label_that_is_nearly_right_is_told() -> None:
    with pytest.raises(UserError, match="is none of negative, positive; did you mean 'positive'"):
        parse(b"positiv a good film", ("negative", "positive"), "my.txt")


def test_own_files_are_split_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "my.txt"
    path.write_text("".join(f"{i % 2} word{i}\n" for i in range(50)))
    splits = load_splits(str(path), ("0", "1"), tmp_path, tmp_path / "cache")
    assert [len(split.labels) for split in splits] == [40, 5, 5]
    pairs = [(int(words[0][4:]), label) for split in splits for words, label in zip(*split, strict=True)]
    assert sorted(pairs) == [(i, i % 2) for i in range(50)] and pairs != sorted(pairs)
    path.write_text("1 few\n")
    with pytest.raises(UserError, match="1 examples; at least 10 are needed"):
        load_splits(str(path), ("0", "1"), tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match="phrase: neither a file nor one of phrases, sst2; did you mean 'phrases'"):
        load_splits("phrase", ("0", "1"), tmp_path, tmp_path / "cache")


def test_sst2_has_the_published_counts(shared_data: Path) -> None:
    if not (shared_data / "sentconv.tar.xz").exists():
        pytest.skip("sentconv.tar.xz is absent")
    counts = [Counter(split.labels.tolist()) for split in load_sst2(shared_data)]
    assert counts == [{0: 3310, 1: 3610}, {0: 428, 1: 444}, {0: 912, 1: 909}]
    first = load_sst2(shared_data).validation
    assert " ".join(first.words[0]) == "one long string of cliches ." and first.labels[0] == 0


def test_sst2_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def archive(**members: bytes) -> None:
        with tarfile.open(tmp_path / "sentconv.tar.xz", "w:xz") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(f"sentconv/stsa.binary.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    archive(train=b"1 other text\n")
    with pytest.raises(UserError, match=r"stsa\.binary\.train is not the published one"):
        load_sst2(tmp_path)
    archive(dev=b"1 other text\n")
    with pytest.raises(UserError, match=r"does not hold stsa\.binary\.train"):
        load_sst2(tmp_path)
    (tmp_path / "sentconv.tar.xz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="is damaged or cannot be read"):
        load_sst2(tmp_path)
    (tmp_path / "sentconv.tar.xz").unlink()
    asked = []

    def unreachable(address: str, **_: object) -> str:
        asked.append(address)
        raise ConnectionError

    monkeypatch.setattr("pooch.retrieve", unreachable)
    with pytest.raises(UserError, match=r"stsa\.binary\.train is missing and could not be downloaded"):
        load_sst2(tmp_path)
    assert all(address.endswith("/data/stsa.binary.train") for address in asked) and len(asked) == 2


def test_a_vocabulary_holds_what_is_frequent() -> None:
    vocabulary = make_vocabulary([["b", "a", "c"], ["a", "b", "a"], ["d"]], 2)
    assert list(vocabulary.ids) == ["<pad>", "<unk>", "a", "b"] and vocabulary.size == 4
    assert vocabulary.encode(["b", "d", "a", "?"]).tolist() == [3, 1, 2, 1]


def sentences(count: int = 61) -> Sentences:
    rng = np.random.default_rng(0)
    words = tuple(tuple(f"w{rng.integers(9)}" for _ in range(rng.integers(1, 30))) for _ in range(count))
    return Sentences(words, np.arange(count, dtype=np.int32))


@pytest.mark.parametrize("batch_size", [8, 100])
@pytest.mark.parametrize("n_buckets", [1, 3])
def test_every_sentence_weighs_once_in_an_epoch(batch_size: int, n_buckets: int) -> None:
    made = sentences()
    vocabulary = make_vocabulary(made.words, 1)
    bounds = length_bounds([len(words) for words in made.words], n_buckets)
    buckets = into_buckets(made, vocabulary, bounds)
    steps = steps_per_epoch([len(m) for m in buckets.members], batch_size)
    orders = []
    for batches in (
        [batch_at(buckets, 3, step, batch_size) for step in range(steps)],
        [batch_at(buckets, 3, step, batch_size) for step in range(steps, 2 * steps)],
        list(in_order(buckets, batch_size)),
    ):
        seen = []
        for batch in batches:
            assert batch.tokens_BxT.shape[0] == batch_size and batch.tokens_BxT.shape[1] in bounds
            for ids, there, label, weight in zip(*batch, strict=True):
                np.testing.assert_array_equal(ids[there], vocabulary.encode(made.words[label]))
                assert not ids[~there].any() and not there[there.sum() :].any()
                seen += [label] if weight else []
        assert sorted(seen) == list(range(61))
        orders.append(seen)
    assert orders[0] != orders[1]
    again, other = (batch_at(buckets, seed, 2 % steps, batch_size) for seed in (3, 4))
    same = batch_at(buckets, 3, 2 % steps, batch_size)
    np.testing.assert_array_equal(again.labels_B, same.labels_B)
    assert again.labels_B.tolist() != other.labels_B.tolist()


def test_long_sentences_lose_their_end() -> None:
    made = Sentences((("a",) * 3 + ("b",) * 9,), np.zeros(1, np.int32))
    vocabulary = make_vocabulary(made.words, 1)
    assert into_buckets(made, vocabulary, (2, 5)).tokens[0].tolist() == vocabulary.encode(list("aaabb")).tolist()


def test_the_generated_labels_follow_from_the_words() -> None:
    """By another way than that of the generator: cut the sentence, count negations, ask the clause that decides."""
    made, labels = phrases(3000, seed=1)
    assert len(set(made)) == 3000 and abs(labels.mean() - 0.5) < 0.03

    def sign(clause: tuple[str, ...]) -> int:
        adjectives = [(word in GOOD) - (word in BAD) for word in clause if word in GOOD or word in BAD]
        assert len(adjectives) == 1
        return adjectives[0] * (-1) ** sum(word in NEGATIONS for word in clause)

    for words, label in zip(made, labels, strict=True):
        text = " ".join(words)
        if text.startswith("although "):
            loser, winner = text.removeprefix("although ").split(" , ")
        elif " but " in text:
            loser, winner = text.split(" but ")
        elif " although " in text:
            winner, loser = text.split(" although ")
        else:
            winner, loser = text, None
        assert (sign(tuple(winner.split())) > 0) == bool(label), text
        if loser is not None:  # "not good but bad" leaves out the second subject
            opposite = -1 if " is " in winner else 1
            assert sign(tuple(loser.split())) == opposite * sign(tuple(winner.split())), text
    again, _ = phrases(3000, seed=1)
    assert again == made


def test_a_sum_over_words_cannot_learn_the_generated_labels() -> None:
    """The best linear classifier of word counts, by least squares on the sentences themselves."""
    made, labels = phrases(5500, seed=0)
    ids = {word: i for i, word in enumerate(sorted({word for words in made for word in words}))}
    counts_NxV = np.zeros((len(made), len(ids) + 1))
    for row, words in enumerate(made):
        counts_NxV[row, -1] = 1.0
        for word in words:
            counts_NxV[row, ids[word]] += 1
    weights_V = np.linalg.lstsq(counts_NxV, 2.0 * labels - 1, rcond=None)[0]
    assert np.mean((counts_NxV @ weights_V > 0) == labels) < 0.65
