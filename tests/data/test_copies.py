"""Copies at log-uniform distances: the text, and its floor against brute force."""

from __future__ import annotations

import itertools
from pathlib import Path

import experiment
import numpy as np
import pytest

from seqjax.data.copies import Copies
from seqjax.sweeps.grid import read_sweep

SWEEPS = Path(__file__).parents[2] / "configs" / "sweeps"
MODELS = {("transformer", 64), ("lstm", 128)}  # family and width


def test_every_copy_is_of_the_symbol_so_many_units_back():
    text = Copies(symbols=8, distances=4).text(200, seed=3)
    units = [text[i : i + 3] for i in range(0, len(text), 3)]
    for n in range(8, 200):
        symbol, distance, copy = units[n]
        assert copy == units[n - 2 ** int(distance)][0].lower()
        assert symbol.isupper()


@pytest.mark.parametrize(("symbols", "distances", "units"), [(3, 2, 4), (8, 3, 5), (4, 4, 5)])
def test_the_floor_is_that_of_a_reader_who_tries_every_history(symbols, distances, units):
    """For all draws of distances: a copy is certain if its original, or an earlier copy of it, lies in the window."""
    losses = np.zeros(units)
    for drawn in itertools.product(range(distances), repeat=units):
        copied = set()
        for n, j in enumerate(drawn):
            original = n - 2**j
            losses[n] += 0.0 if original >= 0 or original in copied else np.log(symbols)
            copied.add(original)
    losses /= distances**units
    process = Copies(symbols, distances)
    np.testing.assert_allclose(process.copies_of(process.floor(3 * units))[:units], losses, atol=1e-12)


def test_symbols_and_distances_cannot_be_foreseen():
    floor = Copies(symbols=8, distances=5).floor(192)
    np.testing.assert_allclose(floor[2::3], np.log(8))
    np.testing.assert_allclose(floor[0::3], np.log(5))
    assert floor[-2] == 0.0


@pytest.mark.parametrize("changes", [{"symbols": 27}, {"distances": 11}, {"symbols": 1}])
def test_more_letters_than_there_are_is_told(changes):
    with pytest.raises(ValueError, match="allowed"):
        Copies(**changes)


@pytest.mark.slow
def test_the_families_part_on_it_as_theory_says(tmp_path):
    """A Transformer comes down to the floor; an LSTM learns some copies, forgets the others, and stops falling.

    Half a minute of training. The LSTM of 128 units does better than knowing nothing, ln 8 = 2.08 nats, but stays far
    above the floor and gains less than 0.1 from the late context, in which the Transformer comes down to the floor.
    """
    copies = experiment.load("copies")
    corpus = copies.PROCESS.write(tmp_path / "corpus", 400_000)
    sweep = read_sweep(SWEEPS / "copies.yaml", {"data.corpus": str(corpus), "train.steps": 250})
    chosen = [p.config for p in sweep.runs() if (p.config.model.family, p.config.model.d_model) in MODELS]
    floor = copies.PROCESS.copies_of(copies.PROCESS.floor(chosen[0].train.context_length))
    losses = {}
    for config in chosen:
        folder = tmp_path / config.model.family
        experiment.trained_as_by_a_user(config, folder)  # compiling well pays here
        losses[config.model.family] = copies.PROCESS.copies_of(copies.losses(folder))
    transformer, lstm = losses.values()
    assert np.abs(transformer - floor)[-16:].mean() < 0.1
    assert np.abs(transformer - floor).mean() < 0.15
    assert lstm[-16:].mean() < 1.9
    assert (lstm - floor)[-16:].mean() > 1.0
    assert lstm[16:24].mean() - lstm[-8:].mean() < 0.1
    assert (lstm > floor - 0.1).all() and (transformer > floor - 0.1).all()
