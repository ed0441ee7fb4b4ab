"""Held-out windows for comparing positions: chains of overlapping windows, so that tokens occur at several positions.

The loss differs far more between tokens (2 to 3 nats) than between positions (hundredths of a nat). Overlapping windows
predict the same token with short and with long context, so its difficulty cancels. Every model reads the same windows,
so it cancels between models too.

The first positions of the long windows are few tokens, so they are also measured on many short windows.

Positions count from 1: the loss at position t is the loss of the token after t tokens of context.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqjax.errors import UserError

KAPLAN_CHARACTERS = 4.3
"""Characters of one token of Kaplan et al. 2020: 96 GB of text in 2.29e10 tokens (section 2.3)."""
EARLY = 100, 128
"""Positions after which LSTMs no longer improve, in tokens of Kaplan et al. 2020 (figure 7, right)."""
SHORT, SHORT_STRIDE = 32, 16  # length and stride of the short windows, tokens


@dataclass(frozen=True)
class Chains:
    """The windows to read, and the positions to compare on the same tokens.

    Attributes:
        context: T of the long windows; models with a shorter context read the first tokens of each.
        stride: between neighbouring windows of a chain, tokens.
        chains: number of chains, spread evenly over the text. They share no token, so whole chains are resampled.
        windows: number of windows of each chain.
        early, late: first and last position of two spans of equal length, a multiple of ``stride`` apart: late tokens
            of a window are early tokens of a later window. None if the context is too short.
    """

    context: int
    stride: int
    chains: int
    windows: int
    early: tuple[int, int] | None = None
    late: tuple[int, int] | None = None

    @property
    def _length(self) -> int:
        """Number of tokens of a chain, including the last target."""
        return self.context + (self.windows - 1) * self.stride + 1

    @property
    def short(self) -> int:
        """Tokens of context of the short windows."""
        return min(SHORT, self.context)

    def short_starts(self, n_tokens: int) -> np.ndarray:
        """Starts of the short windows over each whole chain, int64 [chains, short windows]."""
        return self.starts(n_tokens)[:, :1] + np.arange(0, self._length - self.short, SHORT_STRIDE)

    def starts(self, n_tokens: int) -> np.ndarray:
        """Starts of the windows, int64 [chains, windows].

        Raises:
            UserError: the text is too short for chains that share no token.
        """
        length = self._length
        if n_tokens < self.chains * length:
            raise UserError(
                f"{n_tokens:,} held-out tokens are too few for {self.chains} chains of {length:,} tokens; "
                f"{n_tokens // length} fit"
            )
        firsts = np.arange(self.chains, dtype=np.int64) * (n_tokens - length) // max(self.chains - 1, 1)
        return firsts[:, None] + self.stride * np.arange(self.windows)

    @property
    def apart(self) -> int:
        """Number of windows between the window where a token is late and the window where it is early."""
        return (self.late[0] - self.early[0]) // self.stride if self.early and self.late else 0

    def bins(self) -> list[tuple[int, int]]:
        """Spans of positions, both ends inclusive: quarter octaves that end at 1, 2, 4, 8, ..., then all positions."""
        ends = np.unique(np.round(2 ** np.arange(0, np.log2(self.context) + 0.25, 0.25)).astype(int))
        ends = np.append(ends[ends < self.context], self.context)
        return [*((int(a) + 1, int(b)) for a, b in itertools.pairwise([0, *ends])), (1, self.context)]

    def centers(self) -> np.ndarray:
        """Geometric mean of the positions of each quarter octave, [P - 1]."""
        return np.array([np.exp(np.log(np.arange(a, b + 1)).mean()) for a, b in self.bins()[:-1]])

    def as_fields(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Chains:
        """The inverse of `as_fields`, also after JSON, where tuples become lists."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})

    def binned(self, loss_CxWxT: np.ndarray, short_CxWxT: np.ndarray) -> np.ndarray:
        """Mean loss of each chain in each of the `bins`, [C, P]; NaN beyond the model's context.

        Args:
            loss_CxWxT: of the long windows, up to the model's context.
            short_CxWxT: of the short windows, likewise; used for the bins within them.
        """
        *bins, whole = self.bins()
        columns = []
        for first, last in bins:
            losses = short_CxWxT if last <= self.short else loss_CxWxT
            inside = losses[:, :, first - 1 : last] if last <= losses.shape[2] else losses[:, :, :0]
            columns.append(_means(inside))
        columns.append(_means(loss_CxWxT if loss_CxWxT.shape[2] == whole[1] else loss_CxWxT[:, :, :0]))
        return np.stack(columns, axis=1)

    def early_and_late(self, loss_CxWxT: np.ndarray) -> np.ndarray:
        """Mean loss of each chain on the same tokens with short and with long context, [C, 2]; NaN if not available."""
        if not (self.early and self.late) or loss_CxWxT.shape[2] < self.context:
            return np.full((len(loss_CxWxT), 2), np.nan)
        spans = (
            loss_CxWxT[:, self.apart :, self.early[0] - 1 : self.early[1]],
            loss_CxWxT[:, : -self.apart, self.late[0] - 1 : self.late[1]],
        )
        return np.stack([_means(span) for span in spans], axis=1)


def _means(loss_CxWxT: np.ndarray) -> np.ndarray:
    """Mean of each chain; NaN if it is empty."""
    if not loss_CxWxT.size:
        return np.full(len(loss_CxWxT), np.nan)
    return loss_CxWxT.mean(axis=(1, 2), dtype=np.float64)


def make_chains(context: int, characters_per_token: float, chains: int, windows: int) -> Chains:
    """Chains for models of this context, with the early span at Kaplan's tokens 100 to 128.

    The late span has the same length and ends with the context (or less than a stride before). Without at least the
    length of a span between them, there are no spans.
    """
    ratio = KAPLAN_CHARACTERS / characters_per_token
    first, last = (round(position * ratio) for position in EARLY)
    shift = context - last
    if shift < 2 * (last - first + 1):
        return Chains(context, max(1, context // 4), chains, windows)
    steps = max(1, round(4 * shift / context))
    stride = shift // steps
    late = first + steps * stride, last + steps * stride
    return Chains(context, stride, chains, windows, (first, last), late)
