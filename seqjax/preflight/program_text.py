"""What the text of a compiled program tells: its matrix products, its collectives, its loops, its arrays.

A program for several devices is the program of one of them, with the shapes of one device. XLA's own cost
analysis is absent for cards, and counts the body of a loop once for TPUs, so everything is counted here.

    FLOPs of a product = 2 sqrt(|a| |b| |out| / batch)

since |a| = batch m k, |b| = batch k n and |out| = batch m n. TPU programs have convolutions in place of products; there
the batched axes are those with `lhs_dilate`. A true convolution of width w counts sqrt(w) too little.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

Array = tuple[str, tuple[int, ...]]
"""Type of the elements and lengths of the axes: ("f32", (4, 128))."""

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_OF_ONE_DEVICE = "manual_computation_body"
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Instruction:
    """One line of a program: `%name = arrays opcode(operands), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
        kind: one of `COLLECTIVES`.
        size: bytes that a device puts in.
        devices: number that take part.
        times: how often a step has it.
    """

    kind: str
    size: float
    devices: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends at least, in a ring: all-reduce sends everything twice, all-gather its own part to
        each other device."""
        others = self.devices - 1
        factor = {"all-reduce": 2 * others / self.devices, "all-gather": others, "collective-permute": 1.0}
        return self.times * self.size * factor.get(self.kind, others / self.devices)


class ProgramText:
    """A compiled program, or one that is lowered to HLO. A loop whose turns the text does not tell counts once: the
    loop over steps is one, so everything is counted for a step.

    Args:
        devices: of a lowered program, which is the program of all devices: the number that runs the parts of it that
            are written for one of them (`jax.shard_map`).
    """

    def __init__(self, text: str, devices: int = 1) -> None:
        self._devices = devices
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        lines: list[Instruction] = []
        for line in text.splitlines():
            if (head := _HEAD.match(line)) and " = " not in line.partition("(")[0]:
                lines = self._computations.setdefault(head[2], [])
                self._entry = head[2] if head[1] else self._entry
            elif found := _LINE.match(line):
                name, arrays, opcode, rest = found.groups()
                operands = re.findall(r"%?([A-Za-z_][\w.-]*)", _inside(rest))
                lines.append(Instruction(name, arrays_of(arrays), opcode, tuple(operands), rest))

    @cached_property
    def product_flops(self) -> float:
        """FLOPs of all matrix products of a step, on one device; those within kernels are not seen."""
        return sum(times * _product_flops(line, shapes) for line, shapes, times, _ in self._walk(self._entry))

    @cached_property
    def collectives(self) -> list[Collective]:
        """The exchanges between devices."""
        found = []
        for line, shapes, times, _ in self._walk(self._entry):
            kind = line.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                size = sum(bytes_of(array) for name in line.operands for array in shapes.get(name, ()))
                found.append(Collective(kind, size, _group(line.text), times))
        return found

    @cached_property
    def turns(self) -> int:
        """Turns of all loops of a step, those within others too: each waits for the one before it."""
        return sum(times * self._trips(line) for line, _, times, _ in self._walk(self._entry) if self._trips(line) > 1)

    @cached_property
    def arrays(self) -> frozenset[Array]:
        """The arrays that are written to memory: not those within a fusion."""
        return frozenset(array for line, _, _, fused in self._walk(self._entry) if not fused for array in line.arrays)

    @cached_property
    def kernels(self) -> Counter[str]:
        """Kernels that XLA did not write itself: name -> number in the text."""
        names = (re.search(r'custom_call_target="([^"]*)"', line.text) for line, *_ in self._walk(self._entry))
        return Counter(name[1] for name in names if name and re.search("cudnn|triton|mosaic|tpu_custom", name[1]))

    def _walk(
        self, name: str, times: int = 1, fused: bool = False
    ) -> Iterator[tuple[Instruction, dict[str, tuple[Array, ...]], int, bool]]:
        """Every instruction with the shapes beside it, how often a step does it, and whether it is in a fusion."""
        lines = self._computations.get(name, [])
        shapes = {line.name: line.arrays for line in lines}
        for line in lines:
            yield line, shapes, times, fused
            if line.opcode in ("fusion", "while", "call", "conditional", "async-start", "custom-call"):
                called = _CALLED.findall(line.text)
                called += [word.strip(" %") for group in _BRANCHES.findall(line.text) for word in group.split(",")]
                for other in called:
                    each = times * self._trips(line) * (self._devices if _OF_ONE_DEVICE in other else 1)
                    yield from self._walk(other, each, fused or line.opcode == "fusion")

    def _trips(self, line: Instruction) -> int:
        """Turns of a loop; 1 for anything else. Of a TPU's loop they are the constant that its condition compares."""
        if line.opcode != "while":
            return 1
        if told := _TRIPS.search(line.text):
            return int(told[1])
        condition = re.search(r"condition=%?([\w.-]+)", line.text)
        inside = self._computations.get(condition[1], []) if condition else []
        limits = [int(n[1]) for one in inside if (n := re.match(r"(\d+)\)", one.text)) and one.opcode == "constant"]
        return max(limits, default=1)


def arrays_of(text: str) -> tuple[Array, ...]:
    """The arrays of a shape such as `(f32[4,128]{1,0}, s32[])`."""
    return tuple((kind, tuple(int(n) for n in axes.split(",") if n)) for kind, axes in _ARRAY.findall(text))


def bytes_of(array: Array) -> float:
    """Bytes of an array."""
    bits = re.search(r"\d+", array[0])
    return math.prod(array[1]) * (int(bits[0]) / 8 if bits else 1)


def _inside(text: str) -> str:
    """The text up to the bracket that closes what was opened before it; without comments."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return re.sub(r"/\*.*?\*/", "", text[:place])
    return text


def _product_flops(line: Instruction, shapes: dict[str, tuple[Array, ...]]) -> float:
    library = line.opcode == "custom-call" and re.search(r'custom_call_target="__(cublas|onednn)', line.text)
    if not (library or line.opcode in ("dot", "convolution")) or len(line.operands) < 2 or not line.arrays:
        return 0.0
    left, right = (shapes.get(name, ()) for name in line.operands[:2])
    if not (left and right):
        return 0.0
    sizes = math.prod(left[0][1]) * math.prod(right[0][1]) * math.prod(line.arrays[0][1])
    return 2.0 * math.sqrt(sizes / _batch(line, left[0]))


def _batch(line: Instruction, left: Array) -> int:
    """Number of products that are independent of each other."""
    if line.opcode == "convolution":
        dilated = re.search(r"lhs_dilate=([\dx]+)", line.text)
        groups = re.findall(r"(?:feature|batch)_group_count=(\d+)", line.text)
        return math.prod(int(n) for n in (dilated[1].split("x") if dilated else []) + groups)
    axes = re.search(r'lhs_batch_dim(?:s=\{|ensions":\[)([\d,"]*)', line.text)
    return math.prod(left[1][int(n)] for n in re.findall(r"\d+", axes[1])) if axes else 1


def _group(text: str) -> int:
    """Devices that exchange with each other: `mesh['a'=8,'b'=2] {'a'}`, `mesh['a'=8,'b'=2], device_ids=([2,8]T(1,0))
    {'a'}`, `[2,4]<=[8]` or `{{0,1},{2,3}}`."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    return len(listed[1].split(",")) if listed else 2
