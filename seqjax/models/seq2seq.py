"""Sequence to sequence: an encoder that reads, a decoder that writes, any family in both.

    m_1 .. m_S = encoder(x_1 .. x_S)                    both directions
    p(y_t | y_<t, x) = softmax(W o_t + b)               o_t from y_<t and m

- Transformer (Vaswani et al. 2017, arXiv 1706.03762): o_t from causal self-attention and cross-attention to m.
- recurrent without attention (Cho et al. 2014, arXiv 1406.1078): the mean of m is the context c of every step.
- recurrent with attention (Bahdanau et al. 2015, arXiv 1409.0473, equations 4 to 6 and appendix A.2.2):

    e_tj = v . tanh(W_s s_{t-1} + W_m m_j),  a_t = softmax(e_t),  c_t = sum_j a_tj m_j
    s_t  = cell(s_{t-1}, [y_{t-1}, c_t]),    s_0 = tanh(W_0 mean(m) + b_0)
    o_t  = tanh(W_out [s_t, c_t, y_{t-1}] + b_out)

One vocabulary serves both sides. Each side has its own embedding, and the readout its own matrix, unless
`tied_embeddings`: then one table does all three. A table that is also the readout is moved in all its rows by every
step of Adam, those of words that have not occurred too: small models learn far more slowly with it (compare
`experiments/translation.py --set model.tied_embeddings true`).
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.cells import CELLS
from seqjax.cells.cell import draw_normal
from seqjax.cells.precision import contract
from seqjax.cells.recurrence import output, unroll
from seqjax.config import RecurrentConfig, TransformerConfig
from seqjax.models import recurrent, transformer
from seqjax.models.attention import cross_keys
from seqjax.models.backbone import Backbone, hidden_width
from seqjax.models.heads import pool_mean
from seqjax.models.layers import Params, Readout, dropout, init_norm, normal_init, normalize, stack_init, unembed

Memory = dict[str, Array]
State = Any


class Seq2Seq(nn.Module):
    """Encoder and decoder over one vocabulary.

    Parameters (float32): "embedding" VxD of the target, "source" VxD of the source, "readout" DxV (the last two unless
    tied), "readout_bias" V; "encoder", see `Backbone`; "decoder", see `init_transformer` and `init_recurrent`.

    Attributes:
      config: of both sides; `n_layers` each.
      max_length: of a sequence on either side.
      attention: of a recurrent decoder to the memory; a Transformer always has it.
    """

    config: RecurrentConfig | TransformerConfig
    vocab_size: int
    max_length: int
    attention: bool = True
    compute_dtype: DTypeLike = "float32"

    def setup(self) -> None:
        config = self.config
        self.encoder = Backbone(config, self.max_length, causal=False, compute_dtype=self.compute_dtype)
        std = 0.02 if isinstance(config, TransformerConfig) else config.d_model**-0.5
        self.embedding = self.param("embedding", normal_init(std, self.vocab_size, config.d_model))
        if not config.tied_embeddings:
            self.source_embedding = self.param("source", normal_init(std, self.vocab_size, config.d_model))
            self.readout = self.param("readout", normal_init(std, config.d_model, self.vocab_size))
        self.readout_bias = self.param("readout_bias", lambda _: jnp.zeros(self.vocab_size))
        init = init_transformer if isinstance(config, TransformerConfig) else init_recurrent
        arguments = (config, self.max_length if isinstance(config, TransformerConfig) else self.attention)
        self.decoder = self.param("decoder", lambda key: init(key, *arguments))

    def __call__(
        self,
        source_BxS: Array,
        source_mask_BxS: Array,
        target_BxT: Array,
        train: bool = False,
        readout: Readout = unembed,
    ) -> Any:
        """logits_BxTxV of the token after each of the target's (what `readout` returns).

        Args:
          target_BxT: begins with the mark of the beginning; what is padded at its end is seen by nobody before it.
          train: dropout on (needs the rng "dropout" when `config.dropout` > 0).
        """
        memory = self.encode(source_BxS, source_mask_BxS, train)
        return self.decode(memory, self.start(memory), target_BxT, train, readout)[0]

    def encode(self, source_BxS: Array, mask_BxS: Array, train: bool = False) -> Memory:
        """What the decoder reads, all with a leading axis B: the states "m" BxSxM and the "mask" BxS; of a Transformer
        the keys and values "kv" Bx2xLxNxSxK instead of the states."""
        tied = self.config.tied_embeddings
        x_BxSxD = self._embed(self.embedding if tied else self.source_embedding, source_BxS, train)
        m_BxSxM = self.encoder(x_BxSxD, mask_BxS, train)
        if isinstance(self.config, TransformerConfig):
            kv = cross_keys(self.decoder["layers"]["cross"], m_BxSxM, self.compute_dtype)
            return {"kv": jnp.moveaxis(kv, 2, 0), "mask": mask_BxS}
        return {"m": m_BxSxM, "mask": mask_BxS}

    def start(self, memory: Memory) -> State:
        """The decoder's state before the first token; all leaves with a leading axis B."""
        config, batch = self.config, len(memory["mask"])
        if isinstance(config, TransformerConfig):
            shape = (batch, config.n_layers, config.n_heads, self.max_length, config.d_model // config.n_heads)
            cache = {name: jnp.zeros(shape, self.compute_dtype) for name in "kv"}
            return cache | {"position": jnp.zeros(batch, jnp.int32)}
        return start_recurrent(config, self.decoder, memory)

    def decode(
        self,
        memory: Memory,
        state: State | None,
        tokens_BxT: Array,
        train: bool = False,
        readout: Readout = unembed,
        keep_state: bool = False,
    ) -> tuple[Any, State]:
        """Logits of the token after each given one (what `readout` returns), and with `keep_state` the state after.

        Without `keep_state` the tokens are all there are, from the first one on; with it they go on where `state` ends,
        all rows at the same place.
        """
        config, dtype = self.config, self.compute_dtype
        key = self.make_rng("dropout") if train and config.dropout > 0 else None
        y_BxTxD = self._embed(self.embedding, tokens_BxT, train)
        if isinstance(config, TransformerConfig):
            state = state if keep_state else None
            o_BxTxD, state = run_transformer(config, self.decoder, memory, state, y_BxTxD, key, dtype)
        else:
            o_BxTxD, state = run_recurrent(config, self.decoder, memory, state, y_BxTxD, key, dtype)
            o_BxTxD = dropout(o_BxTxD, key, config.n_layers + 1, config.dropout)
        table = {"embedding": self.embedding} if config.tied_embeddings else {"readout": self.readout}
        params = {**table, "readout_bias": self.readout_bias}
        return readout(o_BxTxD, params, dtype), state

    def _embed(self, embedding_VxD: Array, tokens_BxT: Array, train: bool) -> Array:
        config = self.config
        x_BxTxD = embedding_VxD[tokens_BxT]
        if isinstance(config, TransformerConfig):
            return x_BxTxD  # dropout falls on it with the positions
        key = self.make_rng("dropout") if train and config.dropout > 0 else None
        return dropout(math.sqrt(config.d_model) * x_BxTxD, key, 0, config.dropout)


def init_transformer(key: Array, config: TransformerConfig, max_length: int) -> Params:
    """{"layers": blocks with "cross"; "positions" TxD if learned; "final_norm"}."""
    keys = jax.random.split(key)
    params = {
        "layers": stack_init(lambda key: transformer.init_block(key, config, cross=True), config.n_layers)(keys[0])
    }
    if config.positions == "learned":
        params["positions"] = normal_init(0.01, max_length, config.d_model)(keys[1])
    if transformer.norm_before(config) != "none":
        params["final_norm"] = init_norm(config.norm, config.d_model, config.bias)
    return params


def run_transformer(
    config: TransformerConfig,
    params: Params,
    memory: Memory,
    state: State | None,
    y_BxTxD: Array,
    key: Array | None,
    dtype: DTypeLike,
) -> tuple[Array, State | None]:
    """Causal blocks with cross-attention: o_BxTxD, and the state with T more tokens if one was given."""
    start, cache = 0, None
    if state is not None:
        start = state["position"][0]
        cache = {name: jnp.moveaxis(state[name], 1, 0) for name in "kv"}
    if config.positions == "learned":
        y_BxTxD = y_BxTxD + lax.dynamic_slice_in_dim(params["positions"], start, y_BxTxD.shape[1])[None]
    y_BxTxD = dropout(y_BxTxD, key, 2 * config.n_layers, config.dropout)
    kv = jnp.moveaxis(memory["kv"], 0, 2)
    o_BxTxD, cache = transformer.run_blocks(
        config, params["layers"], y_BxTxD, start, cache, key, dtype, memory=(kv, memory["mask"])
    )
    if cache is not None:
        state = {name: jnp.moveaxis(cache[name], 0, 1) for name in "kv"}
        state["position"] = jnp.full(len(y_BxTxD), start + y_BxTxD.shape[1], jnp.int32)
    return normalize(transformer.norm_before(config), params.get("final_norm"), o_BxTxD), state


def init_recurrent(key: Array, config: RecurrentConfig, attention: bool) -> Params:
    """{"first": the cell over [y, c]; "layers": the L - 1 cells above it, if any; "W_0", "b_0" of the first state;
    "W_out", "b_out"; with attention "W_s" HxA, "W_m" MxA, "v" A with A = H}."""
    d_model, d_hidden, width = config.d_model, config.d_hidden or config.d_model, hidden_width(config, causal=False)
    key_first, key_layers, key_rest = jax.random.split(key, 3)
    init = CELLS[config.family].init
    params = {"first": init(key_first, d_model + width, d_hidden, config)}
    if config.n_layers > 1:
        init_layer = stack_init(lambda key: init(key, d_hidden, d_hidden, config), config.n_layers - 1)
        params["layers"] = init_layer(key_layers)
    d_read = d_hidden + width + d_model
    weights = {"W_0": (width, config.n_layers * d_hidden), "W_out": (d_read, d_model)}
    if attention:
        weights |= {"W_s": (d_hidden, d_hidden), "W_m": (width, d_hidden), "v": (d_hidden,)}
    params |= draw_normal(key_rest, **{name: (shape[0] ** -0.5, shape) for name, shape in weights.items()})
    return params | {"b_0": jnp.zeros(config.n_layers * d_hidden), "b_out": jnp.zeros(d_model)}


def start_recurrent(config: RecurrentConfig, params: Params, memory: Memory) -> State:
    """h of every layer = tanh(W_0 mean(m) + b_0), an LSTM's cell zero: the cell's state, leaves BxLxH."""
    mean_BxM = pool_mean(memory["m"], memory["mask"])
    h_BxLH = jnp.tanh(mean_BxM @ params["W_0"] + params["b_0"][None])
    h_BxLxH = h_BxLH.reshape(len(h_BxLH), config.n_layers, -1)
    zero = recurrent.zero_state(config, len(h_BxLH))
    first, *others = jax.tree.leaves(jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), zero))
    return jax.tree.unflatten(jax.tree.structure(zero), [h_BxLxH.astype(first.dtype), *others])


def run_recurrent(
    config: RecurrentConfig,
    params: Params,
    memory: Memory,
    state: State,
    y_BxTxD: Array,
    key: Array | None,
    dtype: DTypeLike,
) -> tuple[Array, State]:
    """The stacked cells over [y_{t-1}, c_t]: o_BxTxD and the state after."""
    cell, d_model = CELLS[config.family], config.d_model
    of_layer = [jax.tree.map(lambda leaf, i=i: leaf[:, i], state) for i in range(config.n_layers)]
    # W_x [y, c] = W_y y + W_c c: the first for all times at once
    on_y = {**params["first"], "W_x": params["first"]["W_x"][:d_model]}
    W_c = params["first"]["W_x"][d_model:]
    gates_y_TxBxG = cell.project(on_y, y_BxTxD.swapaxes(0, 1), dtype)
    m_BxSxM, mask_BxS = memory["m"], memory["mask"]
    if "v" in params:
        keys_BxSxA = contract("BSM,MA->BSA", m_BxSxM, params["W_m"], dtype)

        def step(state: State, gates_y_BxG: Array) -> tuple[State, tuple[State, Array]]:
            c_BxM = additive_attention(params, output(state), keys_BxSxA, m_BxSxM, mask_BxS, dtype)
            state, h_BxH = cell.step(
                params["first"], state, gates_y_BxG + contract("BM,MG->BG", c_BxM, W_c, dtype), dtype
            )
            return state, (h_BxH, c_BxM)

        of_layer[0], (h_TxBxH, c_TxBxM) = lax.scan(step, of_layer[0], gates_y_TxBxG)
    else:
        c_BxM = pool_mean(m_BxSxM, mask_BxS)
        gates_TxBxG = gates_y_TxBxG + contract("BM,MG->BG", c_BxM, W_c, dtype)[None]
        of_layer[0], h_TxBxH = lax.scan(lambda s, g: cell.step(params["first"], s, g, dtype), of_layer[0], gates_TxBxG)
        c_TxBxM = jnp.broadcast_to(c_BxM[None], (len(h_TxBxH), *c_BxM.shape))
    for index in range(1, config.n_layers):
        layer = jax.tree.map(lambda leaf, i=index: leaf[i - 1], params["layers"])
        x_TxBxH = dropout(h_TxBxH, key, index, config.dropout)
        h_TxBxH, of_layer[index] = unroll(cell, layer, x_TxBxH, of_layer[index], dtype, config.recurrence)
    read = jnp.concatenate([h_TxBxH.swapaxes(0, 1), c_TxBxM.swapaxes(0, 1), y_BxTxD], axis=-1)
    read = dropout(read, key, config.n_layers, config.dropout)
    o_BxTxD = jnp.tanh(contract("BTR,RD->BTD", read, params["W_out"], dtype) + params["b_out"][None, None])
    return o_BxTxD, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *of_layer)


def additive_attention(
    params: Params, s_BxH: Array, keys_BxSxA: Array, m_BxSxM: Array, mask_BxS: Array, dtype: DTypeLike
) -> Array:
    """c = sum_j a_j m_j with a = softmax_j(v . tanh(W_s s + W_m m_j)); `keys_BxSxA` is W_m m. Float32 BxM."""
    query_BxA = contract("BH,HA->BA", s_BxH, params["W_s"], dtype)
    e_BxS = jnp.einsum("BSA,A->BS", jnp.tanh(query_BxA[:, None] + keys_BxSxA), params["v"])
    a_BxS = jax.nn.softmax(jnp.where(mask_BxS, e_BxS, jnp.finfo(e_BxS.dtype).min), axis=-1)
    return jnp.einsum("BS,BSM->BM", a_BxS, m_BxSxM)
