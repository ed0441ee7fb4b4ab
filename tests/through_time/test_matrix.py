"""The matrix state: pieces against steps, steps against closed forms, and what its stabilisers are for."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick

from seqjax.through_time.delta import DELTA, inverse
from seqjax.through_time.exponential import EXPONENTIAL, Memory, no_memory
from seqjax.through_time.matrix import GATED, GATED_ROWS, run, watch

R, B, T, N, K, P = 2, 2, 11, 2, 3, 4
RULES = {"gate": GATED, "shared": GATED, "rows": GATED_ROWS, "delta": DELTA, "exponential": EXPONENTIAL}


def example(rule, times=T, strong=1.0):
    """Queries, keys of length 1, values, gates and a state that is not zero, for R runs, float64.

    `strong` is a factor on log g.
    """
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal((R, B, *shape))

    def log_sigmoid(x):
        return -strong * np.log1p(np.exp(-x))

    heads = () if rule == "shared" else (N,)
    q, k, v = draw(times, *heads, K), draw(times, *heads, K), draw(times, N, P)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    log_g = log_sigmoid(draw(times, N, K) if rule == "rows" else draw(times, N))
    others = {"delta": [2 / (1 + np.exp(-draw(times, N)))], "exponential": [2 * draw(times, N)]}.get(rule, [])
    S = draw(N, K, P)
    return q, k, v, log_g, *others, Memory(S, draw(N, K), draw(N)) if rule == "exponential" else S


def plain(state):
    """The state without the scale exp(-m), which is free."""
    if not isinstance(state, Memory):
        return state
    return state.S * jnp.exp(state.m)[..., None, None], state.n * jnp.exp(state.m)[..., None]


def one_run(rule, arrays, dtype, mask, way, chunk):
    *inputs, state = arrays
    return run(RULES[rule]._replace(chunk=chunk), tuple(inputs), state, dtype, mask, way)


def call(rule, arrays, dtype, mask=None, way="chunks", chunk=64):
    """(y, state) of every run, in one program."""
    return jax.jit(jax.vmap(lambda arrays: one_run(rule, arrays, dtype, mask, way, chunk)))(arrays)


def with_gradients(rule, arrays, dtype, mask=None, way="chunks", chunk=64):
    """(y, state) of every run, and the gradient of a sum of both with respect to all arrays, in one program."""

    def loss(arrays):
        y, state = one_run(rule, arrays, dtype, mask, way, chunk)
        found = (y if mask is None else jnp.where(mask[..., None, None], y, 0.0), plain(state))
        return sum((jnp.cos(jnp.arange(a.size)).reshape(a.shape) * a).sum() for a in jax.tree.leaves(found)), found

    (_, found), grads = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))(arrays)
    return found, grads


def in_float32(arrays):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), arrays)


def assert_close(got, want, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), got, want)


@pytest.mark.parametrize("rule", quick(RULES, "shared", "delta", "exponential"))
def test_pieces_are_steps(rule):
    """Values and gradients in float64: runs under vmap, a carried state, padding, T no multiple of the piece."""
    mask = np.arange(T) < np.array([[T], [5]])
    with jax.enable_x64(True):
        arrays = jax.tree.map(jnp.asarray, example(rule))
        want = with_gradients(rule, arrays, "float64", mask, way="steps")
        got = with_gradients(rule, arrays, "float64", mask, chunk=4)
    (y, state), grads = got
    assert y.shape == (R, B, T, N, P) and y.dtype == np.float64
    assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves((state, grads[:-1])))


@pytest.mark.parametrize("rule", RULES)
def test_steps_are_the_closed_form(rule):
    """y_t = sum_j q_t M_t .. M_{j+1} w_j k_j^T v_j over all writes j <= t, the state before them included."""
    with jax.enable_x64(True):
        got, _ = call(rule, jax.tree.map(jnp.asarray, example(rule)), "float64", way="steps")
    q, k, v, log_g, *others, state = jax.tree.map(lambda leaf: leaf[0, 1], example(rule))
    q, k = (np.broadcast_to(a.reshape(T, -1, K), (T, N, K)) for a in (q, k))
    S = state.S * np.exp(state.m)[:, None, None] if rule == "exponential" else state
    for head in range(N):
        for t in range(T):
            read, total = q[t, head], 0.0
            weight = np.zeros(t + 1)  # how much of v_j is read
            for j in range(t, -1, -1):
                strength = {"delta": others[0][j, head], "exponential": np.exp(others[0][j, head])} if others else {}
                weight[j] = strength.get(rule, 1.0) * (read @ k[j, head])
                total = total + weight[j] * v[j, head]
                if rule == "delta":
                    read = read - strength[rule] * (read @ k[j, head]) * k[j, head]
                read = np.exp(log_g[j, head]) * read
            y = total + read @ S[head]
            if rule == "exponential":
                y = y / max(abs(weight.sum() + read @ (state.n[head] * np.exp(state.m[head]))), 1.0)
            np.testing.assert_allclose(got[0, 1, t, head], y, rtol=1e-9, atol=1e-9)


def test_retention_is_its_decay_matrix():
    """Sun et al. 2023, equation 5: (Q K^T * D) V with D_ij = g^(i - j); float32, 200 steps in pieces of 64."""
    times = 200
    q, k, v, _, S = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float32), example("gate", times))
    g_N = 1 - 2.0 ** (-5 - np.arange(N))
    log_g = jnp.broadcast_to(jnp.asarray(np.log(g_N), jnp.float32), (B, times, N))
    y, _ = jax.jit(partial(run, GATED, dtype="float32"))((q, k, v, log_g), 0 * S)
    ages = np.arange(times)[:, None] - np.arange(times)[None]
    D = np.where(ages >= 0, g_N[:, None, None] ** np.maximum(ages, 0), 0.0)
    want = np.einsum("BINK,BJNK,NIJ,BJNP->BINP", *(np.asarray(a, np.float64) for a in (q, k, D, v)))
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", quick(RULES, "gate", "exponential"))
def test_padding_leaves_the_state_unchanged(rule):
    """Also where whole pieces are padding."""
    arrays = in_float32(example(rule))
    _, state = call(rule, arrays, "float32", np.zeros((B, T), bool), chunk=4)
    assert_close(plain(state), plain(arrays[-1]), rtol=1e-6)


@pytest.mark.parametrize("rule", quick(RULES, "exponential"))
def test_gates_near_zero_in_long_pieces(rule):
    """log g down to -1000, thousands in the sum over a piece: finite with gradients, and equal to the steps."""
    arrays = in_float32(example(rule, 90, strong=300.0))
    (y, _), _ = got = with_gradients(rule, arrays, "float32")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    np.testing.assert_allclose(y, call(rule, arrays, "float32", way="steps")[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", quick(RULES, "shared"))
def test_bfloat16(rule):
    arrays = in_float32(example(rule))
    (y, _), _ = got = with_gradients(rule, arrays, "bfloat16", chunk=4)
    want, _ = call(rule, arrays, "float32", way="steps")
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert 0 < np.abs(y - want).max() < 0.1 * np.abs(want).max()


def test_inverse_with_equal_keys():
    """Powers of A have entries up to 10^18 here; the inverse has entries up to 2. It is exact in float32."""
    A = np.tril(np.full((64, 64), 2.0), -1)
    np.testing.assert_allclose(jax.jit(inverse)(jnp.asarray(A, jnp.float32)), np.linalg.inv(np.eye(64) + A), atol=1e-5)


def test_m_keeps_large_input_gates_finite():
    """log i of 500 overflows exp; the normaliser divides it away again. A query of zeros reads zeros."""
    q, k, v, log_f, log_i, _ = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float32), example("exponential"))
    read = jax.jit(partial(run, EXPONENTIAL, state=no_memory(B, N, K, P), dtype="float32"))
    y, _ = read((q, k, v, log_f, 500.0 + log_i))
    np.testing.assert_allclose(y, read((q, k, v, log_f, 60.0 + log_i))[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(read((0 * q, k, v, log_f, 500.0 + log_i))[0], 0.0)


@pytest.mark.parametrize("rule", quick(RULES, "exponential"))
def test_watched_states(rule):
    """The same values with the states after every step; a nudge of a state changes what is read from then on."""
    *inputs, state = in_float32(jax.tree.map(lambda leaf: leaf[0], example(rule)))
    no_nudges = jax.tree.map(lambda leaf: jnp.zeros((T, *leaf.shape)), state)
    seen = jax.jit(partial(watch, RULES[rule], dtype="float32"))
    y, last, states = seen(tuple(inputs), state, nudges=no_nudges)
    want, want_last = jax.jit(partial(run, RULES[rule], dtype="float32"))(tuple(inputs), state)
    assert_close((y, plain(last)), (want, plain(want_last)), rtol=1e-4, atol=1e-4)
    assert_close(jax.tree.map(lambda leaf: leaf[-1], states), last)
    assert jax.tree.map(jnp.shape, states) == jax.tree.map(jnp.shape, no_nudges)
    nudges = jax.tree.map(lambda leaf: leaf.at[4].set(0.5), no_nudges)
    moved, _, _ = seen(tuple(inputs), state, nudges=nudges)
    np.testing.assert_array_equal(moved[:, :4], y[:, :4])
    assert (np.abs(moved - y)[:, 4] > 0).all()
