"""Laws written at a reference inside the data."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.host.wording import power, with_and
from seqjax.laws import LAWS, fit, make_points
from seqjax.laws.reference import at_reference, reference
from seqjax.laws.summary import describe


@pytest.mark.parametrize(
    ("values", "round_number"), [((1e4, 1e8), 1e6), ((512, 8192), 1e3), ((2e3, 8e3), 4e3), ((2e18, 9e18), 4e18)]
)
def test_the_reference_is_round_and_inside(values: tuple[float, float], round_number: float) -> None:
    assert reference(np.array(values)) == round_number


def test_a_power_law_has_its_scale_inside_the_data() -> None:
    params = np.geomspace(1e4, 1e8, 9)
    found = fit(make_points((8.8e13 / params) ** 0.076, params=params), "kaplan-n", bootstrap=0)
    assert at_reference(found) == f"L = {(8.8e13 / 1e6) ** 0.076:.4g} (N / 1e6)^-0.0760"
    assert at_reference(found) in describe(found)
    start = LAWS["offset-c"].theta_P({"E": 2.0, "A": 50.0, "alpha": 0.1})[None]
    points = make_points(2 + 50 / (params * 1e12) ** 0.1, flops=params * 1e12)
    found = fit(points, "offset-c", bootstrap=0, starts_SxP=start)
    assert at_reference(found) == f"L = 2.000 + {50 / 1e18**0.1:.4g} (C / 1e18)^-0.100"


def test_powers_are_written_as_the_field_does() -> None:
    assert [power(value) for value in (1e21, 4.14e8, 6.02e23)] == ["1e21", "4.14e8", "6.02e23"]


@pytest.mark.parametrize(
    ("words", "said"), [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")]
)
def test_words_in_a_row_have_one_and(words: tuple[str, ...], said: str) -> None:
    assert with_and(words) == said
