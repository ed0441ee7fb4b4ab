"""THE train step: one pure function for every family and task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqjax.layers.sharing import shared
from seqjax.tasks.task import Loss
from seqjax.training.optimizer import decayed
from seqjax.training.state import Hyper, TrainState

Tree = Any
Step = Callable[[TrainState, Tree, Hyper], tuple[TrainState, dict[str, jax.Array]]]


def train_step(
    state: TrainState,
    batch: Tree,
    hyper: Hyper,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    clip_norm: float,
    accumulation: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step: loss, gradient, clip, update.

        g = grad of the mean loss over the batch,   g <- g min(1, clip_norm / |g|)        (Pascanu et al. 2013)
        theta <- theta - eta (u(g) + lambda theta)                                       (see seqjax.training.optimizer)

    If the loss, the gradient or the new parameters are not finite, the state is unchanged and `alive` becomes False. So
    a diverged run keeps its last finite state, and the other runs of a bundle are not affected.

    Args:
        state: donated by the caller's jit.
        batch: leading axis B, divisible by ``accumulation``.
        hyper: traced learning rate and weight decay.
    Returns:
        The next state and scalars: ``loss`` (nats), ``grad_norm`` (before clipping), ``learning_rate``, ``alive``.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    value, grads, carry = _gradient(loss, state.params, batch, state.carry, key, accumulation)
    norm = _norm(grads)
    if clip_norm:
        scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))
        grads = jax.tree.map(lambda g: g * scale, grads)
    direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(
        lambda p, u, mask: p - hyper.learning_rate * (u + hyper.weight_decay * mask * p),
        state.params,
        direction,
        decayed(state.params),
    )
    alive = state.alive & jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(_norm(params))
    moved = state.replace(step=state.step + 1, params=params, opt_state=opt_state, carry=carry)
    state = jax.tree.map(partial(jnp.where, alive), moved, state).replace(alive=alive)
    return state, {"loss": value, "grad_norm": norm, "learning_rate": hyper.learning_rate, "alive": alive}


def train_steps(
    state: TrainState, batches: Tree, hyper: Hyper, resets_K: jax.Array, count: jax.Array, *, step: Step
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The first ``count`` of K train steps in one program, with one call from the host.

    ``count`` is traced, so one program serves any number of steps. The way a run is cut into calls does not change its
    bits.

    Args:
        batches: leading axes K, B.
        hyper: learning rates [K], one weight decay.
        resets_K: bool, whether the carry is zeroed before the step.
        count: int32, at most K.
        step: :func:`train_step` with its keywords bound.
    Returns:
        The state after these steps, and each metric of every step, [K]; zero from ``count`` on.
    """

    def one(k: jax.Array, carried: tuple[TrainState, Tree]) -> tuple[TrainState, Tree]:
        state, metrics = carried
        carry = jax.tree.map(lambda h: jnp.where(resets_K[k], jnp.zeros_like(h), h), state.carry)
        state, found = step(state.replace(carry=carry), *at(k))
        return state, jax.tree.map(lambda all_K, x: all_K.at[k].set(x), metrics, found)

    def at(k: jax.Array) -> tuple[Tree, Hyper]:
        return jax.tree.map(lambda x: x[k], batches), Hyper(hyper.learning_rate[k], hyper.weight_decay)

    _, found = jax.eval_shape(step, state, *at(count))
    metrics = jax.tree.map(lambda x: jnp.zeros((len(resets_K), *x.shape), x.dtype), found)
    return jax.lax.fori_loop(0, count, one, (state, metrics))


def _norm(tree: Tree) -> jax.Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(sum(jnp.tensordot(x, x, x.ndim) for x in jax.tree.leaves(tree)))


def _gradient(
    loss: Loss, params: Tree, batch: Tree, carry: Tree, key: jax.Array, accumulation: int
) -> tuple[jax.Array, Tree, Tree]:
    """Mean loss, its gradient and the new carry; with accumulation, over equal micro-batches under ``lax.scan``."""
    grad = jax.value_and_grad(loss, has_aux=True)
    if accumulation == 1:
        (value, carry), grads = grad(params, batch, carry, key)
        return value, grads, carry

    def add(total: Tree, piece: Tree) -> tuple[Tree, Tree]:
        micro_batch, micro_carry, index = piece
        (value, new_carry), grads = grad(params, micro_batch, micro_carry, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, (value, grads)), new_carry

    zero = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params))
    size = jax.tree.leaves(batch)[0].shape[0] // accumulation
    batch = shared(jax.tree.map(lambda x: x.reshape(accumulation, size, *x.shape[1:]), batch), axis=1)
    carry = shared(jax.tree.map(partial(_split_carry, pieces=accumulation), carry), axis=2)
    total, carry = jax.lax.scan(add, zero, (batch, carry, jnp.arange(accumulation)))
    value, grads = jax.tree.map(lambda x: x / accumulation, total)
    return value, grads, jax.tree.map(_join_carry, carry)


def _split_carry(h: jax.Array, pieces: int) -> jax.Array:
    """LxBx... -> [pieces, L, B / pieces, ...]."""
    return jnp.moveaxis(h.reshape(h.shape[0], pieces, -1, *h.shape[2:]), 1, 0)


def _join_carry(h: jax.Array) -> jax.Array:
    """The inverse of :func:`_split_carry`."""
    h = jnp.moveaxis(h, 0, 1)
    return h.reshape(h.shape[0], -1, *h.shape[3:])
