"""Hardware and versions of a run, and the peak FLOP/s of devices."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import jax

from seqjax import __version__
from seqjax.errors import UserError

# Dense bfloat16 matrix FLOP/s of one device, vendor figures (data sheets of NVIDIA, Google Cloud TPU documentation).
PEAK_BFLOAT16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v4": 275e12,
    "TPU v3": 123e12,
}


def present_devices() -> list[jax.Device]:
    """The devices of this machine.

    Raises:
        UserError: JAX_PLATFORMS names a missing platform, or an accelerator does not start.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the CUDA plugin asserts
        reason = (str(error).splitlines() or [""])[0].partition(" (set JAX_PLATFORMS")[0]
        named = f"JAX_PLATFORMS={jax.config.jax_platforms}: " if jax.config.jax_platforms else ""
        raise UserError(
            f"{named}no such device can be used here{f' ({reason})' if reason else ''}; unset JAX_PLATFORMS, or set "
            "JAX_PLATFORMS=cpu"
        ) from None


SHARE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


def refuse_share(device: jax.Device, dtype: str) -> None:
    """Refuse 16-bit products on a card of which NVIDIA's multi-process service gives this process a percentage.

    Their results are wrong by factors of thousands, without a word; float32 was right (one H100, jax 0.11.2:
    experiments/results/accelerator/NOTES.md).

    Raises:
        UserError: it is so.
    """
    share = os.environ.get(SHARE, "").strip()
    if device.platform == "gpu" and dtype != "float32" and share not in ("", "100"):
        raise UserError(
            f"{SHARE}={share}: with a part of a card, products in {dtype} come out wrong: unset it, or take "
            "--train.compute-dtype float32"
        )


def peak_flops(devices: int) -> float | None:
    """Peak bfloat16 FLOP/s of ``devices`` devices of the first one's kind; None if unknown (CPUs)."""
    kind = jax.devices()[0].device_kind
    return next((peak * devices for name, peak in PEAK_BFLOAT16.items() if name.lower() in kind.lower()), None)


def describe_hardware() -> dict[str, str | int]:
    """Platform, device, number of devices, processor and cores."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that affect a run's numbers."""
    names = ("seqjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tiktoken")
    return {"python": platform.python_version(), **{name: describe_package(name) for name in names}}


def made_by() -> dict[str, str]:
    """What decides the last digits of a run's numbers: another version or device may round otherwise."""
    device, versions = describe_hardware(), describe_versions()
    what = device["processor"] if device["platform"] == "cpu" else device["device"]
    return {**{name: versions[name] for name in ("seqjax", "jax", "jaxlib")}, "device": str(what)}


def describe_package(name: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def machine_key(*others: str) -> str:
    """A digest of the machine's kind and software: where it is equal, programs can be used, and take as long.

    Args:
        others: what else programs depend on. Those that train call the C++ functions: `native.version()`.
    """
    device, flags = present_devices()[0], ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    parts = (_processor(), flags, device.device_kind, describe_package("jaxlib"), __version__, *others)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
