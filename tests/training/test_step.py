"""The train step against optax, against the full batch, in bfloat16, on two devices, and past a NaN."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import slow

from seqjax.config import Config
from seqjax.models import group_of
from seqjax.tasks.text import make_model, make_objective, next_token_loss
from seqjax.training.lanes import Program, make_program
from seqjax.training.optimizer import learning_rates, make_optimizer
from seqjax.training.state import Hyper, TrainState, init_state
from seqjax.training.step import train_step

V = 50
HYPER = Hyper(jnp.float32(1e-2), jnp.float32(0.1))


def batch(config: Any, seed: int = 0) -> np.ndarray:
    shape = (config.train.batch_size, config.train.context_length + 1)
    return np.random.default_rng(seed).integers(0, V, shape, np.int32)


def first_state(config: Any) -> TrainState:
    optimizer, train = make_optimizer(config.optimizer, config.model), config.train
    carry = make_model(config, V).initial_state(train.batch_size) if config.data.batching == "streams" else None
    init_params = make_objective(config, V).init
    return jax.jit(partial(init_state, init_params, optimizer, train.seed, train.init_scale))(carry)


def step_of(config: Any) -> Callable[..., Any]:
    return jax.jit(partial(
        train_step, loss=next_token_loss(make_model(config, V)),
        optimizer=make_optimizer(config.optimizer, config.model), clip_norm=config.optimizer.clip_norm,
        accumulation=config.train.accumulation,
    ))  # fmt: skip


def assert_close(a: Any, b: Any, **tolerance: float) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), a, b)


def test_accumulation_equals_the_full_batch(make_config: Any, family: str) -> None:
    whole = make_config(family, **{"optimizer.name": "sgd"})
    pieces = make_config(family, **{"optimizer.name": "sgd", "train.accumulation": 4})
    state, step, step_in_pieces = first_state(whole), step_of(whole), step_of(pieces)
    expected, metrics = step(state, batch(whole), HYPER)
    found, metrics_in_pieces = step_in_pieces(state, batch(whole), HYPER)
    assert_close(found.params, expected.params, rtol=1e-5, atol=1e-7)
    assert_close(metrics_in_pieces, metrics, rtol=1e-5)


def test_accumulation_keeps_each_stream_with_its_state(make_config: Any) -> None:
    changes = {"data.batching": "streams", "optimizer.name": "sgd"}
    whole, pieces = make_config("lstm", **changes), make_config("lstm", **changes, **{"train.accumulation": 4})
    state, step, step_in_pieces = first_state(whole), step_of(whole), step_of(pieces)
    state = state.replace(carry=jax.tree.map(lambda h: jax.random.normal(jax.random.key(1), h.shape), state.carry))
    expected, _ = step(state, batch(whole), HYPER)
    found, _ = step_in_pieces(state, batch(whole), HYPER)
    assert_close(found.carry, expected.carry, rtol=1e-5, atol=1e-6)
    assert_close(found.params, expected.params, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd"])
def test_update_equals_optax(make_config: Any, name: str) -> None:
    config = make_config("lstm", **{"optimizer.name": name, "optimizer.clip_norm": 0.05, "optimizer.weight_decay": 0.1})
    state, step = first_state(config), step_of(config)
    rate, decay = 1e-2, 0.1

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: group_of(path) in ("matrices", "readout"), params)

    theirs = {
        "adamw": optax.adamw(rate, b1=0.9, b2=0.99, eps=1e-8, weight_decay=decay, mask=mask),
        "adafactor": optax.chain(
            optax.adafactor(multiply_by_parameter_scale=False),
            optax.add_decayed_weights(-decay, mask=mask),
            optax.scale(rate),
        ),
        "sgd": optax.chain(optax.trace(0.9), optax.add_decayed_weights(decay, mask=mask), optax.scale(-rate)),
    }[name]
    reference = optax.chain(optax.clip_by_global_norm(0.05), theirs)
    params, opt_state = state.params, reference.init(state.params)
    gradient = jax.jit(jax.grad(next_token_loss(make_model(config, V)), has_aux=True))
    update = jax.jit(reference.update)
    for seed in range(3):
        grads, _ = gradient(params, batch(config, seed), None, jax.random.key(0))
        updates, opt_state = update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        state, _ = step(state, batch(config, seed), HYPER)
    assert_close(state.params, params, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules_equal_optax(make_config: Any, warmup: int) -> None:
    steps, peak, floor = 100, 3e-3, 0.1
    theirs = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, steps - warmup, floor),
        "linear": optax.linear_schedule(peak, peak * floor, steps - warmup),
        "step": optax.exponential_decay(peak, 20, 0.5, staircase=True),
    }
    for name, schedule in theirs.items():
        config = make_config("lstm", **{
            "optimizer.schedule": name, "optimizer.learning_rate": peak, "optimizer.warmup_steps": warmup,
            "optimizer.final_fraction": floor, "optimizer.step_every": 20, "train.steps": steps,
        })  # fmt: skip
        found = learning_rates(config.optimizer, steps)
        np.testing.assert_allclose(found[warmup:], [schedule(t) for t in range(steps - warmup)], rtol=1e-5)
        np.testing.assert_allclose(found[:warmup], peak * np.arange(1, warmup + 1) / max(1, warmup), rtol=1e-6)


def test_inverse_sqrt_is_the_transformer_papers(make_config: Any) -> None:
    config = make_config("lstm", **{
        "optimizer.schedule": "inverse_sqrt", "optimizer.learning_rate": 64**-0.5 * 10**-0.5,
        "optimizer.warmup_steps": 10, "train.steps": 50,
    })  # fmt: skip
    t = np.arange(1, 51)  # Vaswani et al. 2017, equation 3, with d_model 64 and 10 warmup steps
    np.testing.assert_allclose(
        learning_rates(config.optimizer, 50), 64**-0.5 * np.minimum(t**-0.5, t * 10**-1.5), rtol=1e-6
    )


def test_bfloat16_follows_float32(make_config: Any, family: str) -> None:
    configs = {dtype: make_config(family, **{"train.compute_dtype": dtype}) for dtype in ("float32", "bfloat16")}
    losses: dict[str, list[float]] = {dtype: [] for dtype in configs}
    first = first_state(configs["bfloat16"])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(first.params))
    tokens, hyper = batch(configs["float32"]), Hyper(jnp.float32(3e-3), jnp.float32(0.1))
    for dtype, config in configs.items():
        state, step = first, step_of(config)
        for _ in range(30):
            state, metrics = step(state, tokens, hyper)
            losses[dtype].append(float(metrics["loss"]))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    assert losses["float32"][-1] < losses["float32"][0] - 0.3  # it learns the one batch
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_a_dead_run_stays_as_it_was(make_config: Any) -> None:
    state, step = first_state(make_config("gru")), step_of(make_config("gru"))
    state, _ = step(state, batch(make_config("gru")), HYPER)
    poisoned = state.replace(params={**state.params, "readout_bias": state.params["readout_bias"].at[0].set(jnp.nan)})
    after, metrics = step(poisoned, batch(make_config("gru")), HYPER)
    assert not metrics["alive"] and not np.isfinite(metrics["loss"])
    after = after.replace(params=state.params)  # even from healthy parameters a dead run does not move again
    later, metrics = step(after, batch(make_config("gru")), HYPER)
    assert np.isfinite(metrics["loss"]) and not metrics["alive"]
    assert_close(later.replace(alive=True), after.replace(alive=True), rtol=0)
    assert int(later.step) == 1


def test_an_infinite_update_is_never_applied(make_config: Any) -> None:
    state, step = first_state(make_config("elman")), step_of(make_config("elman"))
    after, metrics = step(state, batch(make_config("elman")), Hyper(jnp.float32(jnp.inf), jnp.float32(0.0)))
    assert np.isfinite(metrics["loss"]) and not metrics["alive"]  # it is the update that is not finite
    assert_close(after.params, state.params, rtol=0)


def test_two_devices_give_what_one_gives(make_config: Any) -> None:
    assert jax.device_count() == 2
    config = make_config("lstm", **{"data.batching": "streams"})
    results = []
    for devices in (1, 2):
        program = make_program(config, make_objective(config, V), devices)
        state, metrics = three_steps(program, config, (3,))
        assert len(metrics["loss"].sharding.device_set) == devices
        results.append((jax.device_get(state), jax.device_get(metrics)))
    assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def three_steps(program: Program, config: Config, calls: tuple[int, ...], resets: tuple[int, ...] = ()) -> Any:
    """State and metrics after so many steps in each call; the carry is zeroed before some of the steps."""
    state, first, found = program.init(), 0, []
    for count in calls:
        batches = [batch(config, first + k if k < count else 9) for k in range(program.steps_at_once)]
        hyper = Hyper(jnp.full(len(batches), HYPER.learning_rate), HYPER.weight_decay)
        resets_K = np.isin(first + np.arange(len(batches)), resets)
        state, metrics = program.steps(state, program.put(np.stack(batches)), hyper, resets_K, count)
        found.append(jax.tree.map(lambda x, count=count: x[:count], metrics))
        first += count
    return state, jax.tree.map(lambda *xs: jnp.concatenate(xs), *found)


@pytest.mark.parametrize("calls", [slow((1, 1, 1)), (2, 1)])
def test_many_steps_in_one_call_are_the_steps(make_config: Any, family: str, calls: tuple[int, ...]) -> None:
    """Bit for bit however they are cut into calls, and the step itself within rounding."""
    config = make_config(family)
    program = make_program(config, make_objective(config, V), devices=1)
    state, metrics = three_steps(program, config, calls)
    as_one = three_steps(program, config, (3,))
    jax.tree.map(np.testing.assert_array_equal, (state, metrics), as_one)
    alone, step = first_state(config), step_of(config)
    for t in range(3):
        alone, one = step(alone, batch(config, t), HYPER)
        np.testing.assert_allclose(metrics["loss"][t], one["loss"], rtol=1e-5)
    assert int(state.step) == int(alone.step) == 3


def test_the_carry_is_zeroed_where_asked(make_config: Any) -> None:
    config = make_config("gru", **{"data.batching": "streams"})
    program = make_program(config, make_objective(config, V), devices=1)
    (kept, _), (zeroed, metrics) = (three_steps(program, config, (3,), resets) for resets in ((), (2,)))
    assert not np.array_equal(jax.tree.leaves(kept.carry)[0], jax.tree.leaves(zeroed.carry)[0])
    state, _ = three_steps(program, config, (2,))
    _, one = step_of(config)(state.replace(carry=program.zero_carry()), batch(config, 2), HYPER)
    np.testing.assert_allclose(metrics["loss"][2], one["loss"], rtol=1e-5)


def test_init_scale_multiplies_weights_alone(make_config: Any) -> None:
    one, two = (first_state(make_config("lstm", **{"train.init_scale": scale})) for scale in (1.0, 2.0))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one.params), jax.tree.leaves(two.params), strict=True):
        factor = 1.0 if group_of(path) in ("vectors", "readout_bias") else 2.0
        np.testing.assert_array_equal(np.asarray(a) * factor, b)
