"""Fixtures for all tests: two CPU devices, a cache of our own, no wandb, a small text, the folder of shared data."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["WANDB_MODE"] = "disabled"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["NPROC"] = "8"  # XLA's threads: as many devices as threads would starve each other's collectives for ever
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest

REPOSITORY = Path(__file__).parent.parent
RAW_DATA = os.environ.get("SEQJAX_DATA")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real corpora that some tests compare with; skips where it is absent."""
    for folder in (RAW_DATA, REPOSITORY.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("the folder of real corpora is absent: set SEQJAX_DATA to it")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share one cache of tokens among themselves and never see the user's."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("SEQJAX_CACHE", str(cache))
    monkeypatch.setenv("SEQJAX_DATA", str(cache / "corpora"))


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of about 60 kB with some structure: sentences of words from a small vocabulary."""
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioubcdfglmnprst", k=rng.randint(2, 7))) for _ in range(200)]
    lines = [" ".join(rng.choices(words[: rng.choice([20, 200])], k=8)).capitalize() + "." for _ in range(1500)]
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def make_config(small_text: Path) -> Callable[..., Any]:
    """``make_config(family, **{"train.steps": 3})``: a tiny config on the small text, with dotted changes."""
    from seqjax.config.tree import options_tree, overlay
    from seqjax.runs.config_file import validate

    models = {
        "elman": {"d_model": 16, "n_layers": 1},
        "lstm": {"d_model": 16, "n_layers": 2},
        "gru": {"d_model": 16, "n_layers": 1},
        "transformer": {"d_model": 16, "n_layers": 2, "n_heads": 2},
        "window": {"d_model": 8, "d_ff": 32, "window": 4},
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


FAMILIES = ("elman", "lstm", "gru", "transformer", "window")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param
