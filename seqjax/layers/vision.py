"""Vectors from video frames: a small convolutional network, the same for every frame (LeCun et al. 1998).

    a_0 = (pixels - mean of the frame) / standard deviation of the frame
    a_l = relu(W_l * a_{l-1} + b_l)            convolution with stride
    x   = W flatten(a_L) + b

A sequence model then runs over x_1 .. x_T, one vector a frame. Frames can instead be stacked as channels of one input:
then the first convolution sees all of them at once (Heylen et al. 2018, "From pixels to actions").
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from seqjax.layers.dense import dropout, normal_init
from seqjax.layers.heads import Affine

PIXEL_EPSILON = 1.0
"""Added to a frame's variance, grey levels squared: a frame of one colour gives zeros, not amplified noise."""


def normalize_pixels(frames_BxTxYxXxC: Array) -> Array:
    """Each channel of each frame with mean 0 and variance 1 over its pixels, float32."""
    a = frames_BxTxYxXxC.astype(jnp.float32)
    a = a - a.mean(axis=(2, 3), keepdims=True)
    return a * lax.rsqrt((a * a).mean(axis=(2, 3), keepdims=True) + PIXEL_EPSILON)


def convolve(a_NxYxXxC: Array, W_IxJxCxO: Array, b_O: Array, stride: int) -> Array:
    """relu(W * a + b), a convolution with zero padding: N x ceil(Y / stride) x ceil(X / stride) x O.

    N are frames here. As usual "convolution" is a cross-correlation: W is not flipped.
    """
    y_NxYxXxO = lax.conv_general_dilated(
        a_NxYxXxC, W_IxJxCxO, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(y_NxYxXxO + b_O[None, None, None])


class FrameEncoder(nn.Module):
    """A vector of width D for every frame of C channels.

    Parameters (float32): for each convolution l "W_conv{l}" IxIxCxO, normal with standard deviation
    (2 / fan-in)^0.5 (He et al. 2015, equation 10), and "b_conv{l}" O, zero; "out" {"W", "b"}.

    Attributes:
      channels, kernels, strides: O, I and the stride in pixels of each convolution.
      dropout: rate after the last convolution.
    """

    width: int
    channels: tuple[int, ...] = (8, 16)
    kernels: tuple[int, ...] = (5, 3)
    strides: tuple[int, ...] = (4, 2)
    dropout: float = 0.0

    @nn.compact
    def __call__(self, frames_BxTxYxXxC: Array, train: bool = False) -> Array:
        """x_BxTxD, float32, from uint8 or float pixels."""
        n_batch, n_times, *_, n_in = frames_BxTxYxXxC.shape
        a = normalize_pixels(frames_BxTxYxXxC)
        a = a.reshape(n_batch * n_times, *a.shape[2:])
        for layer, (n_out, size, stride) in enumerate(zip(self.channels, self.kernels, self.strides, strict=True)):
            std = (2 / (size * size * n_in)) ** 0.5
            W = self.param(f"W_conv{layer}", normal_init(std, size, size, n_in, n_out))
            a = convolve(a, W, self.param(f"b_conv{layer}", lambda _, n=n_out: jnp.zeros(n)), stride)
            n_in = n_out
        key = self.make_rng("dropout") if train and self.dropout > 0 else None
        return Affine(self.width, name="out")(dropout(a.reshape(n_batch, n_times, -1), key, 0, self.dropout))


class VideoRegressor(nn.Module):
    """Numbers from every frame of a video: head(backbone([encoder(frame_t), known_t])).

    `known` are P numbers given with each frame, such as the steering before it. They are concatenated to the encoding:
    the encoder's width is D - P. `encode` and `read` are separate, so that frames of overlapping windows are encoded
    once.
    """

    encoder: nn.Module
    backbone: nn.Module
    head: nn.Module

    def encode(self, frames_BxTxYxXxC: Array, train: bool = False) -> Array:
        """x_BxTxE, E the encoder's width."""
        return self.encoder(frames_BxTxYxXxC, train)

    def read(self, x_BxTxE: Array, known_BxTxP: Array, train: bool = False) -> Array:
        """y_BxTxO."""
        return self.head(self.backbone(jnp.concatenate([x_BxTxE, known_BxTxP], axis=-1), None, train), None, train)

    def __call__(self, frames_BxTxYxXxC: Array, known_BxTxP: Array, train: bool = False) -> Array:
        """y_BxTxO."""
        return self.read(self.encode(frames_BxTxYxXxC, train), known_BxTxP, train)
