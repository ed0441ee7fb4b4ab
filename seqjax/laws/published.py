"""Constants of published laws, under the names of :mod:`seqjax.laws.forms`, with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seqjax.laws.forms import LAWS
from seqjax.laws.kaplan import PF_DAY


@dataclass(frozen=True)
class Published:
    """A law with the constants of a paper.

    Attributes:
        law: its name in :data:`~seqjax.laws.forms.LAWS`.
        counting: the meaning of N and C in it.
        source: paper, table or equation.
    """

    law: str
    constants: Mapping[str, float]
    counting: str
    source: str

    def loss(self, **variables: float | np.ndarray) -> np.ndarray:
        """Predicted loss in nats."""
        law = LAWS[self.law]
        return law.loss(law.theta_P(self.constants), {k: np.atleast_1d(np.float64(v)) for k, v in variables.items()})


_KAPLAN = "non-embedding N; WebText2, BPE of 50257 tokens, context 1024"

PUBLISHED = {
    "kaplan-n": Published("kaplan-n", {"N_c": 8.8e13, "alpha_N": 0.076}, _KAPLAN, "Kaplan et al. 2020, eq. 1.1"),
    "kaplan-d": Published("kaplan-d", {"D_c": 5.4e13, "alpha_D": 0.095}, _KAPLAN, "Kaplan et al. 2020, eq. 1.2"),
    "kaplan-c": Published(
        "kaplan-c",
        {"C_c": 1.6e7 * PF_DAY, "alpha_C": 0.057},
        f"{_KAPLAN}; C = 6 N D at a fixed batch",
        "Kaplan et al. 2020, table 5",
    ),
    "kaplan-c-min": Published(
        "kaplan-c",
        {"C_c": 3.1e8 * PF_DAY, "alpha_C": 0.050},
        f"{_KAPLAN}; C_min, adjusted to the critical batch",
        "Kaplan et al. 2020, eq. 1.3",
    ),
    "kaplan-nd": Published(
        "kaplan-nd",
        {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
        _KAPLAN,
        "Kaplan et al. 2020, table 2",
    ),
    "kaplan-ns": Published(
        "kaplan-ns",
        {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76},
        f"{_KAPLAN}; S_min, adjusted to the critical batch",
        "Kaplan et al. 2020, table 3",
    ),
    "hoffmann": Published(
        "chinchilla",
        {"E": np.exp(0.52672), "A": np.exp(6.00734), "B": np.exp(6.01792), "alpha": 0.33917, "beta": 0.28491},
        "total parameters; MassiveText",
        "Hoffmann et al. 2022, approach 3, unrounded as read by Besiroglu et al. 2024",
    ),
    "besiroglu": Published(
        "chinchilla",
        {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        "total parameters; the points of Hoffmann et al. 2022, figure 4",
        "Besiroglu et al. 2024 (arXiv 2404.10102), table 1",
    ),
    "beck-transformer": Published(
        "chinchilla-outer",
        {"E": np.exp(0.09), "A": np.exp(14.45), "B": np.exp(16.33), "alpha": 0.645, "beta": 0.626, "gamma": 0.253},
        "as in the source",
        "Beck et al. 2025 (arXiv 2510.02228), Transformer",
    ),
    "beck-xlstm": Published(
        "chinchilla-outer",
        {"E": np.exp(0.177), "A": np.exp(15.46), "B": np.exp(16.53), "alpha": 0.706, "beta": 0.653, "gamma": 0.258},
        "as in the source",
        "Beck et al. 2025 (arXiv 2510.02228), xLSTM",
    ),
}

POSITION = (
    {"E": 4.0, "A": 3.2, "alpha": 0.47},
    {"E": 3.4, "A": 4.0, "alpha": 0.56},
    {"E": 2.9, "A": 4.5, "alpha": 0.56},
    {"E": 2.7, "A": 4.9, "alpha": 0.60},
    {"E": 2.4, "A": 5.1, "alpha": 0.61},
    {"E": 2.3, "A": 5.4, "alpha": 0.62},
)
"""Loss per token by position, E + A T^-alpha, for Transformers of 1e6 to 774e6 parameters, smallest first: Kaplan et
al. 2020, appendix D.5, figure 20. Not every constant of the first, fourth and fifth was read in the paper."""
