"""What training must know of a task. Predicting text is one of them, and nothing special.

A task is a file in this folder: a module with

    Config                       the dataclass of a run's config file
    check(config)                raises `Impossible` for values that cannot stand together
    load(config, where)          reads the data
    make_task(config, data)      the `Task` of one run

and `seqjax.tasks.TASKS` lists it. A file outside the package serves as well, and needs no `check` and `load` where
there is nothing to check or to read (see `seqjax.tasks.own`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

Tree = Any  # a pytree of arrays
Loss = Callable[[Tree, Tree, Tree, jax.Array], tuple[jax.Array, Tree]]
"""``loss(params, batch, carry, key) -> (mean over the rows of the batch, new carry)``; batch leaves are [B, ...], carry
[..., B, H]. The mean over rows is what gradient accumulation averages: a row's weights belong into the batch."""
Score = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
"""``score(params, batch, carry) -> (what `Task.summary` needs of a held-out batch, new carry)``."""


class Where(NamedTuple):
    """What a run that has begun knows about its data.

    Attributes:
        folder: the run folder; None: there is none yet.
        corpus: where the data is now; None: where the config says.
        progress: called with (what, bytes done, bytes in all).
    """

    folder: Path | None = None
    corpus: str | None = None
    progress: Callable[[str, int, int], None] | None = None


class Objective(NamedTuple):
    """The part of a task that is compiled: pure JAX functions.

    Attributes:
        init: key -> params, float32.
        loss: what is minimised.
        score: what held-out data is scored by, without dropout.
        zero_carry: recurrent state before the first batch, for B rows; None: every batch starts anew.
        elements: numbers that one step reads; it decides how many steps one call of the program takes.
    """

    init: Callable[[jax.Array], Tree]
    loss: Loss
    score: Score
    zero_carry: Callable[[], Tree] = lambda: None
    elements: int = 1


class Found(NamedTuple):
    """One evaluation.

    Attributes:
        loss: mean over the held-out data; nats, where the task says nothing else.
        curve: further numbers of its line in metrics.jsonl.
        record: what result.json keeps; "loss" is in it.
        text: for people.
    """

    loss: float
    curve: dict[str, float | None]
    record: dict[str, Any]
    text: str


class Task(NamedTuple):
    """A task, bound to the config and the data of one run.

    Attributes:
        objective: what is compiled.
        batch: step (from 0) -> batch, a pytree of numpy arrays [B, ...]; pure. Every new shape compiles the step again.
        held_out: the validation split in batches, the same at every call. The argument says whether it is for
            result.json, which may read more of it than the curve.
        summary: the scores of these batches, and the same argument -> `Found`.
        evaluate_every: steps between two evaluations; the last step is always evaluated.
        parameters: numbers of parameters; "total" and "non_embedding" are among them.
        unit, per_step: what is counted, and how many of them a step takes, such as B T "tokens".
        available: how many different ones there are; None: they are drawn anew each time.
        final: params -> further numbers of result.json, the test set's say.
        keeps: whose parameters the result is about: of the last step or of the best evaluation.
        more_at_end: whether `held_out(True)` differs from `held_out(False)`.
        resets: step -> whether the carry is zeroed before it.
        flops: of one unit, see `seqjax.models.accounting`; None: they are not counted.
        digests: name -> sha256 of the data; a run is bound to them.
        notes: about the data, said at the start.
    """

    objective: Objective
    batch: Callable[[int], Tree]
    held_out: Callable[[bool], Iterable[Tree]]
    summary: Callable[[Sequence[Tree], bool], Found]
    evaluate_every: int
    parameters: dict[str, int]
    unit: str
    per_step: int
    available: int | None = None
    final: Callable[[Tree], dict[str, Any]] = lambda params: {}
    keeps: Literal["last", "best"] = "best"
    more_at_end: bool = False
    resets: Callable[[int], bool] = lambda step: False
    flops: dict[str, float] | None = None
    digests: Mapping[str, str] = MappingProxyType({})
    notes: tuple[str, ...] = ()


NOWHERE = Where()


def plain_task(
    config: Any,
    init: Callable[[jax.Array], Tree],
    loss: Loss,
    batch: Callable[[int], Tree],
    held_out: Sequence[Tree],
    unit: str = "examples",
    **others: Any,
) -> Task:
    """A task whose held-out data is scored by its loss, with None for the key: that means no dropout.

    Args:
        config: of the run; `train` says how many rows a batch has, and when it is evaluated.
        init, loss: as in `Objective`; batch: as in `Task`.
        held_out: batches of as many rows each.
        others: further attributes of `Task`.
    """
    objective = Objective(init, loss, score=lambda params, batch, carry: loss(params, batch, carry, None))
    return Task(
        objective,
        batch,
        held_out=lambda final: held_out,
        summary=lambda scores, final: found(sum(map(float, scores)) / len(scores)),
        evaluate_every=config.train.evaluate_every,
        parameters=count_parameters(objective),
        unit=unit,
        per_step=config.train.batch_size,
        **others,
    )


def count_parameters(objective: Objective, trunk: Sequence[str] = ("backbone",)) -> dict[str, int]:
    """Numbers of parameters: "total", and "non_embedding", the matrices of the family's layers.

    Args:
        trunk: first names of the parameters that are the family's.
    """
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    counts = {"total": 0, "non_embedding": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = [str(getattr(entry, "key", entry)) for entry in path]
        counts["total"] += leaf.size
        counts["non_embedding"] += leaf.size if names[0] in trunk and names[-1].startswith("W") else 0
    return counts


def digest(*arrays: Any) -> str:
    """sha256 of what a task reads: arrays with their shapes and types, text, and nests of these."""
    sha = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            sha.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        elif isinstance(value, list | tuple):
            sha.update(f"[{len(value)}]".encode())
            for item in value:
                add(item)
        else:
            sha.update(repr(value).encode("utf-8", "surrogateescape") + b"\0")

    add(arrays)
    return sha.hexdigest()


def found(loss: float, **others: float | None) -> Found:
    """An evaluation with a few numbers beside its loss; numbers that are not finite become None."""
    known = {name: value if value is not None and math.isfinite(value) else None for name, value in others.items()}
    shown = "".join(f"  {name.replace('_', ' ')} {value:.4g}" for name, value in known.items() if value is not None)
    return Found(loss, known, {"loss": loss, **known}, f"loss {loss:.4g}{shown}")
