"""From a config to the things that a command works with: tokens, model, and the jitted step on a device mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from seqjax import runs
from seqjax.config import LANE_KEYS, Config, program_key
from seqjax.data import (
    Corpus,
    Tokenizer,
    TokenShard,
    cache_folder,
    load_corpus,
    load_tokenizer,
    prepare_shard,
    stream_batch,
    window_batch,
)
from seqjax.data.sources import Absent
from seqjax.errors import UserError
from seqjax.models import build_model
from seqjax.numerics import pinned
from seqjax.training.hardware import present_devices
from seqjax.training.losses import next_token_loss, token_losses
from seqjax.training.optimizer import make_optimizer
from seqjax.training.state import Hyper, TrainState, init_state
from seqjax.training.step import train_step, train_steps

Tree = Any


@dataclass(frozen=True)
class Text:
    """The corpus and tokenizer of a config; token shards are made, or opened, on demand."""

    corpus: Corpus
    tokenizer: Tokenizer
    cache: Path
    progress: Callable[[str, int, int], None] | None = None

    def shard(self, split: str) -> TokenShard:
        """The tokens of one split.

        Raises:
            UserError: the corpus has no such split, or its shard is damaged.
        """
        if split not in self.corpus.splits:
            raise UserError(
                f"the corpus '{self.corpus.name}' has no split '{split}'; it has {', '.join(self.corpus.splits)}"
            )
        progress = partial(self.progress, f"tokenizing {split}") if self.progress else None
        return prepare_shard(self.corpus, split, self.tokenizer, self.cache, progress)


def load_text(
    config: Config,
    progress: Callable[[str, int, int], None] | None = None,
    folder: Path | None = None,
    corpus: str | None = None,
) -> Text:
    """Corpus and tokenizer of a config (the tokenizer is trained once and kept in the cache).

    Args:
        folder: of a run, which may have begun where its text was somewhere else.
        corpus: where the text is now; None: where the config says.
    Raises:
        UserError: the corpus is not there, or cannot be read.
    """
    try:
        found = load_corpus(corpus or config.data.corpus)
    except Absent:
        sha256 = None if corpus or folder is None else runs.corpus_sha256(folder)
        if sha256 is None:
            raise
        raise UserError(
            f"{folder}: the text of this run, {config.data.corpus} (sha256 {sha256[:12]}...), is not there, seen from "
            f"{Path.cwd()}: name it with --corpus PATH"
        ) from None
    return Text(found, load_tokenizer(config.data.tokenizer, found, cache_folder()), cache_folder(), progress)


def check_lengths(config: Config, text: Text) -> None:
    """See that training and evaluation can read their splits, before the first step.

    Raises:
        UserError: a split is absent, or too short for one window, or for B streams of one segment.
    """
    context = config.train.context_length
    streams = config.train.batch_size if config.data.batching == "streams" else 1
    key = "train.context_length" if streams == 1 else "train.batch_size"
    what = f"{context}" if streams == 1 else f"{streams} streams of {context} tokens"
    need = streams * context + 1
    for split in ("train", "validation"):
        if (found := len(text.shard(split).tokens)) < need:
            raise UserError(
                f"{key}: {what} needs {need:,} tokens; the {split} split of '{config.data.corpus}' has {found:,}"
            )


def make_model(config: Config, vocab_size: int) -> nn.Module:
    """The model of a config for a vocabulary of so many tokens."""
    train = config.train
    return build_model(config.model, vocab_size, train.context_length, train.compute_dtype, train.bptt)


def batch_at(config: Config, shard: TokenShard, step: int) -> tuple[np.ndarray, bool]:
    """The int32 [B, T+1] batch of a step, and whether the carry is zeroed before it; pure in (seed, step)."""
    size, context = config.train.batch_size, config.train.context_length
    if config.data.batching == "streams":
        return stream_batch(shard.tokens, step, size, context)
    return window_batch(shard.tokens, config.train.seed, step, size, context), False


def initial_carry(config: Config, model: nn.Module) -> Tree:
    """Zero recurrent state for B streams; None for windows, where every window starts from zero."""
    if config.data.batching == "streams" and config.model.recurrent:
        return model.initial_state(config.train.batch_size)
    return None


@dataclass(frozen=True)
class Program:
    """The compiled parts of a run, or of a bundle of R runs, on a mesh of devices; one device is a mesh of one.

    In a bundle every array has a leading axis R.

    Attributes:
        init: () -> TrainState on the mesh.
        steps: (state, batches, hyper, resets_K, count) -> (state, metrics), up to K steps in one call, see
            :func:`~seqjax.training.step.train_steps`; the state is donated; the resets are shared by a bundle's runs.
        steps_at_once: K.
        token_losses: (params, batch_BxT1, carry) -> (loss_BxT, carry); the batch is shared by the runs of a bundle.
        put: numpy [K, B, T+1] -> array sharded over the devices by rows.
        zero_carry: recurrent state for B streams, or None.
        devices: how many devices the mesh has.
    """

    init: Callable[[], TrainState]
    steps: Callable[[TrainState, jax.Array, Hyper, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
    steps_at_once: int
    token_losses: Callable[[Tree, Any, Tree], tuple[jax.Array, Tree]]
    put: Callable[[np.ndarray], jax.Array]
    zero_carry: Callable[[], Tree]
    devices: int


@pinned()
def make_program(config: Config, model: nn.Module, devices: int | None = None) -> Program:
    """Jit the train step with batch rows sharded over the devices and parameters replicated.

    Args:
        devices: how many devices; None: all of them, of a CPU 1.
    Raises:
        UserError: more devices asked for than there are, or they do not divide the micro-batch.
    """
    init, steps, losses, carry = _pure_parts(config, model)
    seed, scale = np.int32(config.train.seed), np.float32(config.train.init_scale)
    return _compile(config, (init, seed, scale), steps, losses, carry, devices)


@pinned()
def make_bundle(
    configs: Sequence[Config], model: nn.Module, devices: int | None = None, side_by_side: int | None = None
) -> Program:
    """Jit the train step of R runs that differ in nothing but `LANE_KEYS`: every array has a leading axis R.

    The lanes are mapped over in groups: ``side_by_side`` of them are one batched computation (``vmap``), and the
    groups follow one another inside the program (``lax.map``). An accelerator wants all lanes side by side; a CPU core
    is fastest with a few, whose activations stay in its cache.

    Args:
        configs: of the lanes, at least one.
        side_by_side: lanes in one batched computation; None: see `lanes_side_by_side`.
    Raises:
        UserError: as :func:`make_program`, or configs that need different programs.
    """
    if len({program_key(config) for config in configs}) != 1:
        raise UserError(f"a bundle is of runs that differ in nothing but {', '.join(LANE_KEYS)}")
    runs = len(configs)
    init, steps, losses, carry = _pure_parts(configs[0], model)
    seeds = np.array([config.train.seed for config in configs], np.int32)
    scales = np.array([config.train.init_scale for config in configs], np.float32)
    lift = partial(over_runs, runs=runs, side_by_side=side_by_side or lanes_side_by_side(runs))
    return _compile(
        configs[0],
        (over_runs(init, runs, side_by_side=1), seeds, scales),
        lambda state, batches, hyper, resets_K, count: lift(
            lambda state_, batches_, hyper_: steps(state_, batches_, hyper_, resets_K, count)
        )(state, batches, hyper),
        lambda params, batch, h: lift(lambda p, h_: losses(p, batch, h_))(params, h),
        lambda: jax.tree.map(lambda h: jnp.repeat(h[None], runs, axis=0), carry()),
        devices,
    )


STEPS_AT_ONCE, TOKENS_AT_ONCE = 64, 2**18  # of one run, at most, in one call
CPU_SIDE_BY_SIDE = 4  # more lanes at once fall out of a core's cache


def lanes_side_by_side(runs: int) -> int:
    """How many lanes of a bundle are computed as one batch on this kind of device."""
    return min(runs, CPU_SIDE_BY_SIDE) if jax.default_backend() == "cpu" else runs


def over_runs(f: Callable[..., Tree], runs: int, side_by_side: int) -> Callable[..., Tree]:
    """``f`` of one run, lifted to a leading axis of ``runs`` on all its arguments and results."""
    if runs == 1:  # no batched operations of one
        return lambda *args: jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], args)))
    if side_by_side >= runs:
        return jax.vmap(f)
    together = None if side_by_side == 1 else side_by_side
    return lambda *args: jax.lax.map(lambda lane: f(*lane), args, batch_size=together)


def _pure_parts(config: Config, model: nn.Module) -> tuple[Callable, Callable, Callable, Callable]:
    """Of one run: init(seed, scale), steps(state, batches, hyper, ...), losses(params, batch, carry), carry()."""
    optimizer = make_optimizer(config.optimizer)
    carry = partial(initial_carry, config, model)
    step = partial(
        train_step,
        loss=next_token_loss(model),
        optimizer=optimizer,
        clip_norm=config.optimizer.clip_norm,
        accumulation=config.train.accumulation,
    )
    return (
        lambda seed, scale: init_state(model, optimizer, seed, scale, carry()),
        partial(train_steps, step=step),
        partial(token_losses, model),
        carry,
    )


def _compile(
    config: Config, init: tuple, steps: Callable, losses: Callable, carry: Callable, devices: int | None
) -> Program:
    """``init`` is a function with its arguments: were they constants, XLA would evaluate them, slowly, to compile."""
    mesh, train = _mesh(config, devices), config.train
    replicated = NamedSharding(mesh, P())
    init_state_of, *seeds_and_scales = init
    shapes = jax.eval_shape(*init)
    lead = [None] * (shapes.step.ndim)  # the axis of runs, in a bundle
    rows = NamedSharding(mesh, P(*lead, None, "data"))
    carry_rows = jax.tree.map(lambda h: NamedSharding(mesh, P(*[None] * (h.ndim - 2), "data")), shapes.carry)
    shardings = jax.tree.map(lambda _: replicated, shapes).replace(carry=carry_rows)
    # it runs once: on CPU, where that is known to be safe, it is not worth the seconds that optimizing it takes
    effort = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    make = jax.jit(init_state_of, out_shardings=shardings, compiler_options=effort)
    return Program(
        init=pinned()(partial(make, *seeds_and_scales)),
        steps=jax.jit(
            steps,
            donate_argnums=0,
            in_shardings=(shardings, rows, None, None, None),
            out_shardings=(shardings, replicated),
        ),
        steps_at_once=max(1, min(STEPS_AT_ONCE, TOKENS_AT_ONCE // (train.batch_size * train.context_length))),
        token_losses=jax.jit(losses),
        put=partial(_put, sharding=rows),
        zero_carry=jax.jit(carry, out_shardings=carry_rows),
        devices=mesh.size,
    )


def _put(batch: np.ndarray, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)
    return jax.make_array_from_callback(batch.shape, sharding, lambda index: batch[index])  # this process's part


def _mesh(config: Config, devices: int | None) -> Mesh:
    present = present_devices()
    default = 1 if present[0].platform == "cpu" else len(present)  # XLA_FLAGS may make many of one processor
    count = default if devices is None else devices
    if count < 1:
        raise UserError(f"--devices {count}: at least 1 is needed")
    if count > len(present):
        raise UserError(f"--devices {count}: this machine has {len(present)} of them")
    micro_batch = config.train.batch_size // config.train.accumulation
    if micro_batch % count:
        allowed = ", ".join(str(n) for n in range(1, count) if micro_batch % n == 0)
        raise UserError(
            f"train.batch_size: {config.train.batch_size} / train.accumulation {config.train.accumulation} "
            f"= {micro_batch} sequences cannot be shared among {count} devices; change it, or choose "
            f"--devices among {allowed}"
        )
    return Mesh(np.array(present[:count]), ("data",), axis_types=(AxisType.Auto,))
