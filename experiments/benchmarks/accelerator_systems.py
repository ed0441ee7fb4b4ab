"""What the systems of accelerator_rows.py are put together of: torch's, and parts of ours exchanged for others."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from train_step import VOCABULARY

from seqjax.config import Config
from seqjax.layers import native

BUFFERED = "FUSION CUBLAS CUBLASLT CUSTOM_CALL CUDNN DYNAMIC_SLICE_FUSION".split()  # XLA's default
Build = Callable[[], Any]


def on_cuda(build: Build) -> Build:
    """`build`, which an accelerator of NVIDIA is needed for."""

    def checked() -> Any:
        if jax.default_backend() == "cpu":
            raise RuntimeError("needs CUDA")
        return build()

    return checked


def torch_system(config: Config, tokens: np.ndarray, vocab_size: int = VOCABULARY, **options: Any) -> Build:
    """How torch's system is built; torch is imported then."""

    def build() -> Any:
        from torch_models import TorchSystem

        return TorchSystem(config, vocab_size, tokens, **{"compiled": False} | options)

    return build


@contextlib.contextmanager
def scans_unrolled(steps: int) -> Iterator[None]:
    """Recurrences traced within have so many time steps in an iteration of their loops."""
    before = native.steps_in_a_turn
    native.steps_in_a_turn = lambda: steps
    try:
        yield
    finally:
        native.steps_in_a_turn = before


def buffered_loops(flat: bool) -> dict[str, Any]:
    """Options of XLA that put loops into command buffers (CUDA graphs), beside what is in them by default."""
    kinds = ",".join([*filter(_is_known, BUFFERED), "WHILE"])
    unrolled = {"xla_gpu_command_buffer_unroll_loops": True} if flat else {}
    return {"xla_gpu_enable_command_buffer": kinds} | unrolled


def _is_known(kind: str) -> bool:
    """Whether this XLA knows a kind of command in buffers; the names have changed."""
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options={"xla_gpu_enable_command_buffer": kind})
    except Exception:
        return False
    return True


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """A TimeoutError after so many seconds."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
