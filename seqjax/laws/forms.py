"""The laws: loss as a function of parameters, tokens, compute, steps or position, each as one equation.

:mod:`seqjax.laws.law` says what a law is, and in which units.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.laws.law import Constant, Law, Logs, Map
from seqjax.laws.terms import repeated, sum_of


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
        return sum_of(e, a - alpha * logs[variable])

    return log_loss


def _kaplan_nd(theta: jax.Array, logs: Logs) -> jax.Array:
    a, d_c, p, alpha_d = theta
    return alpha_d * sum_of(a - p * logs["params"], d_c - logs["tokens"])


def _kaplan_nd_constants(theta: np.ndarray) -> np.ndarray:
    """a = p log N_c and p = alpha_N / alpha_D."""
    a, d_c, p, alpha_d = np.moveaxis(theta, -1, 0)
    return np.stack([a / p, d_c, p * alpha_d, alpha_d], axis=-1)


def _kaplan_nd_theta(constants: np.ndarray) -> np.ndarray:
    n_c, d_c, alpha_n, alpha_d = np.moveaxis(constants, -1, 0)
    return np.stack([n_c * alpha_n / alpha_d, d_c, alpha_n / alpha_d, alpha_d], axis=-1)


def _kaplan_ns(theta: jax.Array, logs: Logs) -> jax.Array:
    a_n, a_s, alpha_n, alpha_s = theta
    return sum_of(a_n - alpha_n * logs["params"], a_s - alpha_s * logs["steps"])


def _chinchilla(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, alpha, beta = theta
    return sum_of(e, a - alpha * logs["params"], b - beta * logs["tokens"])


def _chinchilla_outer(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, alpha, beta, gamma = theta
    return sum_of(e, gamma * sum_of(a - alpha * logs["params"], b - beta * logs["tokens"]))


def _loss_to_loss(theta: jax.Array, logs: Logs) -> jax.Array:
    e, e_0, k, kappa = theta
    above = logs["other_loss"] + jnp.log(-jnp.expm1(e_0 - logs["other_loss"]))  # NaN where L_0 is below E_0
    return sum_of(e, k + kappa * above)


def _over_training(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, eta = theta
    compute = jnp.log(6.0) + logs["params"] + logs["tokens"]
    ratio = logs["tokens"] - logs["params"]
    return sum_of(e, a + eta * (ratio - compute), b - eta * (ratio + compute))


def _data_constrained(theta: jax.Array, logs: Logs) -> jax.Array:
    e, a, b, alpha, beta, r_n, r_d = theta
    unique = jnp.minimum(logs["unique_tokens"], logs["tokens"])
    # compute-optimal parameters for the unique tokens: N = G (C/6)^(beta/(alpha+beta)), D likewise, C/6 = N D
    g = (jnp.log(alpha) - jnp.log(beta) + a - b) / (alpha + beta)
    optimal = jnp.minimum(g + beta / alpha * (unique + g), logs["params"])
    params = optimal + repeated(logs["params"] - optimal, r_n)
    tokens = unique + repeated(logs["tokens"] - unique, r_d)
    return sum_of(e, a - alpha * params, b - beta * tokens)


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
