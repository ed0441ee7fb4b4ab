"""Tiny models compiled for accelerators that are not here. Each target is skipped where its compiler is absent.

The compilers take 4 to 30 s of CPU for each program. So every family is compiled for eight cards, one of each way
through time for a slice of TPUs, and one card alone or shared parameters only where these make a difference.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import pytest

from seqjax.config import RunConfig
from seqjax.families import FAMILIES
from seqjax.families.transformer import Transformer
from seqjax.preflight.accelerators import target_named
from seqjax.preflight.compiling import Compiled, compile_step, shapes_of
from seqjax.preflight.needs import check
from seqjax.preflight.program_text import Array
from seqjax.runs.config_file import validate
from seqjax.runs.tree import options_tree

pytestmark = pytest.mark.slow

V, B, D = 777, 56, 16  # no other axis of a tiny model has B or V elements
T = {"matrix state": 72}  # more than a piece, of 64
FUSED = {"attention_kernel": "fused"}
FORMS = {
    **{name: {} for name in FAMILIES if name != "transformer"},
    **{f"transformer {form}": FUSED | fields for form, fields in Transformer.forms.items()},
    "rg_lru hybrid": FUSED | {"n_layers": 2, "blocks": ["recurrent", "attention"]},
    "gated_deltanet": {"d_model": 30, "n_heads": 3},  # a device's 7 rows of 2 heads in 4 blocks would be 56 matrices
}
"""Every family; of the Transformer both forms; a hybrid. Attention is fused."""
ON_A_SLICE = ("lstm", "window", "rg_lru", "mamba2", "transformer modern")
PLACES = [
    *((form, "8xh100") for form in FORMS),
    *((form, "v5e-4") for form in ON_A_SLICE),
]


def config_of(form: str, **changes: Any) -> RunConfig:
    """A tiny model in bfloat16."""
    family = FAMILIES[form.partition(" ")[0]]
    there = {field.name for field in dataclasses.fields(family)}
    tiny = {"d_model": D, "n_layers": 1, "n_heads": 2, "d_ff": 40}
    model = {name: value for name, value in tiny.items() if name in there} | FORMS[form] | {"family": family.family}
    others = {
        "data.corpus": "unused", "data.tokenizer": f"bpe-{V}", "train.compute_dtype": "bfloat16",
        "train.batch_size": B, "train.context_length": T.get(family.through_time, 24),
    }  # fmt: skip
    return validate(options_tree({f"model.{name}": value for name, value in model.items()} | others | changes))


def step_of(form: str, target: str, **changes: Any) -> tuple[RunConfig, Compiled]:
    """A tiny model, and its train step for a target."""
    need(target)
    config = config_of(form, **changes)
    return config, compile_step(config, shapes_of(config), target_named(target))


def need(target: str) -> None:
    """Skip the test where the compiler for the target is absent."""
    names, extra = (("libtpu",), "tpu") if target.startswith("v") else (
        ("jax_cuda12_plugin", "jax_cuda13_plugin"), "preflight")  # fmt: skip
    if not any(map(importlib.util.find_spec, names)):
        pytest.skip(f"the compiler for {target} is absent: pip install 'seqjax[{extra}]'")


def squares(arrays: frozenset[Array], length: int) -> list[Array]:
    """The arrays of T x T."""
    return [array for array in arrays if array[1].count(length) >= 2]


def sent(step: Compiled) -> set[tuple[str, int]]:
    """Kinds of exchanges, each with the number of devices."""
    return {(one.kind, one.devices) for one in step.text.collectives}


@pytest.mark.parametrize(("form", "target"), PLACES)
def test_a_model_of_every_family_shares_its_batch(form: str, target: str) -> None:
    """Each device computes its own rows of the batch, and sends its gradients and nothing else."""
    config, step = step_of(form, target)
    devices = target_named(target).devices
    assert 1e5 < step.memory < 1e8
    assert sent(step) == {("all-reduce", devices)}
    assert step.shared == pytest.approx(1.0, abs=0.15)
    assert not [array for array in step.text.arrays if B in array[1] or B * config.train.context_length in array[1]]
    assert any(B // devices in axes for _, axes in step.text.arrays)
    assert not squares(step.text.arrays, config.train.context_length)
    if FAMILIES[config.model.family].through_time == "nonlinear":
        assert step.text.turns >= 2 * config.train.context_length / 8  # of forward and backward, unrolled by 8


@pytest.mark.parametrize("form", ["lstm", "transformer modern"])
def test_a_model_fits_one_card(form: str) -> None:
    """With its evaluation; attention is cuDNN's."""
    need("h100")
    found = check(config_of(form, **{"evaluation.batch_size": 8}), target_named("h100"))
    assert found.fits and found.scores is False and not found.step.text.collectives
    as_compiled = found.step.text.product_flops / found.step.shared
    assert as_compiled == pytest.approx(found.step_flops, rel=0.35)
    assert found.evaluation.shared == pytest.approx(1.0, abs=0.35)
    assert any("fmha" in name for name in found.step.text.kernels) == form.startswith("transformer")


@pytest.mark.parametrize("form", ["lstm", "rg_lru", "retention", "transformer gpt2"])
def test_shared_parameters_are_gathered_and_their_gradients_summed(form: str) -> None:
    """Four devices share every matrix, two groups share the batch: one family of each way through time."""
    config, step = step_of(form, "8xh100", **{"train.mesh.data": 2, "train.mesh.fsdp": 4})
    assert ("all-gather", 4) in sent(step)
    assert {kind for kind, _ in sent(step)} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert {devices for kind, devices in sent(step) if kind == "all-gather"} == {4}
    assert step.shared == pytest.approx(1.0, abs=0.15)
    assert not [array for array in step.text.arrays if B in array[1] or B * config.train.context_length in array[1]]


def test_a_run_that_does_not_fit_is_told() -> None:
    """A TPU's compiler refuses it, with the bytes that it would need."""
    _, step = step_of("lstm", "v5e-4", **{"train.batch_size": 4_000_000, "train.context_length": 48})
    assert step.text is None and 16 * 2**30 < step.memory < 2**50
