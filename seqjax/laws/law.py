"""What a law is: an equation, its constants, where fits start, and what may be held.

A law is a pure function from theta and the logarithms of its variables to the logarithm of the loss. Theta holds
exponents and logarithms of coefficients (E, A, N_c^alpha), so that a fit needs no bounds. The constants in papers are
functions of theta. Everything is float64. Losses are in nats per token, N in parameters, D in tokens, C in FLOPs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np

from seqjax.host.numerics import pinned
from seqjax.laws.minimise import quickly

LETTERS = {"params": "N", "tokens": "D", "flops": "C", "steps": "S", "position": "T", "unique_tokens": "U",
           "other_loss": "L_0"}  # fmt: skip
"""The letter of each variable."""
Logs = Mapping[str, jax.Array]
"""Natural logarithms of the variables, each [n]."""
TOGETHER = 16  # thetas whose losses are computed at once


@dataclass(frozen=True)
class Constant:
    """A constant of a law: its name, whether it must be positive, and the starts of fits.

    Attributes:
        starts: values of its entry in theta.
    """

    name: str
    positive: bool
    starts: tuple[float, ...]


@dataclass(frozen=True)
class Holds:
    """Constants that a fit holds: ``fixed`` to a value, ``tied`` to another constant, within ``bounds``.

    See :mod:`seqjax.laws.holding`.
    """

    fixed: tuple[tuple[str, float], ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    bounds: tuple[tuple[str, float, float], ...] = ()

    def __str__(self) -> str:
        same = [f"{name} = {value}" for name, value in self.tied]
        within = [
            f"{low:g} < " * (low > -np.inf) + name + f" < {high:g}" * (high < np.inf) for name, low, high in self.bounds
        ]
        return ", ".join([*(f"{name} = {value:g}" for name, value in self.fixed), *same, *within])


Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Law:
    """A law.

    Attributes:
        name: on the command line and in files.
        equation: as text; source: paper and equation.
        variables: columns of a table that it needs (see :mod:`seqjax.laws.points`).
        constants: in the order of theta.
        log_loss: ``(theta_P, logs) -> log L`` [n].
        maps: from theta [..., P] to logarithms of positive constants and values of the others, and back; None: these
            are theta.
        linear: constants that multiply a term of the loss each, or several together, so that they can be solved exactly
            (see :mod:`seqjax.laws.projected`).
        holds: what is held of the constants of the law of this name; ``constants`` are the free ones.
    """

    name: str
    equation: str
    source: str
    variables: tuple[str, ...]
    constants: tuple[Constant, ...]
    log_loss: Callable[[jax.Array, Logs], jax.Array]
    maps: tuple[Map, Map] | None = None
    linear: tuple[tuple[str, ...], ...] = ()
    holds: Holds = Holds()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the constants."""
        return tuple(constant.name for constant in self.constants)

    @property
    def plain(self) -> tuple[bool, ...]:
        """Whether each constant, or the logarithm of a positive one, is a coordinate of theta."""
        if self.maps is None:
            return (True,) * len(self.constants)
        thetas = 0.7 + np.add.outer([0.0, 0.3], np.linspace(0.1, 0.9, len(self.constants)))
        return tuple((self.maps[0](thetas) == thetas).all(axis=0).tolist())

    @property
    def of_loss(self) -> bool:
        """Whether it gives a loss: that of :mod:`seqjax.laws.optima` gives a learning rate or a batch."""
        return self.name != "optimum"

    @property
    def has_floor(self) -> bool:
        """Whether one of the constants is E, the loss in the limit."""
        return "E" in self.names

    def starts_SxP(self) -> np.ndarray:
        """The grid of thetas that a fit starts from."""
        return np.array(list(itertools.product(*(constant.starts for constant in self.constants))), np.float64)

    def theta_P(self, constants: Mapping[str, float]) -> np.ndarray:
        """The theta of these constants."""
        values = np.array([np.log(constants[c.name]) if c.positive else constants[c.name] for c in self.constants])
        return self.maps[1](values) if self.maps else values

    def constants_of(self, theta: np.ndarray) -> np.ndarray:
        """Constants [..., P] of thetas [..., P]; a floor too small for float64 is 0."""
        positive = np.array([constant.positive for constant in self.constants])
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            values = self.maps[0](np.asarray(theta)) if self.maps else np.asarray(theta)
            return np.where(positive, np.exp(np.where(positive, values, 0.0)), values)

    def loss(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        """Predicted loss, nats: theta [P] gives [n], theta [S, P] gives [S, n]."""
        return np.exp(self.log_losses(theta, variables))

    def log_losses(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        """The logarithm of `loss` of the law."""
        logs = {name: np.log(np.asarray(variables[name], np.float64)) for name in self.variables}
        theta_SxP = np.array(theta, np.float64, ndmin=2)
        chunks = np.array_split(theta_SxP, range(TOGETHER, len(theta_SxP), TOGETHER))
        with pinned(), jax.enable_x64(True):
            found = [_compiled(self.log_loss)(np.resize(chunk, (TOGETHER, chunk.shape[1])), logs) for chunk in chunks]
        found_Sxn = np.concatenate(found)[: len(theta_SxP)]
        return found_Sxn if np.ndim(theta) > 1 else found_Sxn[0]


@cache
def _compiled(log_loss: Callable) -> Callable:
    """``log_loss`` of `TOGETHER` thetas: one program, however many there are."""
    return jax.jit(jax.vmap(log_loss, in_axes=(0, None)), compiler_options=quickly())
