"""`seqjax data`: list corpora, prepare one, show its statistics."""

from __future__ import annotations

import argparse
import bz2
import time
from typing import Any

from seqjax.commands import options as shared


def add_parser(commands: Any) -> None:
    """Declare the command and its three parts."""
    parser = shared.add_parser(
        commands,
        "data",
        """
        seqjax data list
        seqjax data prepare wikitext-2 --tokenizer words
        seqjax data stats english --tokenizer bpe-1024
        seqjax data stats path/to/text.txt.xz
        """,
    )
    parts = parser.add_subparsers(dest="part", metavar="list|prepare|stats", required=True)
    listing = parts.add_parser("list", help="named corpora and tokenizers")
    listing.set_defaults(run=_list)
    for name, summary, run in (
        ("prepare", "fetch a corpus, train its tokenizer and write its token shards", _prepare),
        ("stats", "size of each split in bytes and tokens, and its size after bz2", _stats),
    ):
        part = parts.add_parser(name, help=summary, description=summary)
        part.add_argument("corpus", help="a named corpus, a text file, a folder or an archive of text files")
        part.add_argument(
            "--tokenizer", default="bytes", help="bytes, chars, words, words-N, bpe-V, gpt2, cl100k_base [bytes]"
        )
        part.set_defaults(run=run)


def _list(options: argparse.Namespace, rest: list[str]) -> int:
    shared.no_more(rest)
    from seqjax.data import CORPORA, cache_folder, data_folder

    print("corpora")
    for name, description in CORPORA.items():
        print(f"  {name:<16}{description}")
    print(f"  {'PATH':<16}a text file (.txt, .gz, .bz2, .xz), or a folder, tar or zip of text files;")
    print(f"  {'':<16}files called train, valid and test are the splits")
    print(f"  {'hf:NAME':<16}a Hugging Face dataset, streamed (extra: seqjax[hub])")
    print("tokenizers\n  bytes, chars, words, words-N, bpe-V, gpt2, cl100k_base")
    print(f"folders\n  corpora   {data_folder()}   (SEQJAX_DATA)\n  tokens    {cache_folder()}   (SEQJAX_CACHE)")
    return 0


def _prepare(options: argparse.Namespace, rest: list[str]) -> int:
    shared.no_more(rest)
    text = _text(options)
    for split in text.corpus.splits:
        began = time.monotonic()
        shard = text.shard(split)
        print(
            f"{split:<12}{len(shard.tokens):>14,} tokens  {shard.n_bytes:>14,} bytes  {time.monotonic() - began:.1f} s"
        )
    return 0


def _stats(options: argparse.Namespace, rest: list[str]) -> int:
    shared.no_more(rest)
    text = _text(options)
    print(
        f"{text.corpus.name}, sha256 {text.corpus.sha256[:16]}..., tokenizer {text.tokenizer.name}, "
        f"V = {text.tokenizer.vocab_size:,}"
    )
    print(f"{'split':<12}{'documents':>10}{'bytes':>14}{'tokens':>14}{'bytes/token':>13}{'bz2 bits/byte':>15}")
    for split, documents in text.corpus.splits.items():
        shard = text.shard(split)
        compressor, compressed = bz2.BZ2Compressor(9), 0
        for document in documents:
            for chunk in document.chunks():
                compressed += len(compressor.compress(chunk))
        compressed += len(compressor.flush())
        print(
            f"{split:<12}{len(shard.header['documents']):>10,}{shard.n_bytes:>14,}{len(shard.tokens):>14,}"
            f"{shard.n_bytes / len(shard.tokens):>13.3f}{8 * compressed / shard.n_bytes:>15.3f}"
        )
    return 0


def _text(options: argparse.Namespace) -> Any:
    from seqjax.data import cache_folder, load_corpus, load_tokenizer
    from seqjax.errors import printable
    from seqjax.tasks.text import Text
    from seqjax.training.progress import Progress

    progress = Progress(None)
    progress.say(f"reading {printable(options.corpus)}")
    corpus = load_corpus(options.corpus)
    for note in corpus.notes:
        progress.say(f"note: {note}")
    tokenizer = load_tokenizer(options.tokenizer, corpus, cache_folder())
    return Text(corpus, tokenizer, cache_folder(), progress.bytes)
