"""The best learning rate, or batch, as a law of model size and training tokens.

    x_opt(N, D) = k N^a D^b

x_opt of each size and budget is the vertex of a parabola in log x through the losses near the lowest one. An optimum at
an edge of what was tried, or of what did not diverge, is left out, and told. The law is fitted by least squares of log
x_opt. Its intervals are those of :mod:`seqjax.laws.noise`, from the scatter of the optima around it: few optima give
wide ones. The form is that of Li et al. 2025 (arXiv 2503.04715), who find 1.79 N^-0.713 D^0.307 for the rate and 0.58
D^0.571 tokens for the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.laws.best_rates import Trial, mean_losses
from seqjax.laws.fits import fit
from seqjax.laws.fitting import Fit
from seqjax.laws.law import LETTERS, Constant, Law, Logs
from seqjax.laws.points import make_points

LEAST = 3  # values of x that a parabola needs
WINDOW = 4.0  # values of x within this factor of the best one, and at least its neighbours, make the parabola
SOURCE = "Li et al. 2025 (arXiv 2503.04715)"


@dataclass(frozen=True)
class Best:
    """The optimum at one (N, D): x, the loss there, and why it is not used, or ""."""

    params: float
    tokens: float
    x: float
    loss: float
    problem: str = ""


@dataclass(frozen=True)
class Optima:
    """All optima, and the law through those without a problem; its "loss" is x."""

    found: tuple[Best, ...]
    fit: Fit


def optima(
    params: Sequence[float],
    tokens: Sequence[float],
    x: Sequence[float],
    loss: Sequence[float],
    bootstrap: int = 1000,
    seed: int = 0,
    model: Sequence[Hashable] | None = None,
    run_seed: Sequence[int | None] | None = None,
) -> Optima:
    """The optima of runs that differ in x, and their law.

    Args:
        x: learning rate or batch of each run; runs with equal N, D and x are seeds, whose losses are averaged.
        loss: infinite for a run that diverged.
        model: what else tells the model of each run; each model has optima of its own. None: all are one.
        run_seed: the seed of each run: x are compared on the seeds that all have. None: not known.
    Raises:
        UserError: a value that is not positive and finite, or too few sizes and budgets with an optimum.
    """
    table = np.column_stack([np.asarray(column, float) for column in (params, tokens, x, loss)])
    if not (np.isfinite(table[:, :3]).all() and (table > 0).all()):
        raise UserError("optima: params, tokens and x must be positive finite numbers, and loss a positive one")
    of_run, seeds = ([None] * len(table) if given is None else given for given in (model, run_seed))
    tried: dict[tuple[Any, ...], list[Trial]] = {}
    for (*place, at, own), of, its_seed in zip(table.tolist(), of_run, seeds, strict=True):
        tried.setdefault((*place, of), []).append(Trial(at, its_seed, own))
    places = sorted(tried, key=lambda place: place[:2])
    found = tuple(_best(*place[:2], mean_losses(tried[place])) for place in places)
    good = [one for one in found if not one.problem]
    variables = [name for name in ("params", "tokens") if len({getattr(one, name) for one in good}) > 1]
    if len(good) <= len(variables) + 1:
        why = "; ".join(sorted({one.problem for one in found if one.problem})) or "there are no more in the table"
        raise UserError(
            f"optima: {len(good)} of {len(found)} sizes and budgets have an optimum inside of what was tried, too few "
            f"for a law of {' and '.join(variables) or 'N or D'}: {why}"
        )
    points = make_points(
        [one.x for one in good], **{name: [getattr(one, name) for one in good] for name in ("params", "tokens")}
    )
    law = fit(points, _law(*variables), objective="least-squares", bootstrap=bootstrap, seed=seed)
    lost = [one for one in found if one.problem]
    counts = Counter(one.problem for one in lost)
    reasons = "; ".join(f"{count} x {why}" if len(counts) > 1 else why for why, count in counts.most_common())
    flags = [f"optima: {len(lost)} of {len(found)} are left out: {reasons}"] if lost else []
    return Optima(found, replace(law, flags=(*flags, *law.flags)))


def _best(params: float, tokens: float, tried: Mapping[float, float]) -> Best:
    """The optimum of the mean loss at each x, by rising x; infinite where a run diverged."""
    x, loss = np.array([(at, mean) for at, mean in tried.items() if np.isfinite(mean)]).reshape(-1, 2).T
    if not len(x):
        return Best(params, tokens, np.nan, np.nan, "a run of every value diverged")
    place = int(loss.argmin())
    one = Best(params, tokens, float(x[place]), float(loss[place]))
    if len(x) < LEAST:
        return replace(one, problem=f"fewer than {LEAST} values {'were tried' if len(x) == len(tried) else 'finished'}")
    if place in (0, len(x) - 1):
        end, further, last = ("largest", "larger", max(tried)) if place else ("smallest", "smaller", min(tried))
        how = "was tried" if one.x == last else f"finished; {further} ones diverged"
        return replace(one, problem=f"the best value is the {end} that {how}")
    near = np.abs(np.log(x / x[place])) <= np.log(WINDOW)
    near[place - 1 : place + 2] = True
    at = np.log(x[near] / x[place])
    bend, slope, _ = curve = np.polyfit(at, loss[near], 2)
    vertex = -slope / (2 * bend)
    if not (bend > 0 and at[0] < vertex < at[-1]):
        return replace(one, problem="the losses have no minimum that a parabola finds")
    return replace(one, x=float(x[place] * np.exp(vertex)), loss=float(np.polyval(curve, vertex)))


@cache
def _law(*variables: str) -> Law:
    """One object for each set of variables, since a law is compiled once for each object."""
    exponents = {"params": Constant("a", False, (-0.5,)), "tokens": Constant("b", False, (0.3,))}
    constants = (Constant("k", True, (0.0,)), *(exponents[name] for name in variables))
    terms = " ".join(f"{LETTERS[name]}^{exponents[name].name}" for name in variables)
    return Law("optimum", f"x = k {terms}", SOURCE, variables, constants, _log_x(variables), linear=(("k",),))


def _log_x(variables: Sequence[str]) -> Callable[[jax.Array, Logs], jax.Array]:
    def log_x(theta: jax.Array, logs: Logs) -> jax.Array:
        return theta[0] + sum(theta[1 + i] * logs[name] for i, name in enumerate(variables))

    return log_x
