"""The kernels of NVIDIA GPUs and TPUs against whole scores. References replace cuDNN's calls; splash is interpreted."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from quick import quick

from seqjax.layers import cudnn, fused_attention
from seqjax.layers.attention import attend_heads, init_attention, self_attention
from seqjax.layers.cudnn import cudnn_attention
from seqjax.layers.fused_attention import fused_kernel
from seqjax.layers.local_attention import init_local_attention, local_attention, local_state
from seqjax.layers.splash import splash_attention
from seqjax.layers.target import Target, compiled_for, target_of

H100, A100, TPU, CPU = Target("cuda", (9, 0)), Target("cuda", (8, 0)), Target("tpu"), Target("cpu")
RUNS, B, N, T, K = 2, 3, 4, 7, 5
CASES = {  # heads of keys, causal, window, padding
    "causal": (N, True, None, False),
    "window": (N // 2, True, 3, False),
    "padding": (N, False, None, True),
    "causal padding": (1, True, None, True),
}


def example(heads, n_times=T, runs=RUNS):
    rng = np.random.default_rng(0)
    shapes = [(runs, B, N, n_times, K)] + [(runs, B, heads, n_times, K)] * 2 + [(runs, B, N, n_times, K)]
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def lengths(padded, n_times=T):
    return np.linspace(1, n_times, B).astype(np.int32) if padded else None


def whole(q, k, v, length_B, causal, window):
    """By the definition: heads of keys repeated, and a mask of all keys that a query sees."""
    n_times = q.shape[2]
    back = np.arange(n_times)[:, None] - np.arange(n_times)[None]
    seen = (back >= 0) & (back < (window or n_times)) if causal else np.ones((n_times, n_times), bool)
    seen = jnp.broadcast_to(seen, (len(q), n_times, n_times))
    if length_B is not None:
        seen = seen & (jnp.arange(n_times)[None, None, :] < length_B[:, None, None])
    k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    return attend_heads(q, k, v, seen, "float32")


def values_and_gradients(f, q, k, v, weights):
    y, pull = jax.vjp(f, q, k, v)
    return y, *pull(weights)


@pytest.fixture
def calls(monkeypatch):
    """cuDNN's two calls by the formulas of FlashAttention, from what they are given; the shapes of each call."""
    seen = []

    def weights(form, q, k, length_B, log_sum):
        n_times = q.shape[2]
        back = np.arange(n_times)[:, None] - np.arange(n_times)[None]
        mask = (back >= 0) & (back < (form.window or n_times)) if form.causal else np.ones((n_times, n_times), bool)
        mask = np.broadcast_to(mask, (1, 1, n_times, n_times))
        if length_B is not None:
            mask = mask & (jnp.arange(n_times)[None, None, None, :] < length_B[:, None, None, None])
        k = jnp.repeat(k, q.shape[1] // k.shape[1], axis=1)
        scores = jnp.where(mask, jnp.einsum("BNTK,BNSK->BNTS", q, k) * form.scale, -1e30)
        log_sum = jax.nn.logsumexp(scores, axis=-1) if log_sum is None else log_sum
        return jnp.exp(scores - log_sum[..., None]), log_sum

    def forward(form, trained, q, k, v, length_B):
        seen.append(q.shape)
        p, log_sum = weights(form, q, k, length_B, None)
        y = jnp.einsum("BNTS,BNSK->BNTK", p, jnp.repeat(v, q.shape[1] // v.shape[1], axis=1))
        return [y, log_sum] if trained else [y]

    def backward(form, q, k, v, length_B, y, log_sum, d_y):
        seen.append(q.shape)
        groups = q.shape[1] // k.shape[1]
        p, _ = weights(form, q, k, length_B, log_sum)
        d_p = jnp.einsum("BNTK,BNSK->BNTS", d_y, jnp.repeat(v, groups, axis=1))
        d_scores = p * (d_p - (d_y * y).sum(axis=-1)[..., None]) * form.scale
        of_heads = lambda x: x.reshape(len(x), -1, groups, *x.shape[2:]).sum(axis=2)  # noqa: E731
        d_k, d_v = jnp.einsum("BNTS,BNTK->BNSK", d_scores, q), jnp.einsum("BNTS,BNTK->BNSK", p, d_y)
        return [jnp.einsum("BNTS,BNSK->BNTK", d_scores, jnp.repeat(k, groups, axis=1)), of_heads(d_k), of_heads(d_v)]

    monkeypatch.setattr(cudnn, "forward", forward)
    monkeypatch.setattr(cudnn, "backward", backward)
    return seen


@pytest.mark.parametrize("case", quick(CASES, "window", "padding"))
def test_cudnn_is_attention_of_many_runs_on_two_devices(case, calls):
    """Values and gradients. Three rows on two devices are padded to four. A call sees the rows of all runs."""
    heads, causal, window, padded = CASES[case]
    arrays, length_B = example(heads), lengths(padded)
    mask = None if length_B is None else jnp.arange(T)[None, :] < length_B[:, None]
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    f = lambda q, k, v: fused_attention.fused_attention("cudnn", q, k, v, mask, causal, window)  # noqa: E731
    got = jax.jit(compiled_for(Target("cuda", (9, 0), mesh))(jax.vmap(partial(values_and_gradients, f))))(*arrays)
    f = lambda q, k, v: whole(q, k, v, length_B, causal, window)  # noqa: E731
    want = jax.jit(jax.vmap(partial(values_and_gradients, f)))(*arrays)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), got, want)
    assert calls[-1] == (2 * RUNS, N, T, 8) and target_of(mesh).mesh == mesh


def test_keys_that_all_runs_share(calls):
    """An axis of `vmap` that some arguments lack, and two axes."""
    q, k, v, _ = example(N)
    f = partial(cudnn_attention, length_B=None, causal=True, window=None)

    def both(q, k, v):
        return jax.vmap(f, in_axes=(0, None, None))(q, k[0], v[0]), jax.vmap(jax.vmap(f))(*(x[None] for x in (q, k, v)))

    want = jax.jit(jax.vmap(lambda q, k, v: whole(q, k, v, None, True, None)))
    shared = (jnp.broadcast_to(x[:1], x.shape) for x in (k, v))
    for got, others in zip(jax.jit(both)(q, k, v), (shared, (k, v)), strict=True):
        np.testing.assert_allclose(got.reshape(q.shape), want(q, *others), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_calls_are_lowered_for_cuda(case):
    """JAX's own rules take these arguments: names and order, in this version of JAX."""
    heads, causal, window, padded = CASES[case]
    q, k, v, _ = (x[0].astype("bfloat16") for x in example(heads))
    f = jax.grad(lambda q: cudnn_attention(q, k, v, lengths(padded), causal, window).sum(dtype="float32"))
    text = jax.jit(f).trace(q).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__cudnn$fmhaSoftmax(") == 1 and text.count("@__cudnn$fmhaSoftmaxBackward(") == 1
    kind = f"{'PADDING' if padded else ''}{'_' if padded and causal else ''}{'CAUSAL' if causal else ''}"
    assert f"\\22mask_type\\22: \\22{kind}\\22" in text and f"\\22sliding_window_length\\22: {window or 0}" in text


@pytest.mark.parametrize("case", quick(CASES, "window"))
def test_splash_is_attention(case):
    """In interpret mode, in two blocks, with a length that is padded, of two runs."""
    heads, causal, window, padded = CASES[case]
    n_times = 130
    arrays, form = example(heads, n_times), (lengths(padded, n_times), causal, window and 100)
    want = jax.jit(jax.vmap(partial(values_and_gradients, lambda q, k, v: whole(q, k, v, *form))))(*arrays)
    splash = lambda q, k, v: splash_attention(q, k, v, *form, interpret=True)  # noqa: E731
    got = jax.jit(jax.vmap(partial(values_and_gradients, splash)))(*arrays)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


def test_where_the_kernels_fit():
    bfloat16 = partial(fused_kernel, dtype="bfloat16", n_times=64)
    assert bfloat16(H100, d_head=18) == bfloat16(A100, d_head=128) == bfloat16(H100, d_head=256) == "cudnn"
    assert fused_kernel(H100, "float16", 2, 64) == "cudnn"
    assert bfloat16(TPU, d_head=18) == fused_kernel(TPU, "float32", 2, 64) == "splash"
    assert bfloat16(A100, d_head=129) is bfloat16(H100, d_head=257) is None
    assert bfloat16(Target("cuda", (7, 0)), d_head=64) is bfloat16(Target("rocm"), d_head=64) is None
    assert bfloat16(CPU, d_head=64) is fused_kernel(H100, "float32", 64, 64) is None
    assert fused_kernel(H100, "bfloat16", 1, 64) is fused_kernel(TPU, "float64", 64, 64) is None


def test_a_jax_without_the_calls_has_whole_scores(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "seqjax.layers.cudnn", None)
    assert fused_kernel(H100, "bfloat16", 64, 64) is None


def program(target, *args, **options):
    """The program of self-attention as text, with the device's kernel if nothing else is said."""
    options = {"kernel": "fused"} | options
    params = init_attention(jax.random.key(0), 8, 2, True, 0.5, 0.5)
    cache = {name: jnp.zeros((1, 2, 33, 4)) for name in "kv"} if options.pop("cached", False) else None
    run = lambda x: self_attention(params, x, 0, None, cache, *args, **options)[0]  # noqa: E731
    return str(jax.make_jaxpr(compiled_for(target)(run))(jnp.ones((1, 33, 8))))


def test_the_layers_use_them_if_asked_and_fall_back():
    used, scores = "dot_product_attention_fwd", "33,33]"
    assert used in program(H100, "bfloat16") and scores not in program(H100, "bfloat16")
    assert "splash" in program(TPU, "bfloat16") and used in program(H100, "bfloat16", causal=False)
    for text in (
        program(H100, "float32"),
        program(H100, "bfloat16", kernel="whole"),
        program(H100, "bfloat16", kernel="auto"),
        program(TPU, "bfloat16", kernel="auto"),
        program(H100, "bfloat16", watched=True),
        program(H100, "bfloat16", cached=True),
        program(CPU, "bfloat16", kernel="whole"),
    ):
        assert used not in text and "splash" not in text and scores in text
    assert program(CPU, "bfloat16") == program(CPU, "bfloat16", kernel="auto")
    params = init_local_attention(jax.random.key(0), 8, 2, 1, True, 0.5, 0.5)
    for past, kernel, is_used in ((0, "fused", True), (4, "fused", False), (0, "auto", False)):
        state = local_state(1, past, 1, 4)
        run = lambda x: local_attention(params, x, state, 4, None, "bfloat16", kernel=kernel)[0]  # noqa: B023, E731
        text = str(jax.make_jaxpr(compiled_for(H100)(run))(jnp.ones((1, 33, 8))))
        assert (used in text) == is_used == (f"33,{33 + past}]" not in text)
