"""Fixtures of the folders whose tests compute with tiny arrays; their conftest.py imports them."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def no_rank_promotion() -> Iterator[None]:
    """Broadcasting between arrays of different rank is an error: shapes are written out."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_compilation() -> Iterator[None]:
    """These programs are tiny and run briefly: compiling them well costs more than it saves."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
