"""Width rules: a step changes a wide model as much as a narrow one."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.config import Config, OptimizerConfig, check, check_shared, run_id
from seqjax.families import GRU, LSTM, RGLRU, Elman, MinLSTM, Transformer, Window
from seqjax.families.family import Impossible
from seqjax.models import build_model
from seqjax.models.language_model import embedded
from seqjax.tasks.steering import Config as SteeringConfig
from seqjax.training.optimizer import make_optimizer
from seqjax.training.width import rate_factors

V, T, B, BASE, STEPS, RATE = 17, 8, 16, 16, 4, 2e-3
TRANSFORMER = Transformer(n_layers=2, n_heads=2, positions="rotary", norm="rmsnorm", initial="fan_in")
FAMILIES = [TRANSFORMER, LSTM(n_layers=2), GRU(n_layers=2), Elman(n_layers=2), RGLRU(n_layers=2), MinLSTM(n_layers=2)]
SEEDS = 3


def changes(family, optimizer="adamw"):
    """How far hidden states and logits are from where they began after a few steps, root mean squares."""
    model, update = build_model(family, V, T), make_optimizer(OptimizerConfig(name=optimizer), family)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T + 1)))

    def seen(params):
        h = family.run(params, embedded(family, params, tokens[:, :-1])).h_BxTxH
        return h, model.apply({"params": params}, tokens[:, :-1])[0]

    def loss(params):
        log_p = jax.nn.log_softmax(seen(params)[1])
        return -jnp.mean(jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1))

    def step(_, carry):
        params, state = carry
        direction, state = update.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(lambda p, u: p - RATE * u, params, direction), state

    def run(key):
        params = model.init(key, tokens[:, :-1])["params"]
        after, _ = jax.lax.fori_loop(0, STEPS, step, (params, update.init(params)))
        return [jnp.sqrt(jnp.mean((a - b) ** 2)) for a, b in zip(seen(after), seen(params), strict=True)]

    keys = jax.random.split(jax.random.key(0), SEEDS)
    return np.exp(np.mean(np.log(jax.jit(lambda keys: jax.lax.map(run, keys))(keys)), axis=1))


def growth(family, optimizer="adamw", widths=(16, 128)):
    """By which power of the width the changes of hidden states and of logits grow."""
    narrow, wide = (changes(family.widened(width), optimizer) for width in widths)
    return np.log(wide / narrow) / np.log(widths[1] / widths[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES[:2], FAMILIES[4]], ids=lambda family: family.family)
def test_changes_grow_with_the_width_but_not_under_mup(family):
    """The coordinate check of Yang et al. 2022 (arXiv 2203.03466, appendix D.1)."""
    assert np.all(growth(family) > 0.35)
    hidden, logits = growth(dataclasses.replace(family, base_width=BASE))
    assert abs(hidden) < 0.2
    assert -0.45 < logits < 0.2  # what the initial readout makes of changed states falls as the root of the width


def test_at_the_base_width_and_without_one_nothing_changes():
    for family in (*FAMILIES, Window(d_model=128)):
        at_base = dataclasses.replace(family, base_width=family.d_model)
        for there in (family, at_base):
            params = jax.eval_shape(build_model(there, V, T).init, jax.random.key(0), jnp.zeros((1, 1), int))["params"]
            if there is at_base:
                assert set(jax.tree.leaves(rate_factors(there, "adamw", params))) == {1.0}
        assert (at_base.readout_std, at_base.widening) == (family.readout_std, 1.0)
        assert run_id(Config(family)) != run_id(Config(at_base))


def test_factors_of_a_model_four_times_as_wide():
    family = LSTM(d_model=64, n_layers=1, base_width=16)
    params = jax.eval_shape(build_model(family, V, T).init, jax.random.key(0), jnp.zeros((1, 1), int))["params"]
    want = {"embedding": 0.5, "readout": 0.25, "readout_bias": 1.0}
    assert rate_factors(family, "adamw", params) == want | {"layers": {"W_h": 0.25, "W_x": 0.25, "b": 1.0}}
    assert rate_factors(family, "muon", params) == want | {"layers": {"W_h": 0.5, "W_x": 0.5, "b": 1.0}}
    assert family.readout_std == LSTM(d_model=16).readout_std / 4
    rooted = dataclasses.replace(family, alignment="none")
    want = {"embedding": 0.5, "readout": 0.5, "readout_bias": 1.0}
    assert rate_factors(rooted, "adamw", params) == want | {"layers": {"W_h": 0.5, "W_x": 0.5, "b": 1.0}}
    assert rooted.readout_std == LSTM(d_model=64).readout_std
    assert run_id(Config(rooted)) != run_id(Config(family))


def test_what_the_rule_does_not_cover_is_refused():
    mup = partial(LSTM, d_model=8, base_width=4)
    for config, key in (
        (Config(mup(tied_embeddings=True)), "model.base_width"),
        (Config(mup(), optimizer=OptimizerConfig(name="sgd")), "optimizer.name"),
        (Config(LSTM(d_model=8, alignment="none")), "model.alignment"),
    ):
        with pytest.raises(Impossible) as caught:
            check(config)
        assert caught.value.key == key
    with pytest.raises(Impossible, match="other tasks than text"):
        check_shared(SteeringConfig(model=mup()))
