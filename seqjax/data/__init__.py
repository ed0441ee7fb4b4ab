"""Text to tokens to batches: corpora, tokenizers, token shards on disk, batches as functions of (seed, step)."""

from __future__ import annotations

from seqjax.data.batches import evaluation_windows, gather_windows, segments_per_epoch, stream_batch, window_batch
from seqjax.data.corpora import CORPORA, load_corpus
from seqjax.data.corpus import Corpus, Document
from seqjax.data.split_names import SPLITS
from seqjax.data.tokenizers import Tokenizer, load_tokenizer
from seqjax.data.tokens import TokenShard, prepare_shard
from seqjax.host.folders import cache_folder, data_folder
