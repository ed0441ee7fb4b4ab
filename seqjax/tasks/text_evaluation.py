"""Held-out loss: mean, bits per byte, and the mean at every position in the context, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from seqjax.config import Config
from seqjax.data import TokenShard, evaluation_windows, gather_windows, segments_per_epoch, stream_batch
from seqjax.host.numerics import pinned
from seqjax.host.wording import with_error
from seqjax.laws.position_bins import spans_of

Tree = Any
TokenLosses = Callable[[Tree, Any, Tree], tuple[jax.Array, Tree]]
"""Jitted ``(params, batch_BxT1, carry) -> (loss_BxT in nats, carry)``."""


@dataclass(frozen=True)
class Evaluation:
    """Loss on held-out text.

    Attributes:
        split: ``validation`` or ``test``.
        protocol: ``windows`` (zero state in each window) or ``streams`` (state carried over the whole split).
        windows: number of windows, or stream segments, read.
        tokens: number of tokens predicted.
        loss: mean, nats per token.
        loss_se: its standard error over windows, or over whole streams; None for a single window or stream.
        bits_per_byte: computed with the bytes of the whole split, see the function `bits_per_byte`.
        by_position: mean loss at each position of the context, nats, [T].
        by_position_se: standard errors of `by_position`, as `loss_se`, [T].
        by_bin_se: standard errors of the means over the bins of `seqjax.laws.position_bins`, as `loss_se`.
        by_source: mean loss of the windows that start in each source of the corpus, nats.
        unknown: share of the split's tokens that are ``<unk>``.
    """

    split: str
    protocol: str
    windows: int
    tokens: int
    loss: float
    loss_se: float | None
    bits_per_byte: float
    by_position: list[float]
    by_position_se: list[float | None]
    by_bin_se: list[float | None]
    by_source: dict[str, float]
    unknown: float

    def summary(self) -> str:
        """One line: loss with its standard error, bits per byte, number of windows."""
        what = "windows" if self.protocol == "windows" else "stream segments"
        return (
            f"{with_error(self.loss, self.loss_se)} nats/token, {self.bits_per_byte:.4f} bits/byte"
            f"{unknown_note(self.unknown)} ({self.windows:,} {what})"
        )


@pinned()
def evaluate(
    config: Config, shard: TokenShard, split: str, token_losses: TokenLosses, params: Tree, carry: Tree, windows: int
) -> Evaluation:
    """Evaluate on the fixed held-out windows. A run on streams is evaluated on the whole split with carried state.

    Args:
        carry: initial recurrent state for B = train.batch_size streams; None for windows.
        windows: number of windows, fewer if the split is too short; not used for streams.
    Raises:
        UserError: the split is shorter than one window, or than one segment of B streams.
    """
    pieces = []
    for batch_BxT1 in held_out_batches(config, shard, windows):
        loss_BxT, carry = token_losses(params, batch_BxT1, carry)
        carry = carry if config.data.batching == "streams" else None
        pieces.append(np.asarray(loss_BxT))
    return summarise(config, shard, split, pieces, windows)


def held_out_batches(config: Config, shard: TokenShard, windows: int) -> Iterator[np.ndarray]:
    """The batches int32 [B, T+1] of an evaluation, in order: windows, or the segments of B streams."""
    context = config.train.context_length
    if config.data.batching == "streams":
        streams = config.train.batch_size
        for segment in range(segments_per_epoch(len(shard.tokens), streams, context)):
            yield stream_batch(shard.tokens, segment, streams, context)[0]
        return
    starts = evaluation_windows(shard.tokens, windows, context)
    size = min(config.evaluation.batch_size, len(starts))
    for first in range(0, len(starts), size):
        chosen = starts[first : first + size]
        padded = np.concatenate([chosen, np.repeat(chosen[-1:], size - len(chosen))])  # one compiled shape
        yield gather_windows(shard.tokens, padded, context)


def summarise(config: Config, shard: TokenShard, split: str, losses: Sequence[np.ndarray], windows: int) -> Evaluation:
    """The evaluation from the losses BxT of all batches of `held_out_batches`."""
    losses_WxT = np.concatenate(losses).astype(np.float64)
    starts = None
    if config.data.batching == "windows":
        starts = evaluation_windows(shard.tokens, windows, config.train.context_length)
        losses_WxT = losses_WxT[: len(starts)]  # the last batch was filled up
    means_W = losses_WxT.mean(axis=1)
    means_WxK = np.stack([losses_WxT[:, span].mean(axis=1) for span in spans_of(losses_WxT.shape[1])], axis=1)
    streams = config.train.batch_size if starts is None else len(losses_WxT)  # a window is a stream of one segment
    loss = float(means_W.mean())
    return Evaluation(
        split=split,
        protocol=config.data.batching,
        windows=len(losses_WxT),
        tokens=losses_WxT.size,
        loss=loss,
        loss_se=_standard_error(_of_streams(means_W, streams)),
        bits_per_byte=shard_bits_per_byte(loss, shard),
        by_position=losses_WxT.mean(axis=0).tolist(),
        by_position_se=[_standard_error(column) for column in _of_streams(losses_WxT, streams).T],
        by_bin_se=[_standard_error(column) for column in _of_streams(means_WxK, streams).T],
        by_source=_by_source(shard, starts, means_W) if starts is not None else {},
        unknown=shard.coverage.n_unknown / len(shard.tokens),
    )


def bits_per_byte(loss: float, tokens: int, n_bytes: int, n_unknown_bytes: int = 0) -> float:
    """Nats per token to bits per byte of text: (loss / ln 2 * tokens + 8 * unknown bytes) / bytes.

    Text behind ``<unk>`` counts 8 bits a byte, as if it were spelled out. So a smaller vocabulary does not lower the
    number. With every tokenizer it is the length of a code for the whole text.
    """
    return (loss / math.log(2) * tokens + 8 * n_unknown_bytes) / n_bytes


def shard_bits_per_byte(loss: float, shard: TokenShard) -> float:
    """`bits_per_byte` of the text of a split."""
    return bits_per_byte(loss, len(shard.tokens), shard.coverage.n_spelled, shard.coverage.n_unknown_bytes)


def unknown_note(share: float) -> str:
    """The note beside bits per byte if some tokens are ``<unk>``; else ""."""
    return f" ({share:.2%} of the tokens are <unk>: their text at 8 bits a byte)" if share else ""


def _of_streams(losses: np.ndarray, streams: int) -> np.ndarray:
    """Mean losses [B, ...] of each stream from those of its segments: segments of one stream are not independent."""
    return losses.reshape(-1, streams, *losses.shape[1:]).mean(axis=0)


def _standard_error(values: np.ndarray) -> float | None:
    """Standard error of the mean; None for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _by_source(shard: TokenShard, starts: np.ndarray, means: np.ndarray) -> dict[str, float]:
    documents = shard.header["documents"]
    firsts = np.array([first for _, _, first in documents])
    sources = np.array([source for _, source, _ in documents])
    of_window = sources[np.searchsorted(firsts, starts, side="right") - 1]
    return {str(source): float(means[of_window == source].mean()) for source in np.unique(of_window)}
