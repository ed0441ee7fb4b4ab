"""The equations of a user's own family: what trains is what the file says, forward and backward."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import brought
import jax
import numpy as np
import pytest

from seqjax.families import GRU, family_of
from seqjax.models import build_model
from seqjax.plots.gradients import draw_gradient_norms
from seqjax.tasks.text import token_losses
from seqjax.training.gradients import gradient_norms


@pytest.fixture
def reference(tmp_path: Path) -> Any:
    """``reference("Leaky")``: the words that name the family of a file outside of the package."""
    return partial(brought.family_file, tmp_path)


def test_gradients_by_hand_and_by_jax_agree(reference: Any) -> None:
    plain, by_hand = (family_of(reference(name))(d_model=5, n_layers=1) for name in ("Leaky", "ByHand"))
    tokens = np.random.default_rng(0).integers(0, 7, (2, 7))
    params = jax.jit(build_model(plain, 7, 6).init)(jax.random.key(1), tokens[:, :-1])["params"]

    def gradient(model: Any) -> Any:
        return jax.jit(jax.grad(lambda p: token_losses(build_model(model, 7, 6), p, tokens)[0].mean()))(params)

    want = gradient(plain)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(want))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), gradient(by_hand), want)
    norms_TxTxB = jax.jit(lambda p: gradient_norms(by_hand, p, tokens))(params)["h"]
    assert norms_TxTxB.shape == (6, 6, 2)
    assert np.triu(norms_TxTxB[..., 0], 1).max() == 0 < norms_TxTxB[5, 0].min()  # the past alone, and all of it


def test_gradients_without_a_state_are_those_of_the_inputs(reference: Any) -> None:
    """The loss at t by the input at k, of a family that knows nothing of nudges."""
    model = family_of(reference("Mixer"))(d_model=5)
    tokens = np.random.default_rng(0).integers(0, 7, (2, 7))
    params = jax.jit(build_model(model, 7, 6).init)(jax.random.key(1), tokens[:, :-1])["params"]

    def losses_T(x_TxD: jax.Array) -> jax.Array:
        logits_TxV = model.run(params, x_TxD[None]).h_BxTxH[0] @ params["readout"]
        return -jax.nn.log_softmax(logits_TxV)[np.arange(6), tokens[1, 1:]]

    want_TxTxD = jax.jit(jax.jacrev(losses_T))(model.embedding_scale * params["embedding"][tokens[1, :-1]])
    (norms_TxTxB,) = jax.jit(lambda p: gradient_norms(model, p, tokens))(params).values()
    np.testing.assert_allclose(norms_TxTxB[..., 1], np.linalg.norm(want_TxTxD, axis=-1), rtol=1e-4, atol=1e-7)
    assert np.triu(norms_TxTxB[..., 1], 1).max() == 0 < norms_TxTxB[5, 0].min()
    drawn = draw_gradient_norms({model.family: {when: {"input": [[1.0, 0.5, 0.2]]} for when in ("initial", "trained")}})
    assert drawn.axes[0].get_title() == "mean mixer"


def test_a_step_of_ones_own_takes_no_backward_pass_from_its_base(reference: Any) -> None:
    text = brought.LEAKY.replace("(Recurrent)", "(GRU)").replace("import Recurrent", "import GRU")
    assert GRU.backprop is not None and family_of(reference("Leaky", text)).backprop is None
    assert family_of(reference("ByHand")).backprop is not None
    only_init = text[: text.index("    def step")]
    assert family_of(reference("Leaky", only_init)).backprop is GRU.backprop


COUPLED = '''"""An LSTM that forgets as much as it takes in."""

from dataclasses import dataclass

from seqjax.families import LSTM


@dataclass(frozen=True)
class Coupled(LSTM):
    def gates(self, params, state, gates_x_BxG, dtype):
        found = super().gates(params, state, gates_x_BxG, dtype)
        return found | {"i": 1 - found["f"]}
'''
LATE_BIAS = '''"""A cell whose step, not its projection, adds the bias."""

from dataclasses import dataclass

import jax.numpy as jnp

from seqjax.families import Recurrent
from seqjax.layers.precision import contract
from seqjax.through_time.gates import init_gates


@dataclass(frozen=True)
class LateBias(Recurrent):
    def init_cell(self, key, d_in):
        return init_gates(key, d_in, self.hidden, n_gates=1, bias=True)

    def project(self, params, x_TxBxD, dtype):
        return contract("TBD,DG->TBG", x_TxBxD, params["W_x"], dtype)

    def step(self, params, h_BxH, gates_x_BxG, dtype):
        return jnp.tanh(gates_x_BxG + contract("BH,HG->BG", h_BxH, params["W_h"], dtype) + params["b"])
'''


@pytest.mark.parametrize(("name", "text"), [("Coupled", COUPLED), ("LateBias", LATE_BIAS)])
def test_every_recurrence_runs_the_equations_of_the_file(name: str, text: str, reference: Any) -> None:
    family = family_of(reference(name, text))
    tokens_BxT = np.random.default_rng(0).integers(5, size=(3, 8))  # more tokens than words: the table is projected
    found = []
    for recurrence in ("fast", "lean", "scan"):
        model = build_model(family(d_model=8, n_layers=1, recurrence=recurrence), 5, 8)
        params = jax.jit(model.init)(jax.random.key(0), tokens_BxT)

        def loss(params: Any, model: Any = model) -> jax.Array:
            return (model.apply(params, tokens_BxT)[0] ** 2).sum()

        found.append((jax.jit(model.apply)(params, tokens_BxT)[0], jax.jit(jax.grad(loss))(params)))
    for others in found[:2]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), others, found[2])
