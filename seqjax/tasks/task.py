"""What training needs from a task. Predicting text is a task like any other.

A task is a file in this folder: a module with

    Config                       the dataclass of a run's config file
    check(config)                raises `Impossible` for values that do not fit together
    load(config, where)          reads the data
    make_task(config, data)      the `Task` of one run

and `seqjax.tasks.TASKS` lists it. A task may also be a file outside the package. There `check` and `load` are optional
(see `seqjax.tasks.own`).
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
LxBx.... Gradient accumulation averages means over rows, so weights of rows are part of the batch."""
Score = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
"""``score(params, batch, carry) -> (scores of a held-out batch for `Task.summary`, new carry)``."""


class Where(NamedTuple):
    """Where a run finds its data.

    Attributes:
        folder: the run folder; None: the run has none yet.
        corpus: the place of the data, if it has moved; None: the place in the config.
        progress: called with (activity, bytes done, bytes in all).
    """

    folder: Path | None = None
    corpus: str | None = None
    progress: Callable[[str, int, int], None] | None = None


class Objective(NamedTuple):
    """The part of a task that is compiled: pure JAX functions.

    Attributes:
        init: key -> params, float32.
        loss: the training loss.
        score: the scores of held-out data, without dropout.
        zero_carry: recurrent state before the first batch, for B rows; None: there is no carry.
        elements: numbers that one step reads. The number of steps in one call of the program depends on it.
    """

    init: Callable[[jax.Array], Tree]
    loss: Loss
    score: Score
    zero_carry: Callable[[], Tree] = lambda: None
    elements: int = 1


class Found(NamedTuple):
    """One evaluation.

    Attributes:
        loss: mean over the held-out data, in nats unless the task says otherwise.
        curve: further numbers for its line in metrics.jsonl.
        record: its entry in result.json, with "loss".
        text: one line for people.
    """

    loss: float
    curve: dict[str, float | None]
    record: dict[str, Any]
    text: str


class Task(NamedTuple):
    """A task with the config and the data of one run.

    Attributes:
        objective: the compiled part.
        batch: step (from 0) -> batch, a pytree of numpy arrays [B, ...]; pure. Every new shape compiles the step again.
        batch_rows: (step, rows) -> these rows (a slice) of the batch, for a process that needs no others; the batch has
            `train.batch_size` rows. None: such a process makes whole batches. A task needs that whose rows are drawn
            one after another, each from what the draws before it have left of the random numbers.
        held_out: final -> batches of the validation split, the same at every call. ``final`` is True for result.json,
            which may read more of the split than the curve.
        summary: (scores of these batches, final) -> `Found`.
        evaluate_every: steps between two evaluations; the last step is always evaluated.
        parameters: numbers of parameters; "total" and "non_embedding" are among them.
        unit, per_step: the unit of data, such as "tokens", and the number in a step, such as B T.
        rows: rows of each batch where the data has fewer than `train.batch_size`; None: `train.batch_size`.
        available: number of different units; None: each step draws new ones.
        final: params -> further numbers of result.json, such as the test set's.
        keeps: whose parameters the result uses: the last step's or the best evaluation's.
        more_at_end: whether `held_out(True)` differs from `held_out(False)`.
        resets: step -> whether the carry is set to zero before it.
        flops: FLOPs of one unit, see `seqjax.models.accounting`; None: not counted.
        digests: name -> sha256 of the data. A run can resume only on the same data.
        notes: lines about the data, printed at the start.
        keep: writes into the run folder what samples need besides parameters.
    """

    objective: Objective
    batch: Callable[[int], Tree]
    held_out: Callable[[bool], Iterable[Tree]]
    summary: Callable[[Sequence[Tree], bool], Found]
    evaluate_every: int
    parameters: dict[str, int]
    unit: str
    per_step: int
    rows: int | None = None
    available: int | None = None
    batch_rows: Callable[[int, slice], Tree] | None = None
    final: Callable[[Tree], dict[str, Any]] = lambda params: {}
    keeps: Literal["last", "best"] = "best"
    more_at_end: bool = False
    resets: Callable[[int], bool] = lambda step: False
    flops: dict[str, float] | None = None
    digests: Mapping[str, str] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    keep: Callable[[Path], None] = lambda folder: None


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
    """A task that scores held-out data by its training loss. The key is then None: no dropout.

    Args:
        config: of the run; `train` has the batch size and the steps between evaluations.
        init, loss: as in `Objective`; batch: as in `Task`.
        held_out: batches, all with the same number of rows.
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
    """Numbers of parameters: "total", and "non_embedding", those in matrices of the family's layers.

    Args:
        trunk: first names of the parameters of the family's layers.
    """
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    counts = {"total": 0, "non_embedding": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = [str(getattr(entry, "key", entry)) for entry in path]
        counts["total"] += leaf.size
        counts["non_embedding"] += leaf.size if names[0] in trunk and names[-1].startswith("W") else 0
    return counts


def digest(*arrays: Any) -> str:
    """sha256 of a task's data: arrays with their shapes and types, text, and nested lists of these."""
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
    """An evaluation with a loss and a few other numbers. Other numbers that are not finite become None."""
    known = {name: value if value is not None and math.isfinite(value) else None for name, value in others.items()}
    shown = "".join(f"  {name.replace('_', ' ')} {value:.4g}" for name, value in known.items() if value is not None)
    return Found(loss, known, {"loss": loss, **known}, f"loss {loss:.4g}{shown}")
