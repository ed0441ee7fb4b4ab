"""A trained run: its config, data and parameters, with methods for losses, samples and traces.

run = seqjax.open("runs/lstm/lstm-2x128-0123456789")
run.config, run.params, run.losses("To be or not to be"), run.sample("To be", temperature=0.8)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from seqjax import runs
from seqjax.config import Config, RunConfig, task_name
from seqjax.data.kept import kept_tokenizer
from seqjax.errors import UserError, utf8
from seqjax.host.numerics import pinned
from seqjax.host.wording import quoted
from seqjax.models.generation import generate
from seqjax.models.inside import Trace, look_inside, next_token_losses
from seqjax.tasks import task_module, text
from seqjax.tasks.task import Found, Objective, Task, Where
from seqjax.tasks.text_evaluation import Evaluation, evaluate
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.hardware import present_devices, refuse_share
from seqjax.training.optimizer import make_optimizer
from seqjax.training.start import read_start
from seqjax.training.state import init_state

Tree = Any


def open_run(
    folder: str | Path,
    checkpoint: Literal["last", "best"] = "last",
    *,
    corpus: str | None = None,
    data: Any = None,
    say: Callable[[str], None] | None = None,
) -> OpenRun:
    """Open a trained run. Its checkpoint and its data are read when they are first used.

    Args:
        checkpoint: the parameters of the last saved step, or of the best evaluation.
        corpus: new place of the run's data; None: the place in the config.
        data: the data of the run's task, if it is loaded already; None: it is loaded when needed.
        say: called with a line for each damaged checkpoint that is skipped; None: standard error.
    Raises:
        UserError: not a run folder.
    """
    say = say or partial(print, file=sys.stderr)
    run = OpenRun(Path(folder), runs.read_config(Path(folder)), checkpoint, corpus, say)
    if data is not None:
        run.data = data
    return run


class OpenRun:
    """See :func:`open_run`. Methods that take or return text are only for runs on text."""

    def __init__(
        self, folder: Path, config: RunConfig, checkpoint: str, corpus: str | None, say: Callable[[str], None]
    ) -> None:
        self.folder, self.config, self.checkpoint = folder, config, checkpoint
        self._corpus, self._say = corpus, say

    @cached_property
    def data(self) -> Any:
        """The data of the run's task (for text a `seqjax.tasks.text.Text`), checked to be the data the run began with.

        Raises:
            UserError: it is missing or has changed.
        """
        found = task_module(task_name(self.config)).load(self.config, Where(self.folder, self._corpus))
        if isinstance(found, text.Text):
            digests = {"corpus_sha256": found.corpus.sha256, "tokenizer_sha256": found.tokenizer.sha256}
            runs.check_data(self.folder, digests)
        return found

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of a run on text: the one in the run folder, so that the text need not be there."""
        self._of_text()
        kept = kept_tokenizer(self.folder) if self._corpus is None and "data" not in vars(self) else None
        if kept is None:
            return self.data.tokenizer
        runs.check_data(self.folder, {"tokenizer_sha256": kept.sha256})
        return kept

    @cached_property
    def objective(self) -> Objective:
        """The functions of the run's training: initial parameters, loss, score."""
        if isinstance(self.config, Config):
            return text.make_objective(self.config, self.tokenizer.vocab_size)
        return self.task.objective

    @cached_property
    def task(self) -> Task:
        """The run's task with its data."""
        return task_module(task_name(self.config)).make_task(self.config, self.data)

    @cached_property
    def model(self) -> nn.Module:
        """The language model of a run on text."""
        return text.make_model(self._of_text(), self.tokenizer.vocab_size)

    @cached_property
    def saved(self) -> tuple[int, Tree]:
        """The step of the checkpoint, and its parameters.

        Raises:
            UserError: the run has no checkpoint.
        """
        return _restored(self.folder, self.config, self.objective, self.checkpoint, self._say)

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self.saved[0]

    @property
    def params(self) -> Tree:
        """Parameters, float32."""
        return self.saved[1]

    @pinned()
    def initial_params(self) -> Tree:
        """The parameters before the first step."""
        train = self.config.train
        make = jax.jit(lambda seed, scale: _state(self.config, self.objective, seed, scale).params)
        drawn = make(np.int32(train.seed), np.float32(train.init_scale))
        return drawn if train.start is None else read_start(self.folder, self.config, drawn)

    @pinned()
    def token_losses(self, tokens_BxT1: np.ndarray) -> np.ndarray:
        """Cross-entropy of each next token of independent windows: float32 [B, T], nats."""
        return np.asarray(self._score(self.params, tokens_BxT1))

    @cached_property
    def _score(self) -> Callable[[Tree, Any], jax.Array]:
        return jax.jit(lambda params, tokens_BxT1: text.token_losses(self.model, params, tokens_BxT1)[0])

    def losses(self, words: str) -> np.ndarray:
        """Cross-entropy of each token of a text except the first, nats, float32 [T - 1]."""
        return self.token_losses(self._tokens(words, least=2)[None])[0]

    @pinned()
    def evaluate(self, split: str = "validation", windows: int | None = None) -> Evaluation:
        """Loss on one split. ``windows``: their number; None: as in result.json."""
        config = self._of_text()
        shard, score, carry = self.data.shard(split), jax.jit(self.objective.score), self.objective.zero_carry()
        windows = config.evaluation.final_windows if windows is None else windows
        return evaluate(config, shard, split, score, self.params, carry, windows)

    @pinned()
    def held_out(self) -> Found:
        """Repeat the evaluation of result.json, for any task, on its validation data."""
        score, carry, scores = jax.jit(self.objective.score), self.objective.zero_carry(), []
        for batch in self.task.held_out(True):
            found, carry = score(self.params, batch, carry)
            scores.append(jax.device_get(found))
        return self.task.summary(scores, True)

    def sample(self, prompt: str = "\n", tokens: int = 300, *, samples: int | None = None, **how: Any) -> Any:
        """``prompt`` continued by ``tokens`` tokens.

        Args:
            samples: number of texts; None: one, not in a list.
            how: ``temperature``, ``top_k``, ``top_p``, ``seed``, see :func:`~seqjax.models.generation.generate`.
        """
        config, start = self._of_text(), self._tokens(prompt, least=1)
        limit = config.train.context_length if config.model.context_limit else None
        count = 1 if samples is None else samples
        new = generate(self.model, self.params, np.tile(start, (count, 1)), tokens, max_context=limit, **how)
        found = [self.tokenizer.decode(np.concatenate([start, row])) for row in new]
        return found[0] if samples is None else found

    @pinned()
    def trace(self, words: str) -> Trace:
        """The loss of each token of a text, and the inside of the model (attention, gates, states)."""
        config, tokens_T = self._of_text(), self._tokens(words, least=2)
        read = jax.jit(partial(look_inside, config.model, dtype=config.train.compute_dtype))
        try:
            inside = read(self.params, jnp.asarray(tokens_T))
        except UserError as error:
            raise UserError(f"{self.folder}: {error}; shorten the text") from None
        losses = np.asarray(next_token_losses(inside.logits_TxV, jnp.asarray(tokens_T)), np.float64)
        return Trace(tokens_T, np.concatenate([[np.nan], losses]), jax.tree.map(np.asarray, inside))

    def _tokens(self, words: str, least: int) -> np.ndarray:
        tokens_T = self.tokenizer.encode(utf8(words, "text")).astype(np.int32)
        if len(tokens_T) < least:
            count = "1 token" if len(tokens_T) else "no tokens"
            raise UserError(f"the text {words!r} has {count}; at least {least} needed")
        return tokens_T

    def _of_text(self) -> Config:
        if not isinstance(self.config, Config):
            raise UserError(f"{self.folder}: is a run of the task '{task_name(self.config)}'; this is for runs on text")
        return self.config


def _state(config: RunConfig, objective: Objective, seed: Any, scale: Any) -> Any:
    return init_state(
        objective.init, make_optimizer(config.optimizer, config.model), seed, scale, objective.zero_carry()
    )


@pinned()
def _restored(
    folder: Path, config: RunConfig, objective: Objective, which: str, say: Callable[[str], None]
) -> tuple[int, Tree]:
    restored = None
    if (folder / "checkpoints").is_dir():
        checkpoints = Checkpoints(folder, writable=False)
        if which == "best":
            runs.read_curve(folder)  # raises if the file is missing
        if which == "best" and checkpoints.steps() and checkpoints.best() is None:
            raise UserError(f"{folder}: no saved checkpoint was evaluated, so there is no best one; take the last")
        device = present_devices()[0]
        refuse_share(device, config.train.compute_dtype)
        here = SingleDeviceSharding(device)
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            jax.eval_shape(partial(_state, config, objective), np.int32(0), np.float32(1)),
        )
        restored = checkpoints.restore(like, say, checkpoints.best() if which == "best" else None)
    if restored is None:
        result = runs.read_result(folder)
        if result is not None and result["status"] == "imported":
            params = jax.eval_shape(partial(_state, config, objective), np.int32(0), np.float32(1)).params
            return 0, jax.tree.map(jnp.asarray, read_start(folder, config, params))
        if result is None:
            raise UserError(f"{folder}: has no checkpoint yet; train it: seqjax train {quoted(folder)}")
        raise UserError(f"{folder}: has no checkpoint; the run has {result['status']} at step {result['steps']}")
    step, state, _ = restored
    best = (runs.read_result(folder) or {}).get("best")
    if which == "best" and best and best["step"] != step:
        raise UserError(
            f"{folder}: the checkpoint of its best evaluation (step {best['step']}) is gone or damaged; bring it back, "
            "or remove result.json and checkpoints/ to train the run again from the start"
        )
    return step, jax.tree.map(jnp.asarray, state.params)
