"""The rows of the benchmark of an accelerator, the most important first; see accelerator.py.

Every system does the whole train step: embedding, layers, readout, mean cross-entropy of the next token, backward,
clipping at norm 1, AdamW. Parameters and optimizer are float32, the products in the dtype of the row (torch: autocast).
Batches lie on the device. The systems of a row live in one process and take turns; medians count.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from accelerator_systems import Build, buffered_loops, limited, on_cuda, scans_unrolled, torch_system
from jax import Array
from train_step import VOCABULARY, SeqjaxSystem, Shape, config_of, start, take_turns

from seqjax.config import Config
from seqjax.models import count_parameters, flops_per_token
from seqjax.models.language_model import build_model
from seqjax.tasks.text import next_token_loss
from seqjax.training.hardware import peak_flops

REPEATS, TURN_SECONDS, COMPILE_SECONDS = 5, 0.15, 60
Found = dict[str, dict[str, Any]]


class Row(NamedTuple):
    """One line of the file of rows.

    Attributes:
      name: of the row; what has it in the file is not measured again.
      goals: of performance which it decides.
      measure: what was found of each system, by the system's name.
    """

    name: str
    goals: str
    measure: Callable[[], Found]


class Case(NamedTuple):
    """A system of a row: the model that it trains, and how many of them at once."""

    build: Build
    config: Config
    vocab_size: int = VOCABULARY
    lanes: int = 1


def rows(tiny: bool) -> list[Row]:
    """All rows; tiny: one of every kind, of sizes for a test."""
    if tiny:
        small = Shape(8, 1, 2, 16)
        return [
            precision_errors("lstm", small),
            precision_speed("lstm", small, 0.0),
            recurrent("elman", small, "bfloat16", "", 0.0),
            unrolls(small, (2,), 0.0),
            command_buffers(small, False, (1, 2), 0.0),
            transformer(small, 64, 0.0),
            bundles(small, (2,), 0.0),
            families(small, small, 0.0),
        ]
    first, wide = Shape(256, 1, 64, 1024), Shape(768, 1, 16, 1024)
    others = {Shape(512, 1, 64, 256): "G4", wide: "G2", Shape(1024, 1, 256, 256): "G3 G4"}
    cells = [("gru", first, "G8"), ("gru", wide, ""), ("elman", first, "G8")]
    rest = [*(("lstm", shape, goals) for shape, goals in others.items()), *cells]
    return [
        precision_errors("lstm", Shape(64, 1, 8, 64)),
        precision_errors("transformer", Shape(64, 2, 8, 64)),
        precision_speed("lstm", Shape(512, 1, 64, 256)),
        precision_speed("transformer", Shape(256, 4, 64, 256)),
        recurrent("lstm", first, "bfloat16", "G1 G4 G8"),
        recurrent("lstm", first, "float32", ""),
        *(recurrent(family, shape, "bfloat16", goals) for family, shape, goals in rest),
        unrolls(first, (1, 4, 8, 16)),
        command_buffers(first, False, (1, 8)),
        transformer(Shape(384, 6, 64, 1024), VOCABULARY),
        transformer(Shape(768, 12, 16, 1024), 50304),
        bundles(Shape(128, 1, 16, 512), (1, 8, 32, 128)),
        families(Shape(768, 2, 64, 512), Shape(512, 3, 64, 512)),
        families(Shape(1024, 3, 64, 512), Shape(512, 8, 64, 512)),
        *(recurrent(family, shape, "float32", "") for family, shape, _ in rest),
        command_buffers(first, True, (1,)),  # last: a graph of all time steps may take long to make
    ]


def tokens_of(shape: Shape, vocab_size: int = VOCABULARY) -> np.ndarray:
    """Random tokens, int32 BxT+1."""
    return np.random.default_rng(0).integers(0, vocab_size, (shape.batch, shape.context + 1), np.int32)


def named(family: str, shape: Shape) -> str:
    """A model and its batch in a few letters."""
    return f"{family} {shape.layers}x{shape.width} B {shape.batch} T {shape.context}"


def in_a_line(error: BaseException) -> str:
    """What went wrong, at most 200 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines[0] != "needs CUDA" else lines[0]


def compare(cases: dict[str, Case], turn_seconds: float = TURN_SECONDS) -> Found:
    """Step times of several systems, by turns. A system that cannot be built or run has only an "error"."""
    started, found = {}, {}
    for name, case in cases.items():
        try:
            started[name] = start(case.build, turn_seconds)
        except Exception as error:  # one system must not take the row with it
            found[name] = {"error": in_a_line(error)}
    peak = peak_flops(1)
    for name, times in take_turns(started, REPEATS).items():
        case, step = cases[name], statistics.median(times)
        model, train = case.config.model, case.config.train
        speed = case.lanes * train.batch_size * train.context_length / step
        flops = speed * flops_per_token(model, case.vocab_size, train.context_length)["training"]
        found[name] = {
            "step_ms": 1e3 * step,
            "spread": (max(times) - min(times)) / step,
            "tokens_per_second": speed,
            "time_step_us": 1e6 * step / train.context_length,
            "tflops": flops / 1e12,
            "utilization": None if peak is None else flops / peak,
            "parameters": count_parameters(model, case.vocab_size, train.context_length)["total"],
            "compile_seconds": started[name].compile_seconds,
        }
        if isinstance(started[name].system, SeqjaxSystem):
            found[name]["temporary_bytes"] = started[name].system.memory()
    return {name: found[name] for name in cases}


def precision_errors(family: str, shape: Shape) -> Row:
    """Relative errors of logits and gradients in float32, by precision of the products, against float64 on the CPU."""
    model, tokens = config_of(family, shape).model, tokens_of(shape)

    def outputs(dtype: str, params: Any) -> tuple[Any, Any]:
        network = build_model(model, VOCABULARY, shape.context, dtype)

        def both(params: Any, tokens: Array) -> tuple[Array, Any]:
            loss = next_token_loss(network)
            grads = jax.grad(lambda params: loss(params, tokens, None, jax.random.key(0))[0])(params)
            return network.apply({"params": params}, tokens[:, :-1])[0], grads

        return jax.tree.map(np.float64, jax.device_get(jax.jit(both)(params, tokens)))

    def error(found: Any, wanted: Any) -> float:
        pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
        return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)))

    def measure() -> Found:
        with jax.default_device(jax.devices("cpu")[0]):
            network = build_model(model, VOCABULARY, shape.context)
            params = jax.device_get(jax.jit(network.init)(jax.random.key(0), tokens[:1, :1])["params"])
            with jax.enable_x64(True):
                logits, grads = outputs("float64", jax.tree.map(np.float64, params))
        found = {}
        for precision, dtype in (("default", "float32"), ("highest", "float32"), ("default", "bfloat16")):
            with jax.default_matmul_precision(precision):
                its_logits, its_grads = outputs(dtype, params)
            errors = {"logits_error": error(its_logits, logits), "gradient_error": error(its_grads, grads)}
            found[precision if dtype == "float32" else dtype] = errors
        return found

    return Row(f"precision, errors: {named(family, shape)}", "precision", measure)


def precision_speed(family: str, shape: Shape, turn_seconds: float = TURN_SECONDS) -> Row:
    """What `highest` costs: TF32 is the default for float32 on NVIDIA."""
    config, tokens = config_of(family, shape), tokens_of(shape)

    def build(precision: str) -> SeqjaxSystem:
        with jax.default_matmul_precision(precision):
            return SeqjaxSystem(config, tokens)

    cases = {name: Case(partial(build, name), config) for name in ("default", "highest")}
    return Row(f"precision, speed: {named(family, shape)}", "precision", partial(compare, cases, turn_seconds))


def recurrent(family: str, shape: Shape, dtype: str, goals: str, turn_seconds: float = TURN_SECONDS) -> Row:
    """Beside torch's module (cuDNN) and Flax's `nn.RNN`; for LSTM in bfloat16 also torch in float16, its fast path."""
    config, tokens = config_of(family, shape, dtype), tokens_of(shape)

    def flax_system() -> Any:
        from flax_models import FlaxSystem

        return FlaxSystem(config, VOCABULARY, tokens)

    builds = {"seqjax": lambda: SeqjaxSystem(config, tokens), "torch": torch_system(config, tokens)}
    if (family, dtype) == ("lstm", "bfloat16"):
        builds["torch float16"] = torch_system(config, tokens, dtype="float16")
    cases = {name: Case(build, config) for name, build in (builds | {"flax": flax_system}).items()}
    return Row(f"{named(family, shape)} {dtype}", goals, partial(compare, cases, turn_seconds))


def loops(config: Config, tokens: np.ndarray, unroll: int = 1, **options: Any) -> Case:
    """The LSTM with its loops unrolled by so much, and options of XLA."""

    def build() -> SeqjaxSystem:
        with scans_unrolled(unroll):
            return SeqjaxSystem(config, tokens, compiler_options=options)

    return Case(on_cuda(build) if options else build, config)


def unrolls(shape: Shape, steps: tuple[int, ...], turn_seconds: float = TURN_SECONDS) -> Row:
    """Time steps in an iteration of the loop."""
    config, tokens = config_of("lstm", shape, "bfloat16"), tokens_of(shape)
    cases = {f"unroll {n}": loops(config, tokens, n) for n in steps}
    return Row(f"loops, unrolled: {named('lstm', shape)} bfloat16", "G1 G4", partial(compare, cases, turn_seconds))


def command_buffers(shape: Shape, flat: bool, steps: tuple[int, ...], turn_seconds: float = TURN_SECONDS) -> Row:
    """The loop as a conditional node of a CUDA graph, or, flat, unrolled by XLA to a node for each kernel."""
    config, tokens = config_of("lstm", shape, "bfloat16"), tokens_of(shape)
    what = "command buffers, flat" if flat else "command buffers"

    def measure() -> Found:
        graph = buffered_loops(flat)
        cases = {f"while, unroll {n}": loops(config, tokens, n, **graph) for n in steps}
        return compare({"default": loops(config, tokens)} | cases, turn_seconds)

    return Row(f"loops, {what}: {named('lstm', shape)} bfloat16", "G1 G4", measure)


def transformer(shape: Shape, vocab_size: int, turn_seconds: float = TURN_SECONDS) -> Row:
    """With the device's kernel and with whole scores; torch's with `scaled_dot_product_attention`, and compiled.

    The readout is a matrix of its own in both, so 12 x 768 has 163 M parameters, where GPT-2's 124 M share the table.
    """
    config = config_of("transformer", shape, "bfloat16", n_heads=max(1, shape.width // 64))
    tokens = tokens_of(shape, vocab_size)
    whole = dataclasses.replace(config, model=dataclasses.replace(config.model, attention_kernel="whole"))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention_kernel="fused"))

    def compiled() -> Any:
        import torch

        torch.compiler.reset()  # or it would compile for any shape, having seen another
        with limited(COMPILE_SECONDS):
            system = torch_system(config, tokens, vocab_size, compiled=True)()
            system.run(1)  # compiles
        return system

    builds = {
        "seqjax": lambda: SeqjaxSystem(config, tokens, vocab_size),
        "seqjax, whole scores": lambda: SeqjaxSystem(whole, tokens, vocab_size),
        "torch": torch_system(config, tokens, vocab_size),
        "torch compiled": on_cuda(compiled),
    }
    cases = {name: Case(build, config, vocab_size) for name, build in builds.items()}
    return Row(f"{named('transformer', shape)} bfloat16", "G6", partial(compare, cases, turn_seconds))


def bundles(shape: Shape, lanes: tuple[int, ...], turn_seconds: float = TURN_SECONDS) -> Row:
    """Many runs in one program."""
    config, tokens = config_of("lstm", shape, "bfloat16"), tokens_of(shape)
    cases = {f"{n} runs": Case(partial(SeqjaxSystem, config, tokens, lanes=n), config, lanes=n) for n in lanes}
    return Row(f"bundles: {named('lstm', shape)} bfloat16", "G5", partial(compare, cases, turn_seconds))


def families(lstm: Shape, transformer: Shape, turn_seconds: float = TURN_SECONDS) -> Row:
    """An LSTM and a Transformer of as many parameters without embeddings."""
    cases = {}
    for family, shape in (("lstm", lstm), ("transformer", transformer)):
        heads = {"n_heads": max(1, shape.width // 64)} if family == "transformer" else {}
        config = config_of(family, shape, "bfloat16", **heads)
        cases[f"{family} {shape.layers}x{shape.width}"] = Case(partial(SeqjaxSystem, config, tokens_of(shape)), config)
    name = f"{' and '.join(cases)}, B {lstm.batch} T {lstm.context} bfloat16"
    return Row(name, "G7", partial(compare, cases, turn_seconds))
