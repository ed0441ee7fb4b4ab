"""Accelerators that programs can be compiled for without having one, and what their makers say of them.

A name is a number of cards and a card (`8xh100`), or a TPU slice under Google's name for it (`v5e-4`). A slice of v5p
counts TensorCores, two a chip: `v5p-8` has four chips.

Sources. Cards: NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM and HGX B200 (without sparsity; the link is
NVLink, half of the figure for both directions), and for the compiler the target descriptions of OpenXLA
(xla/backends/gpu/target_config/specs in github.com/openxla/xla). TPUs: docs.cloud.google.com/tpu/docs, pages v5e, v5p
and v6e (the link is half of the bidirectional figure of a chip); the memory is what the TPU compiler allows a program.
Peaks of bfloat16: `seqjax.training.hardware`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from seqjax.errors import UserError, did_you_mean
from seqjax.training.hardware import PEAK_BFLOAT16

GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        peak: bfloat16 FLOP/s of matrix products.
        peak_float32: FLOP/s of products of float32 arrays at JAX's default precision: TF32 on cards, bfloat16 on TPUs.
        memory: bytes that programs can use.
        bandwidth: bytes per second of the memory.
        link: bytes per second that a device sends to the others of its host or slice.
        described: for cards, the text that XLA compiles for.
    """

    peak: float
    peak_float32: float
    memory: float
    bandwidth: float
    link: float
    described: str = ""


@dataclass(frozen=True)
class Target:
    """A number of equal devices.

    Attributes:
        name: as users write it.
        platform: "cuda" or "tpu".
        topology: what the compiler calls the arrangement: slices x hosts x cards of a host, or `v5e:2x2`.
    """

    name: str
    platform: str
    topology: str
    devices: int
    chip: Chip


def _card(
    name: str, peak: float, peak_float32: float, link: float, memory: int, bandwidth: float, *, cores: int,
    clock: float, capability: tuple[int, int], cache: int, shared: int, shared_optin: int, fpus: int, dnn: str,
) -> Chip:  # fmt: skip
    """A card, described as OpenXLA does. A twentieth of its memory is left to the driver and to libraries.

    Args:
        cores, clock: multiprocessors, GHz; cache: bytes of L2; fpus: of a multiprocessor.
        shared, shared_optin: bytes of shared memory of a multiprocessor, and of a block at most.
        dnn: the version of cuDNN.
    """
    extension = "ACCELERATED_FEATURES" if capability >= (9, 0) else "NONE"
    major, minor, patch = dnn.split(".")
    described = f"""
      gpu_device_info {{
        threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
        shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared_optin}
        core_count: {cores} fpus_per_core: {fpus} clock_rate_ghz: {clock} l2_cache_size: {cache}
        block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
        thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
        registers_per_core_limit: 65536 registers_per_block_limit: 65536
        memory_bandwidth: {bandwidth:.0f} device_memory_size: {memory}
        cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} feature_extension: {extension} }}
      }}
      platform_name: "CUDA"
      dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}
      device_description_str: "{name}"
    """
    return Chip(peak, peak_float32, 0.95 * memory, bandwidth, link, described)


_HOPPER = {"cores": 132, "clock": 1.98, "capability": (9, 0), "cache": 52428800, "shared": 233472,
           "shared_optin": 232448, "fpus": 128, "dnn": "9.10.0"}  # fmt: skip
CARDS = {
    "a100": _card(
        "NVIDIA A100-SXM4-80GB", PEAK_BFLOAT16["A100"], 156e12, 300e9, 85100068864, 2.03904e12, cores=108, clock=1.41,
        capability=(8, 0), cache=41943040, shared=167936, shared_optin=166912, fpus=64, dnn="9.10.0",
    ),
    "h100": _card(
        "NVIDIA H100 80GB HBM3", PEAK_BFLOAT16["H100"], 494.5e12, 450e9, 84942979072, 3.35232e12, **_HOPPER
    ),
    "h200": _card(
        "NVIDIA H200 141GB HBM3e", PEAK_BFLOAT16["H200"], 494.5e12, 450e9, 151397597184, 4.8e12, **_HOPPER
    ),
    "b200": _card(
        "NVIDIA B200", PEAK_BFLOAT16["B200"], 1.1e15, 900e9, 191514411008, 7.67232e12, cores=148, clock=1.965,
        capability=(10, 0), cache=132644864, shared=233472, shared_optin=232448, fpus=128, dnn="9.10.0",
    ),
}  # fmt: skip
CARDS_OF_A_HOST = 8

_V5E, _V5P, _V6E = (PEAK_BFLOAT16[name] for name in ("TPU v5e", "TPU v5p", "TPU v6"))
_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4", 256: "4x4x8", 512: "4x8x8"}
SLICES = {
    "v5e": (Chip(_V5E, _V5E, 15.75 * GIB, 819e9, 200e9), _FLAT),
    "v5p": (Chip(_V5P, _V5P, 95.74 * GIB, 2765e9, 600e9), _CUBES),
    "v6e": (Chip(_V6E, _V6E, 31.25 * GIB, 1638e9, 400e9), _FLAT),
}
"""Kind of TPU -> its chip; the number in the name of a slice -> its topology."""


def target_named(text: str, where: str = "command line: --on") -> Target:
    """The target of a name such as `h100`, `8xh100` or `v5e-256`.

    Args:
        where: the option that names it, for the message.
    Raises:
        UserError: there is no such card, slice or number of cards.
    """
    count, card = re.fullmatch(r"(?:(\d{1,5})x)?(.*)", text.strip().lower()).groups()
    if card in CARDS:
        number = int(count or 1)
        if number < 1 or (number > CARDS_OF_A_HOST and number % CARDS_OF_A_HOST):
            raise UserError(f"{where} {text}: expected up to {CARDS_OF_A_HOST} cards, or whole hosts of as many")
        hosts = math.ceil(number / CARDS_OF_A_HOST)
        return Target(text, "cuda", f"1x{hosts}x{number // hosts}", number, CARDS[card])
    kind, _, size = card.partition("-")
    if kind in SLICES and count is None and (size or "0").isdigit():
        chip, topologies = SLICES[kind]
        if (shape := topologies.get(int(size or 0))) is None:
            known = ", ".join(f"{kind}-{number}" for number in topologies)
            raise UserError(f"{where} {text}: there is no such slice; expected {known}")
        return Target(text, "tpu", f"{kind}:{shape}", math.prod(map(int, shape.split("x"))), chip)
    names = [*CARDS, *(f"{name}-{number}" for name, (_, shapes) in SLICES.items() for number in shapes)]
    raise UserError(
        f"{where} {text}: expected {', '.join(CARDS)}, several of a card (8xh100), or a TPU slice (v5e-4, v5p-8, "
        f"v6e-8, ...){did_you_mean(card, names)}"
    )
