"""The environment does not change what a run id means: settings of JAX are overruled, and stay what they were."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from quick import slow

import seqjax
from seqjax.host.numerics import PINNED, noted_environment, pinned
from seqjax.training.loop import train

OTHERS = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_default_matmul_precision": "bfloat16",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_disable_jit": True,
    "jax_random_seed_offset": 3,
    "jax_softmax_custom_jvp": True,
    "jax_legacy_prng_key": "error",
    "jax_check_tracer_leaks": True,
    "jax_disable_most_optimizations": True,
}
SHORT = {"train.steps": 3, "evaluation.windows": 4, "evaluation.final_windows": 4, "model.dropout": 0.1}


def trained(config: Any, folder: Path) -> list[np.ndarray]:
    """The parameters of a run, and its held-out loss."""
    result = train(config, folder, quiet=True)
    params = seqjax.open(folder).params
    return [np.array(result["validation"]["loss"]), *map(np.asarray, jax.tree.leaves(params))]


@pytest.mark.parametrize("family", ["lstm", slow("transformer")])
def test_settings_of_jax_do_not_change_a_run(make_config: Any, family: str, tmp_path: Path) -> None:
    config = make_config(family, **SHORT)
    expected = trained(config, tmp_path / "as ever")
    with ExitStack() as stack:
        for name, value in OTHERS.items():
            stack.callback(jax.config.update, name, jax.config.values[name])
            jax.config.update(name, value)
        found = trained(config, tmp_path / "other settings")
        assert all(jax.config.values[name] != PINNED[name] for name in OTHERS)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name, value",
    [("enable_x64", True), ("default_prng_impl", "rbg"), ("numpy_rank_promotion", "raise"), ("debug_nans", True),
     ("default_matmul_precision", "bfloat16"), ("numpy_dtype_promotion", "strict"), ("disable_jit", True)],
)  # fmt: skip
def test_context_managers_are_overruled_and_come_back(name: str, value: Any) -> None:
    with getattr(jax, name)(value):
        before = getattr(jax.config, f"jax_{name}")
        with pinned():
            assert getattr(jax.config, f"jax_{name}") == PINNED[f"jax_{name}"]
        assert getattr(jax.config, f"jax_{name}") == before != PINNED[f"jax_{name}"]


def test_settings_come_back_after_an_error() -> None:
    with jax.enable_x64(True):
        with pytest.raises(ZeroDivisionError), pinned():
            raise ZeroDivisionError
        assert jax.config.jax_enable_x64


def test_every_pinned_setting_is_known_to_this_jax_and_at_its_default() -> None:
    assert {name: jax.config.values[name] for name in PINNED} == PINNED


PROGRAM = """
import sys
from pathlib import Path
from seqjax.cli import main
sys.exit(main(["train", sys.argv[1], "--run", sys.argv[2], "--quiet", "--no-sample"]))
"""


@pytest.mark.slow
def test_variables_of_the_environment_do_not_change_a_run(make_config: Any, tmp_path: Path) -> None:
    from seqjax.config import to_dict
    from seqjax.config.plain import dump_yaml
    from seqjax.runs import read_result

    config = make_config("lstm", **SHORT)
    (tmp_path / "c.yaml").write_text(dump_yaml(to_dict(config)))
    expected = train(config, tmp_path / "here", quiet=True)
    variables = {
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DEBUG_NANS": "1",
        "JAX_RANDOM_SEED_OFFSET": "7",
        "JAX_THREEFRY_PARTITIONABLE": "0",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
    }
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "c.yaml"), str(tmp_path / "there")]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = read_result(tmp_path / "there")
    assert found["validation"] == expected["validation"]
    assert found["environment"]["XLA_FLAGS"] == variables["XLA_FLAGS"]


def test_what_cannot_be_held_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert noted_environment() == {"NVIDIA_TF32_OVERRIDE": "0"}
