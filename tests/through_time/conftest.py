from __future__ import annotations

import jax
import pytest


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """Broadcasting between arrays of different rank is an error: shapes are written out."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These programs are tiny and run once: compiling them well costs more than it saves."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
