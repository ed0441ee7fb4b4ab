"""Fixtures for all tests: two CPU devices, a cache of the session, no wandb, a small text, the folder of real data."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["WANDB_MODE"] = "disabled"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["NPROC"] = "8"  # XLA's threads: as many devices as threads would starve each other's collectives for ever
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["SEQJAX_TEST_SESSION"] = tempfile.mkdtemp(prefix="seqjax-tests-")
# Compiled programs, C++ functions and tokens of this session: all its processes share them, and nothing outlives it.
os.environ["SEQJAX_CACHE"] = os.environ["SEQJAX_TEST_SESSION"] + "/cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["SEQJAX_TEST_SESSION"] + "/xla")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import pytest
from hypothesis import settings

IS_MAIN = "PYTEST_XDIST_WORKER" not in os.environ
SESSION = Path(os.environ["SEQJAX_TEST_SESSION"])
REPOSITORY = Path(__file__).parent.parent
RAW_DATA = os.environ.get("SEQJAX_DATA")
COMPILE_QUICKLY = " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


# Examples are drawn anew in each session, so many sessions try many of them.
settings.register_profile("few", max_examples=30, deadline=None)
settings.load_profile("few")


def pytest_configure() -> None:
    """Everything is compiled without optimization, in a seventh of the time: tests compile more than they compute.

    Runs that are compared with recorded ones are the exception: experiment.trained_as_by_a_user.
    """
    if IS_MAIN:
        environment = {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"] + COMPILE_QUICKLY}
        probe = [sys.executable, "-c", "import jax; jax.devices()"]  # XLA aborts on a flag that it does not know
        if subprocess.run(probe, env=environment, capture_output=True).returncode == 0:
            os.environ.update(environment)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_unconfigure() -> None:
    if IS_MAIN:
        shutil.rmtree(SESSION, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real corpora that some tests compare with; skips where it is absent."""
    for folder in (RAW_DATA, REPOSITORY.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("the folder of real corpora is absent: set SEQJAX_DATA to it")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpora that a test makes are never among the user's."""
    monkeypatch.setenv("SEQJAX_DATA", str(SESSION / "cache" / "corpora"))


@pytest.fixture(scope="module")
def needs_compiled() -> None:
    """Skips where there are no C++ functions. That a compiler makes them is tested in tests/native/test_build.py."""
    from seqjax.layers import native

    if not native.compiled():
        pytest.skip("no C++ compiler here")


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of about 60 kB with some structure: sentences of words from a small vocabulary."""
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioubcdfglmnprst", k=rng.randint(2, 7))) for _ in range(200)]
    lines = [" ".join(rng.choices(words[: rng.choice([20, 200])], k=8)).capitalize() + "." for _ in range(1500)]
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def shared_programs() -> Iterator[None]:
    """From the first test on that trains, equal programs are compiled once in a process."""
    from shared_programs import share as share_programs

    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


@pytest.fixture
def make_config(small_text: Path, shared_programs: None) -> Callable[..., Any]:
    """``make_config(family, **{"train.steps": 3})``: a tiny config on the small text, with dotted changes."""
    from seqjax.runs.config_file import validate
    from seqjax.runs.tree import options_tree, overlay

    models = {
        "elman": {"d_model": 16, "n_layers": 1},
        "lstm": {"d_model": 16, "n_layers": 2},
        "gru": {"d_model": 16, "n_layers": 1},
        "transformer": {"d_model": 16, "n_layers": 2, "n_heads": 2},
        "window": {"d_model": 8, "d_ff": 32, "window": 4},
        "rg_lru": {"d_model": 16, "n_layers": 2},
        "gated_deltanet": {"d_model": 16, "n_layers": 1, "n_heads": 2},
    }

    def make(family: str = "lstm", **changes: Any) -> Any:
        base = {f"model.{key}": value for key, value in {"family": family, **models[family]}.items()} | {
            "data.corpus": str(small_text),
            "train.steps": 20,
            "train.batch_size": 8,
            "train.context_length": 16,
            "train.log_every": 5,
            "train.checkpoint_every": 10,
            "optimizer.learning_rate": 1e-2,
            "evaluation.every": 10,
            "evaluation.windows": 32,
            "evaluation.final_windows": 64,
            "evaluation.batch_size": 16,
        }
        return validate(overlay(options_tree(base), options_tree(changes)))

    return make


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """``with crash_at(17):`` training ends in a RuntimeError where the batch of that step is made."""

    @contextlib.contextmanager
    def crashing(at: int) -> Iterator[None]:
        from seqjax.tasks import text

        real = text.batch_at

        def batch_at(config: Any, shard: Any, step: int) -> Any:
            if step == at:
                raise RuntimeError("crash")
            return real(config, shard, step)

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
            patch.setattr(text, "batch_at", batch_at)
            yield

    return crashing


FAMILIES = ("lstm", "gru", "transformer", "window")
QUICK_FAMILIES = ("lstm", "transformer")


@pytest.fixture(params=[f if f in QUICK_FAMILIES else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn. One with gates and one with attention are in the quick part."""
    return request.param
