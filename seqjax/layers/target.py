"""The device that a program is traced for. Kernels are chosen by it, and not by the machine that compiles.

What builds a program says it (`compiled_for`). Otherwise it is the device on which `jax.jit` runs by default. JAX keeps
the traces of different targets apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from jax.sharding import Mesh


@dataclass(frozen=True)
class Target:
    """What a program is compiled for.

    Attributes:
      platform: "cpu", "cuda", "rocm" or "tpu".
      capability: compute capability of an NVIDIA GPU, (9, 0) for an H100; generation of a TPU, (5, 0) for v5e and v5p.
      mesh: the devices that share the batch, along all axes of the mesh; None: one device.
    """

    platform: str
    capability: tuple[int, int] | None = None
    mesh: Mesh | None = None


_SAID = jax.make_user_context(None)


def target() -> Target:
    """What the program that is being traced is compiled for."""
    if _SAID.value is not None:
        return _SAID.value
    default = jax.config.jax_default_device
    return target_of(jax.local_devices(backend=default)[0] if default is None or isinstance(default, str) else default)


@contextmanager
def compiled_for(target: Target) -> Iterator[None]:
    """Programs traced in the block are for this target; also a decorator of a function that is traced."""
    with _SAID(target):
        yield


def target_of(devices: jax.Device | Mesh) -> Target:
    """The target of one device, or of a mesh of equal ones; also of devices that are only described (a topology)."""
    device, mesh = (devices.devices.flat[0], devices) if isinstance(devices, Mesh) else (devices, None)
    mesh = None if mesh is None or mesh.size == 1 else mesh
    if device.platform == "tpu":
        generation = re.search(r"\d+", device.device_kind)  # "TPU v5 lite", "TPU7x"
        return Target("tpu", (int(generation[0]), 0) if generation else None, mesh)
    if device.platform not in ("gpu", "cuda", "rocm"):
        return Target(device.platform, mesh=mesh)
    major, _, minor = str(device.compute_capability).partition(".")  # of AMD's: gfx942
    if not (major.isdigit() and minor.isdigit()):
        return Target("rocm", mesh=mesh)
    return Target("cuda", (int(major), int(minor)), mesh)
