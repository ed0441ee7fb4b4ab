"""Lines by author: words, vocabulary and rows."""

from __future__ import annotations

import numpy as np

from seqjax.data.lines import AUTHORS, Vocabulary, load_words, make_vocabulary, set_in_lines, split_words

WORDS = {
    "shakespeare": tuple("to be or not to be".split()),
    "milton": tuple("of man's first".split()),
    "kjv": tuple("and he said and to him and".split()),
}


def test_words_and_marks() -> None:
    assert split_words("O'er the Sea-shore, 'tis [3] o'clock'!") == [
        "o'er", "the", "sea", "shore", ",", "tis", "o'clock", "!"
    ]  # fmt: skip


def test_the_vocabulary_is_of_the_words_commonest_over_authors() -> None:
    shares = {"and": 3 / 7, "to": 2 / 6 + 1 / 7, "be": 2 / 6, "first": 1 / 3, "man's": 1 / 3, "of": 1 / 3}
    vocabulary = make_vocabulary(WORDS, 4)
    assert vocabulary.words == tuple(sorted(shares, key=lambda word: (-shares[word], word))[:4])
    assert vocabulary.size == 4 + 3
    assert [vocabulary.author(author) for author in AUTHORS] == [4, 5, 6]
    assert vocabulary.text([0, 3, 6]) == "to first #"


def test_lines_are_words_in_a_row_after_their_author() -> None:
    vocabulary = Vocabulary(("to", "be", "or", "and", "he", "said"))
    lines = set_in_lines(WORDS, vocabulary, 3)
    assert [vocabulary.text(row[1:]) for row in lines["shakespeare"]] == ["to be or"]  # "not" is unknown
    assert [vocabulary.text(row[1:]) for row in lines["kjv"]] == ["and he said"]
    assert lines["milton"].shape == (0, 4)
    for author in AUTHORS:
        assert (lines[author][:, 0] == vocabulary.author(author)).all() and lines[author].dtype == np.int32


def test_the_corpus_has_every_author_in_training_and_validation() -> None:
    train, validation = load_words("train"), load_words("validation")
    for author in AUTHORS:
        assert len(train[author]) > 100_000 and len(validation[author]) > 15_000
    assert "hamlet" in train["shakespeare"] and "hath" in validation["kjv"]
