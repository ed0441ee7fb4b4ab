"""What a program is compiled for is said by what builds it, and not asked of the machine that compiles."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import seqjax
from seqjax.config import Config
from seqjax.config.sections import TrainConfig
from seqjax.families import Transformer
from seqjax.layers import native
from seqjax.layers.attention import init_attention, self_attention
from seqjax.layers.cross_entropy import mean_cross_entropy
from seqjax.layers.target import Target, compiled_for, target, target_of
from seqjax.tasks.text import make_objective
from seqjax.through_time.linear import linear_scan
from seqjax.training import lanes
from seqjax.training.state import Hyper

CUDA = Target("cuda", (9, 0))


class Described:
    """A device of a topology."""

    def __init__(self, platform, capability=None):
        self.platform, self.compute_capability = platform, capability


def test_nothing_in_the_package_asks_for_the_default_backend():
    """Nor traces all platforms and has XLA choose: one way to say what is compiled for is enough."""
    for path in Path(seqjax.__file__).parent.rglob("*.py"):
        found = re.search(r"default_backend|platform_dependent", path.read_text())
        assert not found, f"{path}: {found.group()}; seqjax.layers.target says what is compiled for"


def test_target_of_devices():
    assert target_of(Described("cpu")) == Target("cpu")
    assert target_of(Described("gpu", "9.0")) == CUDA
    assert target_of(Described("cuda", "12.1")) == Target("cuda", (12, 1))
    assert target_of(Described("gpu", "gfx942")) == Target("rocm")
    one = Mesh(np.array(jax.devices()[:1]), ("data",))
    assert target_of(one) == target_of(jax.devices()[0])


def test_it_is_the_default_device_unless_it_is_said():
    assert target().platform == jax.devices()[0].platform.replace("gpu", "cuda")
    with compiled_for(CUDA):
        assert target() == CUDA
    with jax.default_device(jax.devices("cpu")[0]):
        assert target().platform == "cpu"


def test_a_jitted_function_is_traced_for_every_target():
    seen = []
    f = jax.jit(lambda x: (seen.append(target().platform), x)[1])
    with compiled_for(Target("tpu")):
        jax.make_jaxpr(f)(1.0)
    with compiled_for(CUDA):
        jax.make_jaxpr(f)(1.0)
        jax.make_jaxpr(f)(1.0)
    assert seen == ["tpu", "cuda"]


def traced(target, f, *args):
    """The program of a target as text."""
    return str(jax.make_jaxpr(compiled_for(target)(f))(*args))


def test_kernels_follow_the_target():
    """Attention in C++, logits in chunks for the cache, loops not unrolled, one step after the other: only on a CPU."""
    params, x = init_attention(jax.random.key(0), 8, 2, True, 0.5, 0.5), jnp.ones((1, 160, 8))
    layer = lambda x: self_attention(params, x, 0, None, None, "float32")[0]  # noqa: E731
    logits = lambda x: mean_cross_entropy(x, {"readout": jnp.ones((8, 2**14))}, "float32", jnp.zeros((1, 160), int))  # noqa: E731
    scan = lambda a: linear_scan(a, a, a[0])  # noqa: E731
    assert "160,160]" not in traced(Target("cpu"), layer, x) and "160,160]" in traced(CUDA, layer, x)
    assert "ffi_call" not in traced(CUDA, layer, x)
    assert "160,16384]" not in traced(Target("cpu"), logits, x) and "160,16384]" in traced(CUDA, logits, x)
    a = jnp.ones((9, 1, 2))
    assert "length=9" in traced(Target("cpu"), scan, a) and "length=9" not in traced(CUDA, scan, a)
    with compiled_for(CUDA):
        assert native.steps_in_a_turn() == native.UNROLLED and not native.in_use() and native.form() == "XLA"
    with compiled_for(Target("cpu")):
        assert native.steps_in_a_turn() == 1


def test_the_train_step_is_traced_for_its_mesh(monkeypatch):
    """The program of a mesh of H100s, made on this machine: the step and the evaluation have their kernel."""
    model = Transformer(d_model=8, n_layers=1, n_heads=1, attention_kernel="fused")
    config = Config(model, train=TrainConfig(steps=2, batch_size=4, context_length=33, compute_dtype="bfloat16"))
    monkeypatch.setattr(lanes, "target_of", lambda mesh: CUDA)
    program = lanes.make_program(config, make_objective(config, 16), devices=1)
    state, spec = jax.eval_shape(program.init), jax.ShapeDtypeStruct
    batches, rates = spec((program.steps_at_once, 4, 34), jnp.int32), spec((program.steps_at_once,), jnp.float32)
    hyper, resets = Hyper(rates, spec((), jnp.float32)), spec((program.steps_at_once,), bool)
    step = str(program.steps.trace(state, batches, hyper, resets, spec((), jnp.int32)).jaxpr)
    score = str(program.score.trace(state.params, spec((4, 34), jnp.int32), None).jaxpr)
    assert "dot_product_attention_bwd" in step and "dot_product_attention_fwd" in score and "33,33]" not in step + score
