"""A fixture of the folders whose tests compute with tiny arrays; their conftest.py imports it."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def no_rank_promotion() -> Iterator[None]:
    """Broadcasting between arrays of different rank is an error: shapes are written out."""
    with jax.numpy_rank_promotion("raise"):
        yield
