"""Settings of JAX that change numbers are pinned to their defaults, so that a run id does not depend on them.

Environment variables (JAX_ENABLE_X64, ...), `jax.config.update` and context managers such as `jax.enable_x64` are all
overridden, and restored afterwards. Variables that cannot be pinned are recorded in result.json.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

PINNED: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_matmul_precision": None,
    "jax_allow_f16_reductions": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_enable_custom_prng": False,
    "jax_legacy_prng_key": "allow",
    "jax_threefry_partitionable": True,
    "jax_threefry_gpu_kernel_lowering": False,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_softmax_custom_jvp": False,
    "jax_use_direct_linearize": True,
    "jax_scan3": False,
    "jax_remat3": False,
    "jax_custom_vjp3": False,
    "jax_compiler_enable_remat_pass": True,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_use_shardy_partitioner": True,
    "jax_disable_jit": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    # these would raise errors for expected numbers: a run that diverges, a matrix that is not definite
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_debug_key_reuse": False,
    "jax_check_tracer_leaks": False,
    "jax_enable_checks": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
}
"""Name of a setting -> its default in the version of JAX of the recorded runs."""

NOTED = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "SEQJAX_NATIVE")
"""Environment variables that may change numbers and cannot be pinned once a device is in use."""


@contextmanager
def pinned() -> Iterator[None]:
    """Pin the settings of JAX in the block; also a decorator. It costs nothing if they are at their defaults."""
    if "jax" not in sys.modules and not any(name.upper() in os.environ for name in PINNED):
        yield
        return
    import jax

    settings, found = jax.config, jax.config.values  # which collects all settings each time it is asked
    with ExitStack() as stack:
        for name, value in PINNED.items():
            now = found.get(name, value)
            if now == value:
                continue
            manager = getattr(jax, name.removeprefix("jax_"), None)
            if manager is not None:
                stack.enter_context(manager(value))  # for settings of this thread and of the process
            else:
                stack.callback(settings.update, name, now)
                settings.update(name, value)
        yield


def noted_environment() -> dict[str, str]:
    """The variables of `NOTED` that are set."""
    return {name: os.environ[name] for name in NOTED if os.environ.get(name)}
