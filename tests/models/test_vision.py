"""The frame encoder: convolutions agree with a loop, pixels are normalised, frames do not see each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.families import GRU
from seqjax.layers.heads import Regressor
from seqjax.layers.vision import FrameEncoder, VideoRegressor, convolve, normalize_pixels
from seqjax.models.backbone import Backbone


def loop_convolve(a: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int) -> np.ndarray:
    """relu(W * a + b) at every place, one product at a time, in float64; zeros outside, split as evenly as can be."""
    n, height, width, _ = a.shape
    size, out = W.shape[0], [-(-length // stride) for length in (height, width)]
    y = np.zeros((n, *out, W.shape[3]))
    before = [max((o - 1) * stride + size - length, 0) // 2 for o, length in zip(out, (height, width), strict=True)]
    for i in range(out[0]):
        for j in range(out[1]):
            for di in range(size):
                for dj in range(size):
                    row, column = i * stride + di - before[0], j * stride + dj - before[1]
                    if 0 <= row < height and 0 <= column < width:
                        y[:, i, j] += a[:, row, column].astype(float) @ W[di, dj].astype(float)
    return np.maximum(y + b, 0)


@pytest.mark.parametrize(
    ("size", "stride", "shape"), [(5, 4, (8, 12)), (3, 2, (8, 12)), (3, 1, (5, 7)), (3, 2, (7, 5))]
)
def test_convolutions_agree_with_a_loop(size: int, stride: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    W = rng.normal(size=(size, size, 3, 4)).astype(np.float32)
    b = rng.normal(size=4).astype(np.float32)
    found = convolve(jnp.array(a), jnp.array(W), jnp.array(b), stride)
    np.testing.assert_allclose(found, loop_convolve(a, W, b, stride), rtol=1e-4, atol=1e-4)


def test_convolutions_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    a, W, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 8, 8, 3), (3, 3, 3, 4), (4,)))
    y = torch.nn.functional.conv2d(*(torch.tensor(x) for x in (a.transpose(0, 3, 1, 2), W.transpose(3, 2, 0, 1), b)),
                                   stride=1, padding=1).relu()  # fmt: skip
    found = convolve(jnp.array(a), jnp.array(W), jnp.array(b), 1)
    np.testing.assert_allclose(found, y.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_pixels_have_mean_zero_and_variance_one_whatever_the_light() -> None:
    frames = np.random.default_rng(0).integers(40, 120, (2, 3, 8, 10, 2)).astype(np.uint8)
    a = np.asarray(normalize_pixels(jnp.array(frames)))
    np.testing.assert_allclose(a.mean(axis=(2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(a.var(axis=(2, 3)), 1, atol=5e-3)
    np.testing.assert_allclose(normalize_pixels(jnp.array(2 * frames + 10)), a, atol=5e-3)
    assert not np.asarray(normalize_pixels(jnp.full((1, 1, 4, 4, 1), 77, jnp.uint8))).any()


def encoder(dropout: float = 0.0) -> FrameEncoder:
    return FrameEncoder(5, channels=(3, 4), kernels=(5, 3), strides=(4, 2), dropout=dropout)


def test_every_frame_is_encoded_alone_and_alike() -> None:
    frames = jnp.array(np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 1)), jnp.uint8)
    params, apply = jax.jit(encoder().init)(jax.random.key(0), frames), jax.jit(encoder().apply)
    x_BxTxD = apply(params, frames)
    assert x_BxTxD.shape == (2, 3, 5) and x_BxTxD.dtype == jnp.float32
    for b in range(2):
        for t in range(3):
            alone = apply(params, frames[b : b + 1, t : t + 1])
            np.testing.assert_allclose(x_BxTxD[b, t], alone[0, 0], atol=1e-5)
    # 5x5x1x3 + 3, 3x3x3x4 + 4, (2 x 2 x 4) x 5 + 5
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 78 + 112 + 85


def test_dropout_is_on_in_training_alone() -> None:
    frames = jnp.array(np.random.default_rng(0).integers(0, 256, (1, 2, 16, 16, 1)), jnp.uint8)
    params, dropping = jax.jit(encoder().init)(jax.random.key(0), frames), encoder(0.5).apply
    rngs = {"dropout": jax.random.key(1)}
    still = jax.jit(dropping)(params, frames)
    moved = jax.jit(lambda params: dropping(params, frames, True, rngs=rngs))(params)
    np.testing.assert_array_equal(still, jax.jit(encoder().apply)(params, frames))
    assert (np.asarray(still) != np.asarray(moved)).any()


def test_reading_encodings_is_the_whole_model_and_known_numbers_count() -> None:
    model = VideoRegressor(FrameEncoder(5, (3,), (5,), (4,)), Backbone(GRU(d_model=6, n_layers=1), 3), Regressor())
    rng = np.random.default_rng(0)
    frames = jnp.array(rng.integers(0, 256, (2, 3, 8, 8, 1)), jnp.uint8)
    known = jnp.array(rng.normal(size=(2, 3, 1)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), frames, known)
    apply = jax.jit(model.apply, static_argnames="method")
    y_BxTxO = apply(params, frames, known)
    x_BxTxE = apply(params, frames, method="encode")
    assert y_BxTxO.shape == (2, 3, 1) and x_BxTxE.shape == (2, 3, 5)
    np.testing.assert_allclose(apply(params, x_BxTxE, known, method="read"), y_BxTxO, atol=1e-6)
    changed = np.asarray(apply(params, frames, known.at[:, 1].add(1.0)))
    np.testing.assert_allclose(changed[:, 0], y_BxTxO[:, 0], atol=1e-6)
    assert (np.abs(changed[:, 1:] - y_BxTxO[:, 1:]) > 1e-4).all()
