"""Stacked recurrent layers, shared by the recurrent families. A family adds the equations of its cell.

    h_t^l = cell(h_{t-1}^l, norm(x_t^{l-1}))                   l = 1 .. L
    x_t^l = h_t^l, or with residual connections x_t^{l-1} + h_t^l

The norm and the residual connections are options, both off by default. The first layer has neither: its inputs are
embeddings of another width or scale. So they change nothing in a model of one layer.

Dropout applies to the inputs of layers, never to the recurrence (Zaremba et al. 2014, arXiv 1409.2329). A bidirectional
model has a second stack from the last element to the first, h_t = [forward_t, backward_t] (Schuster & Paliwal 1997,
IEEE Trans. Signal Processing 45(11)).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from pydantic import Field, PositiveInt

from seqjax.families import recurrent_decoder
from seqjax.families.family import Family, Impossible, Inputs, Lookup, Output, Watch, check_base_width, rows
from seqjax.layers.dense import Params, dropout, scan_layers, stack_init
from seqjax.layers.norms import init_norm, normalize
from seqjax.layers.precision import carry_dtype
from seqjax.layers.sharing import block, devices, gathered, shared
from seqjax.through_time.backprop import Backprop
from seqjax.through_time.gates import project_gates
from seqjax.through_time.nonlinear import tabulate, unroll, watch
from seqjax.through_time.turned import turned

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
State = Any  # a pytree of BxH arrays; of all layers LxBxH
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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A base's backward pass is wrong where `step` or `gates` is new."""
        super().__init_subclass__(**kwargs)
        place = {name: i for i, base in reversed([*enumerate(cls.__mro__)]) for name in vars(base)}
        if min(place["step"], place["gates"]) < place["backprop"]:
            cls.backprop = None

    init_decoder = recurrent_decoder.init_decoder
    memory = recurrent_decoder.memory
    start_decoder = recurrent_decoder.start_decoder

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
        inits |= self.init_norms()
        if causal:
            return inits
        return inits | {"backward": lambda key: {name: init(key) for name, init in inits.items()}}

    def init_norms(self) -> dict[str, Callable[[Array], Params]]:
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
            return recurrent_decoder.decode(self, params, x_TxBxD, state, memory, key, dtype)
        batch = (x_TxBxD.ids_BxT if isinstance(x, Lookup) else x_TxBxD).shape[1]
        mask_TxB = None if mask_BxT is None else mask_BxT.T
        start = self.zero_state(batch) if state is None else state
        stack = partial(self._stack, state=start, key=key, dtype=dtype, truncate=truncate, watched=watch)
        h_TxBxH, state, seen = stack(params, x_TxBxD, mask_TxB=mask_TxB)
        h_BxTxH = h_TxBxH.swapaxes(0, 1)
        if not causal:
            turn = turned(mask_BxT)
            mask_TxB = None if mask_BxT is None else turn(mask_BxT).T
            back_TxBxH, _, _ = stack(params["backward"], turn(rows(x)).swapaxes(0, 1), mask_TxB=mask_TxB)
            h_BxTxH = jnp.concatenate([h_BxTxH, turn(back_TxBxH.swapaxes(0, 1))], axis=-1)
        return Output(h_BxTxH, state, seen)

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
                return self.joined(x_TxBxH, h_TxBxH), found

            x_TxBxH = x_TxBxD.astype(carry_dtype(dtype)) if self.residual else x_TxBxD
            x_TxBxD, of_others = scan_layers(run_above, x_TxBxH, (layers, params.get("norms")))
            last, seen = jax.tree.map(lambda *parts: jnp.concatenate(parts), (last, seen), of_others)
        return x_TxBxD, last, seen

    def joined(self, x_TxBxH: Array, h_TxBxH: Array) -> Array:
        """The output of a layer above the first: x + h in float32 with residual connections, else h."""
        return x_TxBxH + h_TxBxH.astype(x_TxBxH.dtype) if self.residual else h_TxBxH

    def _tabulates(self, x_TxB: Lookup, key: Array | None) -> bool:
        """Whether projecting the whole table is cheaper than projecting the inputs. Each device does it for its own."""
        own = x_TxB.ids_BxT.size // devices()
        return len(x_TxB.table_VxD) <= own and key is None and self.recurrence != "scan"


def repeat(leaf: Array, n: int) -> Array:
    """The leaf `n` times, along a new first axis."""
    return jnp.repeat(leaf[None], n, axis=0)
