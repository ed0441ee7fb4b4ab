"""Stacked recurrent layers, shared by the recurrent families. A family adds the equations of its cell.

    h_t^l = cell(h_{t-1}^l, norm(x_t^{l-1}))                   l = 1 .. L
    x_t^l = h_t^l, or with residual connections x_t^{l-1} + h_t^l

The norm and the residual connections are options, both off by default. The first layer has neither: its inputs are
embeddings of another width or scale. So they change nothing in a model of one layer.

Dropout applies to the inputs of layers, never to the recurrence (Zaremba et al. 2014, arXiv 1409.2329). A bidirectional
model has a second stack from the last element to the first, h_t = [forward_t, backward_t] (Schuster & Paliwal 1997,
IEEE Trans. Signal Processing 45(11)).

A decoder without attention (Cho et al. 2014, arXiv 1406.1078) has the mean of the memory m_1 .. m_S as the context c of
every step. A decoder with attention (Bahdanau et al. 2015, arXiv 1409.0473, equations 4 to 6 and appendix A.2.2) has

    e_tj = v . tanh(W_s s_{t-1} + W_m m_j),  a_t = softmax(e_t),  c_t = sum_j a_tj m_j
    s_t  = cell(s_{t-1}, [y_{t-1}, c_t]),    s_0 = tanh(W_0 mean(m) + b_0)
    o_t  = tanh(W_out [s_t, c_t, y_{t-1}] + b_out)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from pydantic import Field, PositiveInt

from seqjax.families.family import Family, Impossible, Inputs, Lookup, Output, Watch, check_base_width, rows
from seqjax.layers.attention import additive_attention
from seqjax.layers.dense import Params, draw_normal, dropout, scan_layers, stack_init
from seqjax.layers.norms import init_norm, normalize
from seqjax.layers.pooling import pool_mean
from seqjax.layers.precision import carry_dtype, contract
from seqjax.layers.sharing import block, devices, gathered, shared
from seqjax.through_time.backprop import Backprop
from seqjax.through_time.gates import project_gates
from seqjax.through_time.nonlinear import output, tabulate, unroll, watch

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
State = Any  # a pytree of BxH arrays; of all layers LxBxH
Memory = dict[str, Array]
Tree = Any


@dataclass(frozen=True)
class Recurrent(Family):
    """The base of the recurrent families. A subclass defines `init_cell` and `step`; the rest is optional.

    Parameters (float32): "layers", the cell's weights with a leading axis L. If H differs from D, the first layer has
    another shape than the others. Then "first" holds it, and "layers" the other L - 1. A bidirectional model has the
    same once more in "backward". With a norm, "norms" holds the gains of the layers above the first, (L - 1)xH.
    """

    d_model: PositiveInt = 128
    """D, width of the embedding."""
    d_hidden: PositiveInt | None = None
    """H, width of the recurrent state; null: equal to d_model."""
    n_layers: PositiveInt = 2
    """L, stacked recurrent layers."""
    bias: bool = True
    """Biases in the gates and in the readout."""
    tied_embeddings: bool = False
    """Use the embedding table as the readout."""
    dropout: Fraction = 0.0
    """Dropout rate on the inputs of each layer and of the readout."""
    recurrence: Literal["fast", "lean", "scan", "kernel"] = "fast"
    """Backward pass: fast (own), lean (own; memory does not grow with context x gates), scan (plain, the reference),
    kernel (LSTM and GRU: all steps in one kernel on an NVIDIA GPU, H up to 128 in bfloat16, or a TPU, where no one has
    measured it; else fast)."""
    residual: bool = False
    """Residual connections around the layers above the first."""
    norm: Literal["layernorm", "rmsnorm", "none"] = "none"
    """Normalization of the inputs of the layers above the first."""
    base_width: PositiveInt | None = None
    """d_model at which muP is the standard parametrization: a rate found there holds at all widths; null: no muP."""
    alignment: Literal["full", "none"] = "full"
    """With base_width, how the rates of matrices fall: full, as 1 / width (muP); none, as its root (for LSTMs)."""

    through_time: ClassVar[str] = "nonlinear"
    recurrent: ClassVar[bool] = True
    reads_memory: ClassVar[bool] = True
    states: ClassVar[tuple[str, ...]] = ("h",)
    """Names of the cell's state arrays, the output first."""
    backprop: ClassVar[Backprop | None] = None
    """A backward pass written by hand; None: JAX differentiates `step`."""
    later: ClassVar[dict[str, Any]] = {
        "recurrence": "fast",
        "residual": False,
        "norm": "none",
        "base_width": None,
        "alignment": "full",
    }

    def init_cell(self, key: Array, d_in: int) -> Params:
        """Parameters of one layer, float32: {"W_x": d_in x G, "W_h": HxG, "b": G, ...}."""
        raise NotImplementedError

    def step(self, params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> State:
        """The state after one step, float32; its first array is the output h."""
        raise NotImplementedError

    def project(self, params: Params, x_TxBxD: Array, dtype: DTypeLike) -> Array:
        """gates_x_TxBxG = W_x x_t + b, float32, for all steps at once: it does not depend on the state."""
        return project_gates(params, x_TxBxD, dtype)

    def gates(self, params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> dict[str, Array]:
        """Activations inside a step, by name, each BxH, for `seqjax inspect`."""
        return {}

    @property
    def hidden(self) -> int:
        """H."""
        return self.d_hidden or self.d_model

    def width(self, causal: bool = True) -> int:
        """H, or 2 H if bidirectional."""
        return self.hidden if causal else 2 * self.hidden

    @property
    def shape(self) -> str:
        """Layers and H."""
        return f"{self.n_layers}x{self.hidden}"

    def widened(self, d_model: int) -> Self:
        """The model at another D. H, if given, stays in proportion."""
        hidden = None if self.d_hidden is None else self.proportional(self.d_hidden, d_model)
        return dataclasses.replace(self, d_model=d_model, d_hidden=hidden)

    def check(self) -> None:
        """Raise `Impossible` when a tied table cannot be the readout."""
        check_base_width(self)
        if self.alignment == "none" and self.base_width is None:
            raise Impossible("model.alignment", "needs model.base_width; allowed: full")
        if self.tied_embeddings and self.hidden != self.d_model:
            raise Impossible("model.tied_embeddings", f"needs d_hidden {self.hidden} equal to d_model {self.d_model}")

    def cell_state(self, batch: int) -> State:
        """Zeros BxH, float32: one array, or a tuple where the cell has several."""
        zeros = tuple(jnp.zeros((batch, self.hidden), jnp.float32) for _ in self.states)
        return zeros if len(zeros) > 1 else zeros[0]

    def zero_state(self, batch: int, context: int = 0, dtype: DTypeLike = "float32") -> State:
        """Zero states of all layers, float32 LxBxH; `context` is not used."""
        return jax.tree.map(lambda h: jnp.zeros((self.n_layers, *h.shape), h.dtype), self.cell_state(batch))

    def no_nudges(self, batch: int, times: int) -> Tree:
        """Zeros like the state after every step, TxLxBxH."""
        return jax.tree.map(lambda h: jnp.zeros((times, *h.shape)), self.zero_state(batch))

    def init(self, context: int, causal: bool = True) -> dict[str, Callable[[Array], Params]]:
        """Functions of the key for "first", "layers", "norms" and "backward", as far as the model has them."""
        inits: dict[str, Callable[[Array], Params]] = {}
        if self.hidden != self.d_model:
            inits["first"] = partial(self.init_cell, d_in=self.d_model)
        n_equal = self.n_layers - len(inits)
        if n_equal:
            inits["layers"] = stack_init(partial(self.init_cell, d_in=self.hidden), n_equal)
        inits |= self._init_norms()
        if causal:
            return inits
        return inits | {"backward": lambda key: {name: init(key) for name, init in inits.items()}}

    def _init_norms(self) -> dict[str, Callable[[Array], Params]]:
        """{"norms": a function of a key}, or {} for a model without norms. The key is not used."""
        above = self.n_layers - 1
        if self.norm == "none" or above == 0:
            return {}
        return {"norms": lambda _: jax.tree.map(partial(repeat, n=above), init_norm(self.norm, self.hidden, self.bias))}

    def run(
        self,
        params: Params,
        x: Inputs,
        state: State = None,
        *,
        mask_BxT: Array | None = None,
        causal: bool = True,
        memory: Tree = None,
        key: Array | None = None,
        dtype: DTypeLike = "float32",
        truncate: int | None = None,
        watch: Watch | None = None,
    ) -> Output:
        """See `Family.run`. Seen when watched: the cell's states and gates by name, LxTxBxH."""
        x_TxBxD = Lookup(x.ids_BxT.T, x.scaled()) if isinstance(x, Lookup) else x.swapaxes(0, 1)
        if memory is not None:
            return self._decode(params, x_TxBxD, state, memory, key, dtype)
        batch = (x_TxBxD.ids_BxT if isinstance(x, Lookup) else x_TxBxD).shape[1]
        mask_TxB = None if mask_BxT is None else mask_BxT.T
        start = self.zero_state(batch) if state is None else state
        stack = partial(self._stack, state=start, key=key, dtype=dtype, truncate=truncate, watched=watch)
        h_TxBxH, state, seen = stack(params, x_TxBxD, mask_TxB=mask_TxB)
        if not causal:
            back_TxBxD = rows(x_TxBxD)[::-1]
            back_TxBxH, _, _ = stack(
                params["backward"], back_TxBxD, mask_TxB=None if mask_TxB is None else mask_TxB[::-1]
            )
            h_TxBxH = jnp.concatenate([h_TxBxH, back_TxBxH[::-1]], axis=-1)
        return Output(h_TxBxH.swapaxes(0, 1), state, seen)

    def _stack(
        self,
        params: Params,
        x_TxBxD: Inputs,
        *,
        state: State,
        mask_TxB: Array | None,
        key: Array | None,
        dtype: DTypeLike,
        truncate: int | None,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:
        """All layers over T steps. The first is run apart: its width may differ, and it may read a table."""
        nudges = watched.of_layers() if watched else None

        def run_layer(x_TxBxD: Array, layer: tuple[Params, State, Tree, Array]) -> tuple[Array, tuple[State, dict]]:
            """The layer's output h_TxBxH, its last state, and the watched arrays."""
            layer_params, layer_state, nudges, index = layer
            layer_params, x_TxBxD = gathered(layer_params), shared(x_TxBxD, axis=1)
            x_TxBxD = dropout(x_TxBxD, key, index, self.dropout)
            if watched is None:
                h_TxBxH, last = unroll(
                    self, layer_params, x_TxBxD, layer_state, dtype, self.recurrence, mask_TxB, truncate
                )
                return h_TxBxH, (last, {})
            h_TxBxH, last, states, gates = watch(self, layer_params, x_TxBxD, layer_state, dtype, mask_TxB, nudges)
            return h_TxBxH, (last, dict(zip(self.states, jax.tree.leaves(states), strict=True)) | gates)

        def run_tabulated(x_TxB: Lookup, layer: tuple[Params, State, Tree, Array]) -> tuple[Array, tuple[State, dict]]:
            """As `run_layer`, by the projections of the whole table."""
            table = tabulate(self, gathered(layer[0]), x_TxB.table_VxD, dtype)
            h_TxBxH, last = unroll(self, table, x_TxB.ids_BxT, layer[1], dtype, self.recurrence, mask_TxB, truncate)
            return h_TxBxH, (last, {})

        n_first = int("first" in params)
        first = params["first"] if n_first else jax.tree.map(lambda leaf: leaf[0], params["layers"])
        first_state, first_nudges = jax.tree.map(lambda leaf: leaf[0], (state, nudges))
        if isinstance(x_TxBxD, Lookup) and self._tabulates(x_TxBxD, key) and watched is None:
            run_first = run_tabulated
        else:
            run_first, x_TxBxD = run_layer, rows(x_TxBxD).astype(dtype)
        x_TxBxD, (first_state, seen) = block(run_first)(x_TxBxD, (first, first_state, first_nudges, 0))
        last, seen = jax.tree.map(lambda leaf: leaf[None], (first_state, seen))
        if self.n_layers > 1:
            others = jax.tree.map(lambda leaf: leaf[1 - n_first :], params["layers"])
            other_states, other_nudges = jax.tree.map(lambda leaf: leaf[1:], (state, nudges))
            layers = (others, other_states, other_nudges, jnp.arange(1, self.n_layers))

            def run_above(x_TxBxH: Array, layer: tuple[Any, Params | None]) -> tuple[Array, tuple[State, dict]]:
                layer, norm = layer
                h_TxBxH, found = run_layer(normalize(self.norm, norm, x_TxBxH).astype(dtype), layer)
                return self._joined(x_TxBxH, h_TxBxH), found

            x_TxBxH = x_TxBxD.astype(carry_dtype(dtype)) if self.residual else x_TxBxD
            x_TxBxD, of_others = scan_layers(run_above, x_TxBxH, (layers, params.get("norms")))
            last, seen = jax.tree.map(lambda *parts: jnp.concatenate(parts), (last, seen), of_others)
        return x_TxBxD, last, seen

    def _joined(self, x_TxBxH: Array, h_TxBxH: Array) -> Array:
        """The output of a layer above the first: x + h in float32 with residual connections, else h."""
        return x_TxBxH + h_TxBxH.astype(x_TxBxH.dtype) if self.residual else h_TxBxH

    def _tabulates(self, x_TxB: Lookup, key: Array | None) -> bool:
        """Whether projecting the whole table is cheaper than projecting the inputs. Each device does it for its own."""
        own = x_TxB.ids_BxT.size // devices()
        return len(x_TxB.table_VxD) <= own and key is None and self.recurrence != "scan"

    def init_decoder(self, key: Array, context: int, attention: bool) -> Params:
        """{"first": the cell over [y, c]; "layers": the L - 1 cells above it, if any; "W_0", "b_0" of the first state;
        "W_out", "b_out"; with attention "W_s" HxA, "W_m" MxA, "v" A with A = H}."""
        d_model, d_hidden, width = self.d_model, self.hidden, self.width(causal=False)
        key_first, key_layers, key_rest = jax.random.split(key, 3)
        params = {"first": self.init_cell(key_first, d_model + width)}
        if self.n_layers > 1:
            params["layers"] = stack_init(partial(self.init_cell, d_in=d_hidden), self.n_layers - 1)(key_layers)
        params |= {name: init(key_layers) for name, init in self._init_norms().items()}
        weights = {"W_0": (width, self.n_layers * d_hidden), "W_out": (d_hidden + width + d_model, d_model)}
        if attention:
            weights |= {"W_s": (d_hidden, d_hidden), "W_m": (width, d_hidden), "v": (d_hidden,)}
        params |= draw_normal(key_rest, **{name: (shape[0] ** -0.5, shape) for name, shape in weights.items()})
        return params | {"b_0": jnp.zeros(self.n_layers * d_hidden), "b_out": jnp.zeros(d_model)}

    def memory(self, params: Params, m_BxSxM: Array, mask_BxS: Array, dtype: DTypeLike) -> dict[str, Array]:
        """What the decoder reads: the encoder's states "m" BxSxM and the "mask" BxS."""
        return {"m": m_BxSxM, "mask": mask_BxS}

    def start_decoder(self, params: Params, memory: Memory, context: int, dtype: DTypeLike) -> State:
        """h of every layer = tanh(W_0 mean(m) + b_0), other arrays of the state zero; LxBxH."""
        mean_BxM = pool_mean(memory["m"], memory["mask"])
        h_BxLH = jnp.tanh(mean_BxM @ params["W_0"] + params["b_0"][None])
        h_LxBxH = h_BxLH.reshape(len(h_BxLH), self.n_layers, -1).swapaxes(0, 1)
        zero = self.zero_state(len(h_BxLH))
        first, *others = jax.tree.leaves(zero)
        return jax.tree.unflatten(jax.tree.structure(zero), [h_LxBxH.astype(first.dtype), *others])

    def _decode(
        self,
        params: Params,
        y_TxBxD: Array,
        state: State,
        memory: Memory,
        key: Array | None,
        dtype: DTypeLike,
    ) -> Output:
        """The stacked cells over [y_{t-1}, c_t]: o_BxTxD and the state after."""
        of_layer = [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in range(self.n_layers)]
        first, h_TxBxH, c_TxBxM = self._first_decoder_layer(params, y_TxBxD, of_layer[0], memory, dtype)
        of_layer[0] = first
        for index in range(1, self.n_layers):
            layer, norm = jax.tree.map(lambda leaf, i=index: leaf[i - 1], (params["layers"], params.get("norms")))
            x_TxBxH = dropout(normalize(self.norm, norm, h_TxBxH), key, index, self.dropout)
            layer = gathered(layer)
            above_TxBxH, of_layer[index] = unroll(self, layer, x_TxBxH, of_layer[index], dtype, self.recurrence)
            h_TxBxH = self._joined(h_TxBxH, above_TxBxH)
        read = jnp.concatenate([z.swapaxes(0, 1) for z in (h_TxBxH, c_TxBxM, y_TxBxD)], axis=-1)
        read = dropout(read, key, self.n_layers, self.dropout)
        o_BxTxD = jnp.tanh(contract("BTR,RD->BTD", read, params["W_out"], dtype) + params["b_out"][None, None])
        return Output(o_BxTxD, jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_layer))

    def _first_decoder_layer(
        self, params: Params, y_TxBxD: Array, state: State, memory: Memory, dtype: DTypeLike
    ) -> tuple[State, Array, Array]:
        """The last state, h_TxBxH and c_TxBxM. W_x [y, c] = W_y y + W_c c: the first for all times at once."""
        cell, m_BxSxM, mask_BxS = params["first"], memory["m"], memory["mask"]
        W_y, W_c = cell["W_x"][: self.d_model], cell["W_x"][self.d_model :]
        gates_y_TxBxG = self.project({**cell, "W_x": W_y}, y_TxBxD, dtype)
        if "v" not in params:
            c_BxM = pool_mean(m_BxSxM, mask_BxS)
            gates_TxBxG = gates_y_TxBxG + contract("BM,MG->BG", c_BxM, W_c, dtype)[None]
            c_TxBxM = jnp.broadcast_to(c_BxM[None], (len(y_TxBxD), *c_BxM.shape))

            def step(state: State, gates_BxG: Array) -> tuple[State, Array]:
                state = self.step(cell, state, gates_BxG, dtype)
                return state, output(state)

            last, h_TxBxH = lax.scan(step, state, gates_TxBxG)
            return last, h_TxBxH, c_TxBxM
        keys_BxSxA = contract("BSM,MA->BSA", m_BxSxM, params["W_m"], dtype)

        def attend_and_step(state: State, gates_y_BxG: Array) -> tuple[State, tuple[Array, Array]]:
            query_BxA = contract("BH,HA->BA", output(state), params["W_s"], dtype)
            c_BxM = additive_attention(query_BxA, keys_BxSxA, params["v"], m_BxSxM, mask_BxS)
            state = self.step(cell, state, gates_y_BxG + contract("BM,MG->BG", c_BxM, W_c, dtype), dtype)
            return state, (output(state), c_BxM)

        last, (h_TxBxH, c_TxBxM) = lax.scan(attend_and_step, state, gates_y_TxBxG)
        return last, h_TxBxH, c_TxBxM


def repeat(leaf: Array, n: int) -> Array:
    """The leaf `n` times, along a new first axis."""
    return jnp.repeat(leaf[None], n, axis=0)
