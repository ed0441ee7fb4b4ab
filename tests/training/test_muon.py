"""Muon against its equations in numpy, and which parameters it takes for matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from same_run import assert_same_run

from seqjax.config import OptimizerConfig
from seqjax.families import GRU, LSTM, RGLRU, Transformer, Window
from seqjax.training.loop import train, train_bundle
from seqjax.training.muon import matrix_axes
from seqjax.training.optimizer import make_optimizer

MUON = OptimizerConfig(name="muon", momentum=0.9)


def layer(name, array, *others):
    return {"layers": {name: array, **dict(others)}}


def run(gradients, family, config=MUON):
    """The directions of several steps."""
    optimizer = make_optimizer(config, family)
    state, found, update = jax.jit(optimizer.init)(gradients[0]), [], jax.jit(optimizer.update)
    for gradient in gradients:
        direction, state = update(gradient, state, gradient)
        found.append(direction)
    return found


def reference(gradients, beta=0.9):
    """The last direction of one matrix: momentum, Nesterov, and the polynomial on the singular values."""
    m = np.zeros_like(gradients[0])
    count = len(gradients)
    for g in gradients:
        m = beta * m + (1 - beta) * g
    n = beta * m / (1 - beta ** (count + 1)) + (1 - beta) * g / (1 - beta**count)
    U, s, Vt = np.linalg.svd(n, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return 0.2 * np.sqrt(max(n.shape)) * (U * s) @ Vt, s


def draws(*shape, steps=3):
    return np.random.default_rng(0).standard_normal((steps, *shape))


@pytest.mark.parametrize("shape", [(6, 6), (4, 10), (12, 5)])
def test_a_matrix_moves_along_the_orthogonal_factor_of_its_momentum(shape):
    """Two layers, each by itself; the reference goes by singular values, which the code never computes."""
    with jax.enable_x64(True):
        gradients = draws(2, *shape)
        found = run([layer("W_in", jnp.asarray(g)) for g in gradients], Transformer())[-1]["layers"]["W_in"]
    for index in range(2):
        want, s = reference(gradients[:, index])
        np.testing.assert_allclose(found[index], want, atol=1e-6)
        assert np.all((s > 0.3) & (s < 1.3))
        assert np.sqrt(np.mean(want**2)) == pytest.approx(0.2, rel=0.2)  # the size of an update of AdamW


def test_gates_and_heads_are_matrices_of_their_own():
    D, H, N, K = 5, 4, 2, 3
    gates, qkv, out = draws(1, D, 3 * H), draws(1, D, 3, N, K), draws(1, N, K, D)
    with jax.enable_x64(True):
        lstm = run([layer("W_x", jnp.asarray(g)) for g in gates], GRU(d_model=D, d_hidden=H))[-1]["layers"]
        heads = run(
            [layer("W_qkv", jnp.asarray(a), ("W_o", jnp.asarray(b))) for a, b in zip(qkv, out, strict=True)],
            Transformer(),
        )[-1]["layers"]
    for gate in range(3):
        columns = slice(gate * H, (gate + 1) * H)
        np.testing.assert_allclose(lstm["W_x"][0, :, columns], reference(gates[:, 0, :, columns])[0], atol=1e-6)
        want = reference(qkv[:, 0, :, gate].reshape(3, D, N * K))[0]
        np.testing.assert_allclose(heads["W_qkv"][0, :, gate].reshape(D, N * K), want, atol=1e-6)
    np.testing.assert_allclose(heads["W_o"][0].reshape(N * K, D), reference(out.reshape(3, N * K, D))[0], atol=1e-6)


def test_one_matrix_is_what_optax_makes_of_it():
    with jax.enable_x64(True):
        gradients = [{"first": {"W_x": jnp.asarray(g)}} for g in draws(6, 9)]
        whole = optax.contrib.muon(1.0, beta=0.9, consistent_rms=0.2)
        state, update = jax.jit(whole.init)(gradients[0]), jax.jit(whole.update)
        for gradient in gradients:
            want, state = update(gradient, state, gradient)
        found = run(gradients, Transformer())[-1]["first"]["W_x"]
    np.testing.assert_allclose(found, -want["first"]["W_x"], atol=1e-6)


def test_all_else_is_moved_by_adam():
    tree = {
        "embedding": draws(7, 4), "readout": draws(4, 7), "positions": draws(5, 4), "head": {"W": draws(4, 2)},
        "layers": {"b": draws(2, 4), "W_conv": draws(2, 3, 3, 4, 4)},
    }  # fmt: skip
    gradients = [jax.tree.map(lambda leaf, t=t: jnp.asarray(leaf[t], jnp.float32), tree) for t in range(3)]
    by_adam = run(gradients, LSTM(d_model=4), OptimizerConfig(name="adamw"))[-1]
    jax.tree.map(np.testing.assert_array_equal, run(gradients, LSTM(d_model=4))[-1], by_adam)


def test_every_matrix_of_a_family_is_one_of_muons():
    griffin = RGLRU(d_model=16, n_layers=3, blocks=("recurrent", "attention"))
    others = LSTM(d_model=4, d_hidden=6, n_layers=3), Transformer(d_model=4, n_heads=2, mlp="swiglu"), Window()
    for family in (griffin, *others):
        params = jax.eval_shape(lambda key, f=family: {n: i(key) for n, i in f.init(8).items()}, jax.random.key(0))
        for path, leaf in jax.tree.leaves_with_path(params):
            axes = matrix_axes(path, leaf.shape, getattr(family, "hidden", None))
            assert (axes is not None) == path[-1].key.startswith("W"), path
            if axes is not None:
                there = np.arange(leaf.size).reshape(leaf.shape)
                np.testing.assert_array_equal(axes.join(axes.split(there), leaf.shape), there)


@pytest.mark.slow
def test_a_bundle_of_rates_resumes_bit_equal_and_each_lane_is_its_solo_run(make_config, tmp_path, crash_at):
    rates, shared = (1e-2, 3e-3), {"optimizer.name": "muon", "model.base_width": 8, "train.checkpoint_every": 5}
    configs = [make_config("lstm", **shared, **{"optimizer.learning_rate": rate}) for rate in rates]
    whole, hurt = ([(c, tmp_path / name / str(i)) for i, c in enumerate(configs)] for name in ("whole", "hurt"))
    results = train_bundle(whole, devices=1, quiet=True)
    with crash_at(17):
        train_bundle(hurt, devices=1, quiet=True)
    train_bundle(hurt, devices=1, quiet=True)
    for (config, a), (_, b) in zip(whole, hurt, strict=True):
        assert_same_run(config, a, b)
    solo = train(configs[1], tmp_path / "solo", devices=1, quiet=True)
    assert results[1]["validation"]["loss"] == pytest.approx(solo["validation"]["loss"], rel=1e-4)
    assert results[0]["validation"]["loss"] != results[1]["validation"]["loss"]
