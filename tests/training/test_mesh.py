"""Devices that share the rows of a batch, and parameters: equal to one device, and what they send to each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from seqjax.config import Config, run_id
from seqjax.errors import UserError
from seqjax.families import FAMILIES
from seqjax.families.family import Lookup
from seqjax.layers import cross_entropy
from seqjax.layers.sharing import axis_of
from seqjax.layers.target import compiled_for, target_of
from seqjax.tasks.text import make_objective
from seqjax.training import lanes
from seqjax.training.loop import train

V = 40


@pytest.mark.parametrize(("tied", "fsdp"), [(False, 1), (True, 1), (True, 2)])
def test_each_device_computes_the_logits_of_its_own_rows(
    monkeypatch: pytest.MonkeyPatch, tied: bool, fsdp: int
) -> None:
    """Two devices that share the readout gather it, and sum and cut its gradient; without sharing they only sum it."""
    monkeypatch.setattr(cross_entropy, "CPU_LOGITS", 12 * V)  # chunks of 12 tokens
    rng = np.random.default_rng(0)
    x_BxTxD = rng.normal(size=(4, 9, 8)).astype(np.float32)
    W = rng.normal(size=(V, 8) if tied else (8, V)).astype(np.float32)
    targets_BxT = rng.integers(0, V, (4, 9))

    def loss(x_BxTxD: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = {"embedding" if tied else "readout": W}
        tokens_BxT = cross_entropy.token_cross_entropy(x_BxTxD, params, "float32", targets_BxT)
        return cross_entropy.mean_cross_entropy(x_BxTxD, params, "float32", targets_BxT), tokens_BxT

    one = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    mesh = Mesh(np.array(jax.devices()).reshape(-1, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    held, rows = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P(("data", "fsdp")))
    traced = compiled_for(target_of(mesh))(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    two = jax.jit(traced, in_shardings=(rows, held)).lower(x_BxTxD, W).compile()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), one(x_BxTxD, W), two(x_BxTxD, W))
    text = two.as_text()
    assert "all-reduce" in text and all((name in text) == (fsdp > 1) for name in ("all-gather", "reduce-scatter"))
    assert max(int(n) for n in re.findall(rf"f32\[(\d+),{V}\]", text)) == 9  # two chunks of 18 rows


def test_a_device_projects_the_table_of_tokens_only_if_it_has_more_tokens_than_rows() -> None:
    """The table of 30 tokens is worth it for the 40 tokens of one device, and not for the 20 of each of two."""
    model = FAMILIES["lstm"](8, n_layers=1)
    rng = np.random.default_rng(0)
    params = {name: init(jax.random.key(0)) for name, init in model.init(10).items()}
    table_VxD, ids_BxT = rng.normal(size=(30, 8)).astype(np.float32), rng.integers(0, 30, (4, 10))

    def loss(params: Any, table_VxD: jax.Array) -> jax.Array:
        return (model.run(params, Lookup(ids_BxT, table_VxD)).h_BxTxH ** 2).sum()

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    one, two = (
        compiled_for(target_of(where))(jax.value_and_grad(loss, argnums=(0, 1))) for where in (jax.devices()[0], mesh)
    )
    projected = "f32[30,32]"
    assert projected in str(jax.make_jaxpr(one)(params, table_VxD))
    assert projected not in str(jax.make_jaxpr(two)(params, table_VxD))
    found = [jax.jit(f)(params, table_VxD) for f in (one, two)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


def test_parameters_are_cut_along_their_largest_axis() -> None:
    assert axis_of((32, 3, 8, 64), 4) == 3 and axis_of((6, 64, 10), 4) == 1
    assert axis_of((6, 10), 4) is None and axis_of((64,), 4) is None and axis_of((64, 64), 1) is None


def test_where_a_run_is_computed_is_no_part_of_its_id(make_config: Any) -> None:
    plain = make_config("gru")
    assert run_id(make_config("gru", **{"train.mesh": {"data": 2, "fsdp": 2}, "train.remat": True})) == run_id(plain)


MISTAKES = [
    ({"data": 8, "fsdp": 4}, None, "train.mesh: data 8 x fsdp 4 = 32 devices: this machine has 2 of them"),
    ({"fsdp": 2}, 1, "train.mesh: data null x fsdp 2: needs a multiple of 2 devices, not 1"),
    ({"data": 2}, 1, "train.mesh: data 2 x fsdp 1: needs 2 devices, not 1"),
    ({"data": 2}, None, "cannot be shared among 2 devices; change it, or choose --devices among 1"),
]


@pytest.mark.parametrize(("mesh", "devices", "message"), MISTAKES)
def test_a_mesh_that_does_not_fit_is_refused(make_config: Any, mesh: Any, devices: Any, message: str) -> None:
    odd = {"train.batch_size": 3} if "shared" in message else {}
    with pytest.raises(UserError, match=re.escape(message)):
        lanes._mesh(make_config("gru", **{f"train.mesh.{axis}": n for axis, n in mesh.items()}, **odd), devices)


def test_a_recomputed_block_has_the_same_gradients_and_keeps_less(make_config: Any) -> None:
    plain = make_config("transformer", **{"train.batch_size": 8})
    objective = make_objective(plain, V)
    params, tokens = jax.jit(objective.init)(jax.random.key(0)), jnp.zeros((8, 17), jnp.int32).at[:, ::3].set(7)

    def gradient(remat: bool) -> Any:
        traced = lanes.recomputed(remat)(jax.grad(lambda p: objective.loss(p, tokens, None, jax.random.key(1))[0]))
        compiled = jax.jit(traced).lower(params).compile()
        return compiled(params), str(jax.make_jaxpr(traced)(params)).count("remat2")

    (kept, none), (again, some) = gradient(False), gradient(True)
    assert none == 0 and some > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), kept, again)


@pytest.mark.slow
def test_a_run_goes_on_with_another_mesh(make_config: Any, crash_at: Any, tmp_path: Path) -> None:
    """On two devices that share parameters, then on one; from one checkpoint."""
    changes = {"data.batching": "streams", "train.log_every": 1}
    one, two = (make_config("lstm", **changes, **mesh) for mesh in ({}, {"train.mesh.fsdp": 2}))
    whole = train(one, tmp_path / "whole", devices=1, quiet=True)
    with crash_at(15):
        train(two, tmp_path / "cut", quiet=True)
    found = train(one, tmp_path / "cut", devices=1, quiet=True)
    assert found["validation"]["loss"] == pytest.approx(whole["validation"]["loss"], rel=1e-4)
    assert found["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)
    assert "resuming at step 10" in (tmp_path / "cut" / "log.txt").read_text()


@pytest.fixture(scope="module")
def eight() -> dict[str, Any]:
    """See tests/eight_devices.py."""
    script = Path(__file__).parents[1] / "eight_devices.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Involuntary" not in done.stderr  # XLA would have gathered activations
    return json.loads(done.stdout)


LAYER = {"W_qkv": 768, "W_o": 256, "W_in and W_out": 1024, "b_qkv": 48}
OTHERS = {"embedding and readout": 512, "positions": 384}


@pytest.mark.slow
def test_eight_devices_that_share_the_batch(eight: dict[str, Any]) -> None:
    """A Transformer's step sends the gradients and nothing else; each device has an eighth of the logits."""
    found = eight["data"]
    assert found["loss"] == pytest.approx(eight["one"]["loss"], rel=1e-5)
    close(found["params"], eight["one"]["params"])
    assert set(found["collectives"]) == {"all-reduce"}
    assert found["rows of logits"] == eight["one"]["rows of logits"] / 8 == 48
    assert eight["one"]["activations of all rows"] and not found["activations of all rows"]


@pytest.mark.slow
def test_eight_devices_that_share_the_parameters(eight: dict[str, Any]) -> None:
    """Parameters are gathered layer by layer, forward and backward; no activation and no moment is."""
    found = eight["fsdp"]
    assert found["loss"] == pytest.approx(eight["one"]["loss"], rel=1e-5)
    close(found["params"], eight["one"]["params"])
    assert found["cut arrays"] == 3 * 8 and eight["data"]["cut arrays"] == 0  # parameters, and Adam's two moments
    sent = {int(size): count for size, count in found["collectives"]["all-gather"].items()}
    assert set(sent) == {*LAYER.values(), *OTHERS.values()}
    assert sent[512] == 2 and sent[768] == sent[256] == 2 * 2  # layers x directions
    assert sent[1024] == 2 * 2 * 2
    assert set(found["collectives"]) == {"all-gather", "all-reduce", "reduce-scatter"}
    assert found["collectives"]["reduce-scatter"] == {str(512 // 4): 1}  # of the readout
    assert not found["activations of all rows"] and found["rows of logits"] <= 48


@pytest.mark.slow
def test_a_bundle_and_each_kind_of_family_on_eight_devices(eight: dict[str, Any]) -> None:
    """Streams in micro-batches too."""
    one, shared = eight["bundle"]
    np.testing.assert_allclose(one, shared, rtol=1e-5)
    assert len(eight["families"]) == 3
    for family, (loss, gradient) in eight["families"].items():
        assert loss < 1e-5 and gradient < 1e-4, family


def close(a: list[list[float]], b: list[list[float]]) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_the_default_mesh_is_as_before(make_config: Any) -> None:
    config: Config = make_config("gru")
    assert lanes._mesh(config, 2).axis_names == ("data",) and lanes._mesh(config, None).size == 1
    shared = make_config("gru", **{"train.mesh.fsdp": 2})
    assert dict(lanes._mesh(shared, None).shape) == {"data": 1, "fsdp": 2}
