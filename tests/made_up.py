"""A made-up world of LSTMs and Transformers in which every claim has a known truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from seqjax.comparison.measured import Comparison, Measured, compare
from seqjax.trained.chains import Chains, make_chains

SIZES = (1e6, 1e7, 1e8, 1e9)
CONSTANTS = ((4.0, 3.2, 0.47), (3.4, 4.0, 0.56), (2.7, 4.9, 0.60), (2.3, 5.4, 0.62))  # Kaplan et al. 2020, D.5
Curve = Callable[[str, int, int, np.ndarray], np.ndarray]
"""(family, size rank, layers, positions) -> loss."""


def as_published(family: str, size: int, layers: int, position: np.ndarray) -> np.ndarray:
    """Transformers follow the published laws; LSTMs do too, up to a place that comes sooner in larger ones."""
    floor, scale, power = CONSTANTS[size]
    if family != "transformer":
        position = np.minimum(position, (110, 95, 80, 65)[size])
    depth = 0.02 * (layers == 1) if family == "lstm" else 0.01 * (layers == 2)
    return floor + scale * position**-power + depth * (position > 16)


def world(
    curve: Curve = as_published, *, context: int = 1024, characters: float = 4.3, noise: float = 0.004,
    text: float = 0.05, seeds: int = 2, tokens: float = 1e8, sizes: tuple[float, ...] = SIZES, short: bool = True,
    draws: int = 400,
) -> Comparison:  # fmt: skip
    """Measure that world: text noise that all models share, and noise of seeds."""
    chains = make_chains(context, characters, 20, 8)
    return compare(runs(curve, chains, noise, text, seeds, tokens, sizes, short), chains, characters, draws)


def difficulty(chains: Chains, text: float) -> list[np.ndarray]:
    """How hard the tokens of long and of short windows are for every model: by chain, and each by itself."""
    rng = np.random.default_rng(1)
    of_token = text * rng.standard_normal(10**6 + 1)
    of_chain = 0.3 * rng.standard_normal((chains.chains, 1, 1))
    windows = (chains.starts(10**6), chains.context), (chains.short_starts(10**6), chains.short)
    return [of_chain + of_token[starts[:, :, None] + np.arange(1, length + 1)] for starts, length in windows]


def runs(
    curve: Curve,
    chains: Chains,
    noise: float,
    text: float,
    seeds: int,
    tokens: float,
    sizes: tuple[float, ...],
    short: bool,
) -> list[Measured]:
    """The runs of that world."""
    rng = np.random.default_rng(0)
    text_CxWxT, short_text_CxWxT = difficulty(chains, text)
    found = []
    depths = [("lstm", 1), ("lstm", 2), ("lstm", 4), ("transformer", 2), ("transformer", 4), ("transformer", 6)]
    for size, params in enumerate(sizes):
        for family, layers in depths:
            lengths = [chains.context, *([8] if short and (family, layers) == ("transformer", 2) else [])]
            for length in lengths:
                loss_T = curve(family, size, layers, np.arange(1.0, length + 1))
                loss_T = loss_T - (0.1 if length == 8 else 0.0)
                for seed in range(seeds):
                    loss_CxWxT, short_CxWxT = (
                        loss_T[: text.shape[2]] + text[:, :, :length] for text in (text_CxWxT, short_text_CxWxT)
                    )
                    off = noise * rng.standard_normal()
                    found.append(
                        Measured(
                            run_id=f"{family}-{layers}-{params:g}-{length}-{seed}",
                            family=family,
                            layers=layers,
                            params=params * (1 + 0.01 * layers),
                            tokens=tokens,
                            flops=6 * params * tokens,
                            context=length,
                            seed=seed,
                            loss_CxP=chains.binned(loss_CxWxT + off, short_CxWxT + off),
                            late_Cx2=chains.early_and_late(loss_CxWxT + off),
                        )
                    )
    return found
