"""One run on a target: what its programs need, whether they fit and share their batch, and a bound on their time."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import jax

from seqjax.config import Config, RunConfig, lane_keys, text_without
from seqjax.models.accounting import group_of
from seqjax.models.language_model import initial_values
from seqjax.preflight.accelerators import Target
from seqjax.preflight.compiling import Compiled, Shapes, compile_evaluation, compile_step, shapes_of
from seqjax.runs.targets import training_flops_per_token

NOT_OF_A_PROGRAM = (
    *("train.seed", "train.steps", "train.log_every", "train.checkpoint_every", "train.evaluate_every"),
    *("evaluation.every", "evaluation.windows", "evaluation.final_windows", "data.corpus"),
)
"""Keys that no compiled program depends on; `lane_keys` are others."""


@dataclass(frozen=True)
class Bound:
    """Seconds that a program takes at least, each cause alone: nothing is faster, and everything real is slower.

    Attributes:
        products: FLOPs at the peak of the devices.
        memory: arguments and results once, and temporary arrays twice (written, read), at the memory's bandwidth.
        link: what a device sends at the speed of its link; networks between hosts are slower.
    """

    products: float
    memory: float
    link: float

    @property
    def seconds(self) -> float:
        """The largest of the three: the bound if they overlap completely."""
        return max(self.products, self.memory, self.link)

    @property
    def by(self) -> str:
        """The cause of the largest."""
        return max(("products", "memory", "link"), key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Check:
    """A run on a target.

    Attributes:
        step, evaluation: the two programs.
        step_flops, evaluation_flops: of all devices, by accounting; of tasks other than text as compiled.
        scores, logits: whether a program has an array of T x T for every head of every sequence of a device, or of
            V for every token of a device; None: it cannot be told from the lengths of axes.
    """

    config: RunConfig
    target: Target
    step: Compiled
    evaluation: Compiled
    step_flops: float
    evaluation_flops: float
    scores: bool | None
    logits: bool | None

    @property
    def memory(self) -> float:
        """Bytes of a device that training needs; an evaluation has the optimizer's state beside it."""
        beside = max(0.0, self.step.arguments - self.evaluation.arguments)
        return max(self.step.memory, self.evaluation.memory + beside)

    @property
    def fits(self) -> bool:
        """Whether it needs no more than the device has."""
        return self.memory <= self.target.chip.memory

    @property
    def peak(self) -> float:
        """FLOP/s of one device in the run's precision."""
        half = self.config.train.compute_dtype == "bfloat16"
        return self.target.chip.peak if half else self.target.chip.peak_float32

    @property
    def step_bound(self) -> Bound:
        """Of a train step."""
        return self._bound(self.step, self.step_flops)

    @property
    def evaluation_bound(self) -> Bound:
        """Of a held-out batch."""
        return self._bound(self.evaluation, self.evaluation_flops)

    def device_hours(self, steps: int, share: float | None = None) -> float:
        """Hours of all devices for this many steps: at the bound, or at a share of the peak if that takes longer."""
        seconds, devices = self.step_bound.seconds, self.target.devices
        if share is not None:
            seconds = max(seconds, self.step_flops / (devices * self.peak * share))
        return steps * seconds * devices / 3600

    def _bound(self, compiled: Compiled, flops: float) -> Bound:
        chip, sent = self.target.chip, sum(one.sent for one in compiled.text.collectives) if compiled.text else 0.0
        moved = compiled.arguments + compiled.results + 2 * compiled.temporary
        return Bound(flops / (self.target.devices * self.peak), moved / chip.bandwidth, sent / chip.link)


def check(config: RunConfig, target: Target) -> Check:
    """Compile the train step and the evaluation of a run.

    Raises:
        UserError: the target's compiler is not installed; the devices cannot share the batch.
    """
    shapes = shapes_of(config)
    step, evaluation = compile_step(config, shapes, target), compile_evaluation(config, shapes, target)
    scores, logits = (_any(config, shapes, (step, evaluation), target, what) for what in ("T", "V"))
    if shapes.vocabulary is None:
        flops = [one.text.product_flops * target.devices if one.text else 0.0 for one in (step, evaluation)]
        return Check(config, target, step, evaluation, *flops, scores, logits)
    length = config.train.context_length
    a_token = training_flops_per_token(config, shapes.vocabulary)
    rows = shapes.batch.shape[0], shapes.held_out.shape[0]
    return Check(
        config, target, step, evaluation, a_token * rows[0] * length, a_token / 3 * rows[1] * length, scores, logits
    )


def program_of(config: RunConfig) -> str:
    """The same text for all runs that have the same programs."""
    keys = {*lane_keys(config), *NOT_OF_A_PROGRAM}
    sections = {key: key.partition(".")[::2] for key in keys}
    there = [key for key, (section, name) in sections.items() if hasattr(getattr(config, section, None), name)]
    return text_without(config, there)


def batch_that_fits(found: Check) -> int | None:
    """About the largest `train.batch_size` whose train step fits: on a line through the memory of two batches, of which
    one is compiled for it. None: not even the smallest does."""
    config, limit = found.config, found.target.chip.memory
    grain = found.target.devices * config.train.accumulation
    here, needs = config.train.batch_size, found.step.memory
    other = 2 * here if needs <= limit else max(grain, int(here * limit / (2 * needs)) // grain * grain)
    if other == here:
        return here if needs <= limit else None
    resized = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=other))
    there = compile_step(resized, shapes_of(resized), found.target).memory
    if math.isinf(there) or math.isinf(needs):
        return min((size for size, memory in ((here, needs), (other, there)) if memory <= limit), default=None)
    slope = max((there - needs) / (other - here), 1.0)
    return max(0, int((here + (limit - needs) / slope) // grain * grain)) or None


def _any(
    config: RunConfig, shapes: Shapes, programs: tuple[Compiled, Compiled], target: Target, what: str
) -> bool | None:
    """Whether one of the programs has an array of T x T for each head (``what`` is "T"), or of V for each token."""
    if not isinstance(config, Config) or any(one.text is None for one in programs):
        return None
    length, heads = config.train.context_length, getattr(config.model, "n_heads", 1)
    inits = initial_values(config.model, shapes.vocabulary, length)
    params = jax.eval_shape(lambda key: {name: init(key) for name, init in inits.items()}, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    widths = {n for path, leaf in leaves if group_of(path) in ("matrices", "vectors") for n in leaf.shape}
    axis, least, many = (length, 2, heads) if what == "T" else (shapes.vocabulary, 1, length)
    if (axis in widths and many == 1) or (what == "V" and axis in widths | {length}):
        return None
    batches = shapes.batch.shape[0] // config.train.accumulation, shapes.held_out.shape[0]
    for one, rows in zip(programs, batches, strict=True):
        enough = max(1, rows // target.devices) * many * axis**least
        if any(axes.count(axis) >= least and math.prod(axes) >= enough for _, axes in one.text.arrays):
            return True
    return False
