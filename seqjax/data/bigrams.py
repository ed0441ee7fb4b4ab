"""Unigrams and bigrams of tokens by counting. The bigram's loss is the best for a model that sees one token."""

from __future__ import annotations

import numpy as np


def unigram(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """p(b) = (c(b) + 1) / (n + V), from the counts c of n tokens: float64 [V] (Laplace)."""
    return (np.bincount(tokens.ravel(), minlength=vocab_size) + 1.0) / (tokens.size + vocab_size)


def bigram(pairs_Px2: np.ndarray, vocab_size: int) -> np.ndarray:
    """p(b | a) = (c(a b) + k(a) p(b)) / (c(a) + k(a)), with k(a) the number of different followers of a.

    Interpolated with the unigram of the second tokens, without a parameter to tune (Witten & Bell 1991, IEEE Trans.
    Information Theory 37(4), method C). If a was never seen, p(b).

    Args:
        pairs_Px2: token and follower, below ``vocab_size``.
    Returns:
        float64 [V, V], [a, b]; meant for vocabularies of a few thousand tokens.
    """
    firsts, seconds = pairs_Px2[:, 0].astype(np.int64), pairs_Px2[:, 1].astype(np.int64)
    counts_VxV = np.bincount(firsts * vocab_size + seconds, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    followers_Vx1 = (counts_VxV > 0).sum(axis=1, keepdims=True)
    p_V = unigram(seconds, vocab_size)
    return (counts_VxV + followers_Vx1 * p_V) / np.where(
        followers_Vx1 > 0, counts_VxV.sum(axis=1, keepdims=True) + followers_Vx1, 1
    ) + np.where(followers_Vx1 > 0, 0.0, p_V)


def pairs_of(windows_WxT1: np.ndarray) -> np.ndarray:
    """Every token of the windows with its follower: [W T, 2]."""
    return np.stack([windows_WxT1[:, :-1].ravel(), windows_WxT1[:, 1:].ravel()], axis=1)


def cross_entropies(train_Px2: np.ndarray, held_out_Px2: np.ndarray, vocab_size: int) -> tuple[float, float]:
    """Mean - log p of the held-out second tokens in nats, by the unigram and by the bigram of the training pairs."""
    p_V, p_VxV = unigram(train_Px2[:, 1], vocab_size), bigram(train_Px2, vocab_size)
    by_unigram = -np.log(p_V[held_out_Px2[:, 1]]).mean()
    return float(by_unigram), float(-np.log(p_VxV[held_out_Px2[:, 0], held_out_Px2[:, 1]]).mean())
