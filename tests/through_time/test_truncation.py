"""Truncated back-propagation: values stay, and gradients are those of a loop that forgets the past by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick, slow
from variants import recurrent

from seqjax.families import GRU, LSTM
from seqjax.layers import native
from seqjax.through_time import fast_and_lean
from seqjax.through_time.nonlinear import tabulate, unroll

VARIANTS = [("elman", "after"), ("lstm", "after"), ("gru", "after"), ("gru", "before")]
V, D, H, T, B = 5, 3, 4, 11, 2


def example(config, d_hidden=H, batch=B, seed=0):
    """Parameters, inputs of each token, first state, tokens, weights of outputs and last state in the loss."""
    rng = np.random.default_rng(seed)
    cell = replace(config, d_hidden=d_hidden)
    params = cell.init_cell(jax.random.key(seed), D)
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape), params)
    state = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), cell.cell_state(batch))
    last = jax.tree.map(lambda h: rng.standard_normal(h.shape), state)
    weights = rng.standard_normal((T, batch, d_hidden)), last
    return params, rng.standard_normal((V, D)), state, rng.integers(0, V, (T, batch)), weights


def weighted(h_TxBxH, last, weights):
    products = jax.tree.map(lambda a, b: (a.astype(b.dtype) * b).sum(), (h_TxBxH, last), weights)
    return sum(jax.tree.leaves(products))


def by_hand(config, arguments, tokens, weights, length, mask=None):
    """A Python loop in float64, one step after the other; every `length` steps the state becomes a constant."""
    cut_T = np.arange(T) % length == 0
    return _by_hand(config, arguments, tokens, weights, cut_T, mask)


@partial(jax.jit, static_argnums=0)
def _by_hand(config, arguments, tokens, weights, cut_T, mask):
    """One program for all lengths: the state is a constant before the steps where cut_T."""
    cell, dtype = config, "float64"

    def loss(params, embedding, state):
        outputs = []
        for t, tokens_B in enumerate(tokens):
            state = jax.tree.map(lambda h, t=t: jnp.where(cut_T[t] & (t > 0), jax.lax.stop_gradient(h), h), state)
            gates_BxG = cell.project(params, embedding[tokens_B][None], dtype)[0]
            moved = cell.step(params, state, gates_BxG, dtype)
            state = moved if mask is None else jax.tree.map(
                lambda a, b, t=t: jnp.where(mask[t][:, None], a, b), moved, state
            )  # fmt: skip
            outputs.append(jax.tree.leaves(state)[0])
        return weighted(jnp.stack(outputs), state, weights)

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(*arguments)


def unrolled(config, arguments, tokens, weights, length, how, mask=None, table=False, dtype="float64"):
    cell = config

    def loss(params, embedding, state):
        if table:
            params, x = tabulate(cell, params, embedding, dtype), tokens
        else:
            x = embedding[tokens]
        return weighted(*unroll(cell, params, x, state, dtype, how, mask, length), weights)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments)


def same(got, want, rtol=1e-9, atol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


@pytest.mark.parametrize("how", ["scan", "fast", slow("lean")])
@pytest.mark.parametrize("family, reset", VARIANTS)
def test_gradients_are_those_of_a_loop_that_forgets(family, reset, how, monkeypatch):
    """One step a piece, pieces that do not divide time, and all of time; in float64."""
    monkeypatch.setattr(fast_and_lean, "CHUNK", 2)
    config = recurrent(family, reset=reset)
    *arguments, tokens, weights = example(config)
    with jax.enable_x64(True):
        arguments, weights = jax.tree.map(jnp.asarray, (arguments, weights))
        whole = by_hand(config, arguments, tokens, weights, T)
        for length in (1, 4, T):
            want = by_hand(config, arguments, tokens, weights, length)
            got = unrolled(config, arguments, tokens, weights, length, how)
            same(got, want)
            np.testing.assert_allclose(got[0], whole[0], rtol=1e-12)
            differ = not np.allclose(got[1][0]["W_h"], whole[1][0]["W_h"], rtol=1e-3)
            assert differ == (length < T)


@pytest.mark.parametrize("how", ["scan", "fast", "lean"])
@pytest.mark.parametrize("table, turn", quick([(False, 1), (True, 1), (True, 2), (False, 4)], (True, 2)))
def test_with_masks_and_tables(how, table, turn, monkeypatch):
    """Also with several steps in one turn of the loop, as accelerators have them."""
    monkeypatch.setattr(native, "steps_in_a_turn", lambda: turn)
    config = GRU()
    *arguments, tokens, weights = example(config, seed=1)
    mask = np.random.default_rng(2).random((T, B)) < 0.6
    with jax.enable_x64(True):
        arguments, weights, mask = jax.tree.map(jnp.asarray, (arguments, weights, mask))
        want = by_hand(config, arguments, tokens, weights, 3, mask)
        same(unrolled(config, arguments, tokens, weights, 3, how, mask, table), want)


def test_nothing_comes_from_another_piece():
    """Losses of the last piece alone: the inputs before it have no gradient, those in it have."""
    config = LSTM()
    params, embedding, state, tokens, _ = example(config)
    params, x, state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, embedding[tokens], state))
    late = lambda x: unroll(config, params, x, state, "float32", "fast", None, 4)[0][-1].sum()  # noqa: E731
    d_x = np.asarray(jax.grad(late)(x))
    assert not d_x[:8].any() and all(d_x[t].any() for t in (8, 9, 10))


@pytest.mark.parametrize("family, reset", VARIANTS)
@pytest.mark.parametrize("runs", [slow(0), 3])
def test_in_compiled_functions_and_in_bundles(family, reset, runs):
    """Where there is a compiler: float32 beside the loop in float64, also vmapped over runs."""
    if not native.compiled():
        pytest.skip("no C++ compiler here, or compiling failed")
    config = recurrent(family, reset=reset)
    examples = [example(config, d_hidden=32, batch=8, seed=seed) for seed in range(runs or 1)]
    tokens, weights = examples[0][3:]
    with jax.enable_x64(True):
        want = [by_hand(config, jax.tree.map(jnp.asarray, one[:3]), tokens, weights, 4) for one in examples]
    each, weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), ([e[:3] for e in examples], weights))
    run = lambda *one: unrolled(config, one, tokens, weights, 4, "fast", dtype="float32")  # noqa: E731
    if runs:
        together = jax.vmap(run)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
        got = [jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(runs)]
    else:
        got = [run(*each[0])]
    same(got, want, rtol=1e-4, atol=1e-4)
