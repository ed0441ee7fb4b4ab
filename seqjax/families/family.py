"""The base of a family of sequence models: a section of the config, initial values, and one forward pass.

    h_1 .. h_T = run(x_1 .. x_T)        x_t of width D, h_t of width `width()`

A family is a frozen dataclass: its fields are the section `model` of a config. Language models, encoders, decoders with
a memory, inspection and the measurement of gradients are all made from its `run`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import jax
from jax import Array
from jax.typing import DTypeLike
from pydantic import ConfigDict

from seqjax.errors import UserError
from seqjax.layers.dense import Params

State = Any  # a pytree of arrays; axis 0 is the layer, axis 1 the batch
Tree = Any


class Lookup(NamedTuple):
    """Inputs that are rows of a table, x_t = scale table[ids_t]. A family may project the table instead of them."""

    ids_BxT: Array
    table_VxD: Array
    scale: float = 1.0

    def scaled(self) -> Array:
        """The table times the scale."""
        return self.table_VxD if self.scale == 1.0 else self.scale * self.table_VxD


Inputs = Array | Lookup


def rows(x: Inputs) -> Array:
    """The inputs as an array, BxTxD."""
    if not isinstance(x, Lookup):
        return x
    return x.table_VxD[x.ids_BxT] if x.scale == 1.0 else x.scale * x.table_VxD[x.ids_BxT]


class Watch(NamedTuple):
    """Asks a forward pass to show its inside.

    Attributes:
      nudges: zeros from `Family.no_nudges`, added to what passes from step to step. The gradient of a loss with respect
        to them is the gradient at each step. None: nothing is added.
    """

    nudges: Tree = None

    def of_layers(self) -> Tree:
        """The nudges with the layers first, TxLxBx... -> LxTxBx...; None if nothing is added."""
        return jax.tree.map(lambda n: n.swapaxes(0, 1), self.nudges)


class Output(NamedTuple):
    """What a forward pass returns.

    Attributes:
      h_BxTxH: hidden states; the readout's input.
      state: after the last element. None when no state was given to a family that can run without one.
      seen: arrays by name when the pass was watched, else empty: "attention" LxBxNxTxS, or gates and states, each
        LxTxBxH (see the family's file).
    """

    h_BxTxH: Array
    state: State = None
    seen: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Family:
    """The base of all families. A subclass defines `init`, `run` and a field `family`, its name in configs.

    A family from a file outside the package gets the field `family` when it is loaded, see `seqjax.families.own`.

    Every family also has the fields `d_model` (D, width of the inputs), `n_layers`, `tied_embeddings` and `dropout`.
    The field `base_width` is optional: the D at which muP is the standard parametrization, or None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
    label: ClassVar[str] = "model"
    """Its name in figures and tables."""
    colour: ClassVar[str] = "#555555"
    """Its colour in figures."""
    through_time: ClassVar[str] = ""
    """How the past reaches the present: a word of `seqjax.families.THROUGH_TIME`; "" if in another way. Figures of many
    families are grouped by it."""
    recurrent: ClassVar[bool] = False
    """Whether it carries a state of fixed size. Streams and truncated back-propagation need one."""
    reads_memory: ClassVar[bool] = False
    """Whether it can be the decoder of an encoder-decoder model."""
    dropout_before_readout: ClassVar[bool] = True
    """Whether a language model drops hidden states on their way to the readout."""
    states: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that can be nudged, in their order (see `Watch`)."""
    titles: ClassVar[Mapping[str, str]] = {}
    """What the states and gates are that `seqjax inspect` draws, by name, where a letter does not mean the same as in
    an LSTM or GRU (`seqjax.plots.inspection.TITLES`)."""
    later: ClassVar[Mapping[str, Any]] = {}
    """Fields added after the first recorded runs, with their defaults. At its default such a field is not part of a
    run's id, so recorded ids stay valid."""
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Forms with a name of their own, each by the fields that define it, in the order of figures."""
    retired: ClassVar[Mapping[str, Any]] = {}
    """Fields of recorded runs that the family no longer has, with the only value allowed for each."""

    @classmethod
    def form_of(cls, values: Mapping[str, Any]) -> str:
        """The name of the form that has these values; "" for a family without `forms`.

        A form without a name of its own is named by the values in which it differs from the nearest one that has one.

        Args:
          values: of the fields, by name. A field that is missing has its default.
        """
        if not cls.forms:
            return ""
        default = {field.name: field.default for field in dataclasses.fields(cls)}
        told = {key: values.get(key, default[key]) for form in cls.forms.values() for key in form}
        apart = {name: [k for k in told if told[k] != form.get(k, default[k])] for name, form in cls.forms.items()}
        near = min(apart, key=lambda name: len(apart[name]))
        return " ".join([near, *(f"{key}={told[key]}" for key in apart[near])])

    def init(self, context: int, causal: bool = True) -> dict[str, Callable[[Array], Params]]:
        """Initial values: functions of a key, by the name of the parameter, float32.

        Names of matrices begin with W. `seqjax.models.accounting` counts these.

        Args:
          context: length of the longest sequence, for learned positions.
          causal: False: h_t may depend on the whole sequence.
        """
        raise NotImplementedError

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
        """Hidden states of T elements.

        Args:
          params: arrays under the names of `init`.
          x: BxTxD.
          state: the state before the first element; None: the start of a sequence.
          mask_BxT: True for elements, False for padding; None: no padding. Padding comes after the sequence.
          causal: False: h_t may depend on the whole sequence.
          memory: what a decoder reads, see `seqjax.models.seq2seq`.
          key: random key of the dropout masks; None: no dropout.
          dtype: of the operands of matrix products; sums and states are float32.
          truncate: steps in a piece of truncated back-propagation through time; None: not truncated.
          watch: asks for the inside; None costs nothing.

        Raises:
          UserError: there are more elements than learned positions, or the family does not support an argument.
        """
        raise NotImplementedError

    def zero_state(self, batch: int, context: int, dtype: DTypeLike = "float32") -> State:
        """The state before the first of at most `context` elements."""
        raise NotImplementedError

    def no_nudges(self, batch: int, times: int) -> Tree:
        """Zeros for `Watch`."""
        raise UserError(f"the family '{self.family}' shows no gradients from step to step")

    def width(self, causal: bool = True) -> int:
        """Width of h_t."""
        return self.d_model

    @property
    def widening(self) -> float:
        """m = D / `base_width`, or 1 without it. It scales initial values and rates (see `seqjax.training.width`)."""
        base = getattr(self, "base_width", None)
        return 1.0 if base is None else self.d_model / base

    @property
    def aligned(self) -> bool:
        """Whether the small changes of a matrix are taken to add up over all of its inputs, as muP does."""
        return getattr(self, "alignment", "full") == "full"

    @property
    def embedding_std(self) -> float:
        """Standard deviation of initial token embeddings."""
        return self.d_model**-0.5

    @property
    def embedding_scale(self) -> float:
        """Factor on token embeddings: sqrt(D) gives inputs of unit variance (Vaswani et al. 2017, section 3.4)."""
        return math.sqrt(self.d_model)

    @property
    def readout_std(self) -> float:
        """Standard deviation of the initial readout matrix: under muP with full alignment it falls as 1 / D."""
        return (self.width() * (self.widening if self.aligned else 1.0)) ** -0.5

    @property
    def readout_bias(self) -> bool:
        """Whether the readout has a bias."""
        return getattr(self, "bias", False)

    @property
    def context_limit(self) -> bool:
        """Whether it reads at most `train.context_length` elements."""
        return False

    @property
    def shape(self) -> str:
        """Layers and width, for names of runs."""
        return f"{self.n_layers}x{self.d_model}"

    @property
    def grain(self) -> int:
        """Size targets choose widths that are multiples of this."""
        return 1

    def widened(self, d_model: int) -> Self:
        """The model at another width, with the same depth and proportions."""
        return dataclasses.replace(self, d_model=d_model)

    def proportional(self, width: int, d_model: int) -> int:
        """`width`, scaled as D changes to `d_model`."""
        return max(1, round(width * d_model / self.d_model))

    def extra_flops(self, context: int, streams: bool = False) -> float:
        """FLOPs of a forward pass per token beyond 2 per matrix weight, averaged over a context.

        Args:
          streams: whether a state is carried from context to context: attention blocks see what it keeps.
        """
        return 0.0

    def check(self) -> None:
        """Raise `Impossible` for values that do not fit together."""


def check_base_width(family: Family) -> None:
    """Raise `Impossible` for muP with tied embeddings: embedding and readout scale differently with the width."""
    if getattr(family, "base_width", None) is not None and family.tied_embeddings:
        raise Impossible("model.base_width", "needs an embedding and a readout apart; allowed: null")


class Impossible(ValueError):
    """A combination of values that is not allowed; ``key`` is the dotted key to change."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
