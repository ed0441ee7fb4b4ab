"""The laws: loss as a function of parameters, tokens, compute, steps or position, each as one equation.

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
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from seqjax.host.numerics import pinned

Logs = Mapping[str, jax.Array]
"""Natural logarithms of the variables, each [n]."""


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
            (see :mod:`seqjax.laws.linear`).
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
        with pinned(), jax.enable_x64(True):
            logs = {name: jnp.log(jnp.asarray(variables[name], jnp.float64)) for name in self.variables}
            return np.exp(np.asarray(_compiled(self.log_loss, np.ndim(theta))(jnp.asarray(theta, jnp.float64), logs)))


@cache
def _compiled(log_loss: Callable, axes: int) -> Callable:
    return jax.jit(log_loss if axes == 1 else jax.vmap(log_loss, in_axes=(0, None)))


def _sum_of(*terms: jax.Array) -> jax.Array:
    """log(exp a + exp b + ...), elementwise."""
    return logsumexp(jnp.stack(jnp.broadcast_arrays(*terms)), axis=0)


def _power(variable: str) -> Callable[[jax.Array, Logs], jax.Array]:
    def log_loss(theta: jax.Array, logs: Logs) -> jax.Array:
        a, alpha = theta
        return a - alpha * logs[variable]

    return log_loss


def _scales(*pairs: tuple[int, int]) -> tuple[Map, Map]:
    """Between a and log N_c = a / alpha, for each (place of a, place of its alpha)."""

    def constants(theta: np.ndarray) -> np.ndarray:
        found = np.array(theta, np.float64)
        for scale, exponent in pairs:
            found[..., scale] = theta[..., scale] / theta[..., exponent]
        return found

    def theta(constants: np.ndarray) -> np.ndarray:
        found = np.array(constants, np.float64)
        for scale, exponent in pairs:
            found[..., scale] = constants[..., scale] * constants[..., exponent]
        return found

    return constants, theta


def _offset_power(variable: str) -> Callable[[jax.Array, Logs], jax.Array]:
    def log_loss(theta: jax.Array, logs: Logs) -> jax.Array:
        e, a, alpha = theta
        return _sum_of(e, a - alpha * logs[variable])

    return log_loss


def _kaplan_nd(theta: jax.Array, logs: Logs) -> jax.Array:
    a, d_c, p, alpha_d = theta
    return alpha_d * _sum_of(a - p * logs["params"], d_c - logs["tokens"])


def _kaplan_nd_constants(theta: np.ndarray) -> np.ndarray:
    """a = p log N_c and p = alpha_N / alpha_D."""
    a, d_c, p, alpha_d = np.moveaxis(theta, -1, 0)
    return np.stack([a / p, d_c, p * alpha_d, alpha_d], axis=-1)


def _kaplan_nd_theta(constants: np.ndarray) -> np.ndarray:
    n_c, d_c, alpha_n, alpha_d = np.moveaxis(constants, -1, 0)
    return np.stack([n_c * alpha_n / alpha_d, d_c, alpha_n / alpha_d, alpha_d], axis=-1)


def _kaplan_ns(theta: jax.Array, logs: Logs) -> jax.Array:
    a_n, a_s, alpha_n, alpha_s = theta
    return _sum_of(a_n - alpha_n * logs["params"], a_s - alpha_s * logs["steps"])


def _chinchilla(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, alpha, beta = theta
    return _sum_of(e, a - alpha * logs["params"], b - beta * logs["tokens"])


def _chinchilla_outer(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, alpha, beta, gamma = theta
    return _sum_of(e, gamma * _sum_of(a - alpha * logs["params"], b - beta * logs["tokens"]))


def _loss_to_loss(theta: jax.Array, logs: Logs) -> jax.Array:
    e, e_0, k, kappa = theta
    above = logs["other_loss"] + jnp.log(-jnp.expm1(e_0 - logs["other_loss"]))  # NaN where L_0 is below E_0
    return _sum_of(e, k + kappa * above)


def _over_training(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, eta = theta
    compute = jnp.log(6.0) + logs["params"] + logs["tokens"]
    ratio = logs["tokens"] - logs["params"]
    return _sum_of(e, a + eta * (ratio - compute), b - eta * (ratio + compute))


def _data_constrained(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, alpha, beta, r_n, r_d = theta
    unique = jnp.minimum(logs["unique_tokens"], logs["tokens"])
    # compute-optimal parameters for the unique tokens: N = G (C/6)^(beta/(alpha+beta)), D likewise, C/6 = N D
    g = (jnp.log(alpha) - jnp.log(beta) + a - b) / (alpha + beta)
    optimal = jnp.minimum(g + beta / alpha * (unique + g), logs["params"])
    params = optimal + _repeated(logs["params"] - optimal, r_n)
    tokens = unique + _repeated(logs["tokens"] - unique, r_d)
    return _sum_of(e, a - alpha * params, b - beta * tokens)


def _repeated(log_ratio: jax.Array, log_worth: jax.Array) -> jax.Array:
    """log(1 + R* (1 - exp(-R / R*))), where 1 + R is the ratio."""
    worth = jnp.exp(log_worth)
    return jnp.log1p(-worth * jnp.expm1(-jnp.expm1(log_ratio) / worth))


def _grid(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, count).tolist())


FLOOR = Constant("E", True, _grid(-1.0, 1.0, 5))
FLOOR_AND_A = (("E",), ("A",))
EXPONENTS = _grid(0.0, 2.0, 5)
COEFFICIENTS = _grid(0.0, 25.0, 6)
SMALL_COEFFICIENTS = (0.0, 1.0, 3.0, 8.0)
SMALL_EXPONENTS = (0.05, 0.2, 0.5, 1.0)


def _plain(name: str, variable: str, letter: str, equation: str) -> Law:
    constants = (
        Constant(f"{letter}_c", True, SMALL_COEFFICIENTS),
        Constant(f"alpha_{letter}", False, SMALL_EXPONENTS),
    )
    text = f"L = ({letter}_c / {letter})^alpha_{letter}"
    source = f"Kaplan et al. 2020, eq. {equation}"
    return Law(name, text, source, (variable,), constants, _power(variable), _scales((0, 1)), ((f"{letter}_c",),))


def _offset(name: str, variable: str, letter: str, source: str) -> Law:
    constants = (FLOOR, Constant("A", True, COEFFICIENTS), Constant("alpha", False, EXPONENTS))
    return Law(
        name, f"L = E + A {letter}^-alpha", source, (variable,), constants, _offset_power(variable), None, FLOOR_AND_A
    )


_CHINCHILLA = (
    FLOOR,
    Constant("A", True, COEFFICIENTS),
    Constant("B", True, COEFFICIENTS),
    Constant("alpha", False, EXPONENTS),
    Constant("beta", False, EXPONENTS),
)

LAWS = {
    law.name: law
    for law in (
        _plain("kaplan-n", "params", "N", "1.1"),
        _plain("kaplan-d", "tokens", "D", "1.2"),
        _plain("kaplan-c", "flops", "C", "1.3, with the compute as spent or, for C_min, adjusted"),
        Law(
            "kaplan-nd",
            "L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
            "Kaplan et al. 2020, eq. 1.5",
            ("params", "tokens"),
            (
                Constant("N_c", True, (5.0, 15.0, 25.0, 40.0)),
                Constant("D_c", True, (15.0, 25.0, 35.0)),
                Constant("alpha_N", False, (0.4, 0.8, 1.6)),
                Constant("alpha_D", False, SMALL_EXPONENTS),
            ),
            _kaplan_nd,
            (_kaplan_nd_constants, _kaplan_nd_theta),
            (("N_c", "D_c"),),
        ),
        Law(
            "kaplan-ns",
            "L = (N_c / N)^alpha_N + (S_c / S)^alpha_S",
            "Kaplan et al. 2020, eq. 1.6, with S the steps, adjusted to S_min or not",
            ("params", "steps"),
            (
                Constant("N_c", True, SMALL_COEFFICIENTS),
                Constant("S_c", True, (0.0, 3.0, 6.0, 12.0)),
                Constant("alpha_N", False, SMALL_EXPONENTS),
                Constant("alpha_S", False, SMALL_EXPONENTS),
            ),
            _kaplan_ns,
            _scales((0, 2), (1, 3)),
            (("N_c",), ("S_c",)),
        ),
        Law(
            "chinchilla",
            "L = E + A / N^alpha + B / D^beta",
            "Hoffmann et al. 2022, eq. 2 (approach 3)",
            ("params", "tokens"),
            _CHINCHILLA,
            _chinchilla,
            linear=(("E",), ("A",), ("B",)),
        ),
        Law(
            "chinchilla-outer",
            "L = E + (A / N^alpha + B / D^beta)^gamma",
            "Beck et al. 2025 (arXiv 2510.02228); gamma = 1 is chinchilla, E = 0 and beta = 1 is kaplan-nd",
            ("params", "tokens"),
            (
                FLOOR,
                Constant("A", True, _grid(0.0, 25.0, 4)),
                Constant("B", True, _grid(0.0, 25.0, 4)),
                Constant("alpha", False, _grid(0.2, 1.4, 3)),
                Constant("beta", False, _grid(0.2, 1.4, 3)),
                Constant("gamma", False, (0.3, 1.0)),
            ),
            _chinchilla_outer,
            linear=(("E",), ("A", "B")),
        ),
        Law(
            "over-training",
            "L = E + (a M^eta + b M^-eta) C^-eta,  M = D / N,  C = 6 N D",
            "Gadre et al. 2024 (arXiv 2403.08540); chinchilla with alpha = beta = 2 eta",
            ("params", "tokens"),
            (
                FLOOR,
                Constant("a", True, _grid(-5.0, 20.0, 6)),
                Constant("b", True, _grid(-5.0, 20.0, 6)),
                Constant("eta", False, _grid(0.05, 0.5, 4)),
            ),
            _over_training,
            linear=(("E",), ("a",), ("b",)),
        ),
        Law(
            "data-constrained",
            "L = E + A / N'^alpha + B / D'^beta,  D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), N' alike",
            "Muennighoff et al. 2023 (arXiv 2305.16264), N' with the parameters that are optimal for U tokens",
            ("params", "tokens", "unique_tokens"),
            (
                FLOOR,
                Constant("A", True, _grid(2.0, 12.0, 3)),
                Constant("B", True, _grid(2.0, 12.0, 3)),
                Constant("alpha", False, (0.2, 0.5, 1.0)),
                Constant("beta", False, (0.2, 0.5, 1.0)),
                Constant("R_N", True, (0.0, 3.0)),
                Constant("R_D", True, (0.0, 3.0)),
            ),
            _data_constrained,
            linear=(("E",), ("A", "B")),
        ),
        Law(
            "loss-to-loss",
            "L = E + K (L_0 - E_0)^kappa,  L_0 the loss on another validation set or after training on other data",
            "Brandfonbrener et al. 2024 (arXiv 2411.12925); E and E_0 are better held at those of laws of N and D",
            ("other_loss",),
            (
                FLOOR,
                Constant("E_0", True, (-3.0, -1.0, 0.0, 0.5)),
                Constant("K", True, (0.0,)),
                Constant("kappa", False, (0.7, 1.0, 1.4)),
            ),
            _loss_to_loss,
            linear=(("E",), ("K",)),
        ),
        _offset("offset-n", "params", "N", "a power law with a floor"),
        _offset("offset-d", "tokens", "D", "a power law with a floor"),
        _offset("offset-c", "flops", "C", "a power law with a floor; Pearce & Song 2024"),
        _offset("position", "position", "T", "Kaplan et al. 2020, appendix D.5, at each position T of the context"),
    )
}
