"""Which cases of a parameter are in the quick part of the tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *few: Any) -> list[Any]:
    """All cases as values of a parameter: `make test` takes the few, `make test-slow` the others."""
    every = list(cases)
    assert all(case in every for case in few), few
    return [case if case in few else slow(*case) if isinstance(case, tuple) else slow(case) for case in every]


def slow(*case: Any) -> Any:
    """One case that `make test` leaves out."""
    return pytest.param(*case, marks=pytest.mark.slow)
