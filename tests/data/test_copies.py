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
def test_a_transformer_comes_down_to_the_floor(tmp_path):
    """Where the LSTMs stop falling, the record says: tests/experiments/test_rnn_vs_transformer.py."""
    copies = experiment.load("copies")
    corpus = copies.PROCESS.write(tmp_path / "corpus", 400_000)
    sweep = read_sweep(SWEEPS / "copies.yaml", {"data.corpus": str(corpus), "train.steps": 250})
    (config,) = (run.config for run in sweep.runs() if run.config.model.family == "transformer")
    floor = copies.PROCESS.copies_of(copies.PROCESS.floor(config.train.context_length))
    experiment.trained_as_by_a_user(config, tmp_path / "run")  # compiling well pays here
    found = copies.PROCESS.copies_of(copies.losses(tmp_path / "run"))
    assert np.abs(found - floor)[-16:].mean() < 0.1
    assert np.abs(found - floor).mean() < 0.15
    assert (found > floor - 0.1).all()
