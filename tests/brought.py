"""What a user brings: the complete examples of CONTRIBUTING.md, and a process that has not loaded them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seqjax.families import own as families
from seqjax.laws import own as laws
from seqjax.tasks import own as tasks

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def example(heading: str) -> str:
    """The Python file of a section."""
    (text,) = re.findall(rf"^## {heading}\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return text


def lines_of_code(text: str) -> int:
    """Lines that are not empty."""
    return sum(bool(line.strip()) for line in text.splitlines())


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process is another one, which has loaded nothing of the user's own."""
    for shelf in (families.shelf, tasks.shelf, laws.shelf):
        for name in ("_known", "_texts", "_references"):
            monkeypatch.setattr(shelf, name, {})
    monkeypatch.setattr(families, "_looks", {})


LEAKY = example("Your own family")

BY_HAND = f"""{LEAKY}

from seqjax.through_time.backprop import Backprop


def advance(params, h, gates_x, dtype):
    a, new = jax.nn.sigmoid(params["r"]), jnp.tanh(gates_x + contract("BH,HG->BG", h, params["W_h"], dtype))
    return (1 - a) * h + a * new, new


def retreat(params, d_h, new, dtype):
    a = jax.nn.sigmoid(params["r"])
    deltas = d_h * a * (1 - new * new), d_h * a * (1 - a)
    return deltas, d_h * (1 - a) + contract("BG,HG->BH", deltas[0], params["W_h"], dtype)


def gradients(params, before, new, deltas, dtype):
    W_h = contract("TBH,TBG->HG", before, deltas[0], dtype)
    return deltas[0], {{"W_h": W_h, "r": (deltas[1] * (new - before)).sum((0, 1))}}


@dataclass(frozen=True)
class ByHand(Leaky):
    backprop = Backprop(advance, lambda params, before, after, new: new, retreat, gradients)
"""

MIXER = '''"""The mean of all inputs so far beside the input itself: h_t = tanh(W x_t + W_m mean(x_1 .. x_t))."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from seqjax.families import Family
from seqjax.families.family import Output, rows


@dataclass(frozen=True)
class Mixer(Family):
    label: ClassVar[str] = "mean mixer"
    colour: ClassVar[str] = "#123456"
    d_model: int = 8
    n_layers: Literal[1] = 1
    tied_embeddings: bool = False
    dropout: float = 0.0

    def init(self, context, causal=True):
        shape = (self.d_model, self.d_model)
        return {name: lambda key: self.d_model**-0.5 * jax.random.normal(key, shape) for name in ("W", "W_m")}

    def zero_state(self, batch, context, dtype="float32"):
        return jnp.zeros((1, batch, self.d_model)), jnp.zeros((1, batch, 1))

    def run(self, params, x, state=None, *, dtype="float32", **_):
        x = rows(x).astype("float32")
        total, count = self.zero_state(len(x), 0) if state is None else state
        sum_BxTxD = total[0][:, None] + jnp.cumsum(x, axis=1)
        count_BxTx1 = count[0][:, None] + jnp.arange(1.0, x.shape[1] + 1)[None, :, None]
        h_BxTxD = jnp.tanh(x @ params["W"] + sum_BxTxD / count_BxTx1 @ params["W_m"])
        return Output(h_BxTxD, (sum_BxTxD[None, :, -1], count_BxTx1[None, :, -1]))
'''
FAMILIES = {"Leaky": LEAKY, "ByHand": BY_HAND, "Mixer": MIXER}


def family_file(folder: Path, name: str, text: str | None = None) -> str:
    """The words that name the family of a file in this folder: one of `FAMILIES`, or with another text."""
    (folder / f"{name.lower()}.py").write_text(FAMILIES[name] if text is None else text)
    return f"{folder / name.lower()}.py:{name}"
