"""Models of several families on the same held-out tokens: loss by position, and draws of it under two kinds of noise.

A measured loss is uncertain because of the held-out text and because of the seed. Every draw resamples chains of
windows with replacement, the same chains for every model, so that the difficulty of the text cancels between models. It
also adds to each model deviations of random runs from the mean over their seeds. These are pooled over the models of a
family, since one model has too few seeds, and widened by Student's t for those that there are. The draws give the
interval of any statistic of the curves.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from seqjax.errors import UserError
from seqjax.families import in_order, label_of
from seqjax.host.disk import write_bytes_atomically
from seqjax.host.wording import with_and
from seqjax.laws.noise import students_factor
from seqjax.laws.ranks import ranks_of
from seqjax.trained.chains import KAPLAN_CHARACTERS, Chains

LEAST_RUNS = 8  # runs of models with several seeds, for a family to have its own noise
SAME_SIZE = 1.6  # smallest factor between two sizes


def model_name(kind: str, layers: int) -> str:
    """The name of a model as in the paper's figure."""
    return f"{label_of(kind)} {layers} layer{'s' if layers > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class Design:
    """The properties of a run without its seed; params are non-embedding; ``form`` as `Family.form_of`."""

    family: str
    layers: int
    params: float
    tokens: float
    flops: float
    context: int
    form: str = ""

    @property
    def kind(self) -> str:
        """Family and form, see `seqjax.families.kind_of`."""
        return f"{self.family} {self.form}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Measured(Design):
    """One run and its losses.

    Attributes:
        loss_CxP: mean loss of each chain in each bin of positions, nats per token; NaN beyond a shorter context.
        late_Cx2: mean loss of the same tokens with short and with long context; NaN if there are none.
    """

    run_id: str
    seed: int
    loss_CxP: np.ndarray
    late_Cx2: np.ndarray

    @property
    def design(self) -> Design:
        """The design, equal for all seeds."""
        return Design(**{field.name: getattr(self, field.name) for field in fields(Design)})


@dataclass(frozen=True, kw_only=True)
class Model(Design):
    """Runs that differ only in their seed. ``size`` is the rank of the parameter count, from 0."""

    size: int
    run_ids: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name as in the paper's figure."""
        return model_name(self.kind, self.layers)


@dataclass(frozen=True)
class Comparison:
    """All models on the same tokens. The first of the S samples is the measured value, the others are draws.

    Attributes:
        loss_SxMxP: by bin of positions, nats per token; the last bin is all positions.
        late_SxMx2: of the same tokens with short and with long context.
        seeds: largest number of seeds of a model; if it is 1, the noise of seeds is unknown and not in the draws.
    """

    chains: Chains
    characters_per_token: float
    models: tuple[Model, ...]
    loss_SxMxP: np.ndarray
    late_SxMx2: np.ndarray
    seeds: int

    @property
    def per_kaplan_token(self) -> float:
        """Factor from nats per token here to nats per token of Kaplan et al. 2020, for the same text."""
        return KAPLAN_CHARACTERS / self.characters_per_token

    @property
    def mean_SxM(self) -> np.ndarray:
        """Mean over all positions, nats per token."""
        return self.loss_SxMxP[:, :, -1]

    def of(self, *names: str, context: int | None = None) -> np.ndarray:
        """Indices of the models of these families or kinds, by size and depth; ``context`` None: that of the chains."""
        wanted = self.chains.context if context is None else context
        kinds = {model.kind for model in self.models}
        families = {*names} - kinds  # a name that a kind has is not that of all forms of its family
        chosen = [
            i
            for i, model in enumerate(self.models)
            if (model.kind in names or model.family in families) and model.context == wanted
        ]
        return np.array(sorted(chosen, key=lambda i: (self.models[i].size, self.models[i].layers)), int)

    def kinds(self, *families: str) -> list[str]:
        """The kinds of these families, in the order of figures."""
        return in_order(m.kind for m in self.models if m.family in families)

    def without(self, *kinds: str) -> Comparison:
        """The comparison without the models of these kinds."""
        kept = [i for i, m in enumerate(self.models) if m.kind not in kinds]
        models = tuple(self.models[i] for i in kept)
        return replace(self, models=models, loss_SxMxP=self.loss_SxMxP[:, kept], late_SxMx2=self.late_SxMx2[:, kept])

    def sizes(self, *families: str) -> list[int]:
        """Ranks of the sizes that all of these families have."""
        return sorted(set.intersection(*({self.models[i].size for i in self.of(family)} for family in families)))

    def best(self, family: str, size: int) -> int:
        """The model of a family and size whose depth has the lowest measured mean loss."""
        here = [i for i in self.of(family) if self.models[i].size == size]
        return int(here[np.argmin(self.mean_SxM[0, here])])

    def at(self, first: int, last: int) -> np.ndarray:
        """Mean loss over positions ``first`` to ``last``, [S, M], which must be whole bins."""
        bins = self.chains.bins()[:-1]
        inside = [p for p, (a, b) in enumerate(bins) if first <= a and b <= last]
        width = np.array([bins[p][1] - bins[p][0] + 1 for p in inside], float)
        if not inside or width.sum() != last - first + 1:
            raise UserError(f"positions {first} to {last} are not whole bins")
        return self.loss_SxMxP[:, :, inside] @ (width / width.sum())

    @property
    def gain_SxM(self) -> np.ndarray:
        """Fall of the loss on the same tokens from short to long context, nats per token."""
        return self.late_SxMx2[:, :, 0] - self.late_SxMx2[:, :, 1]

    def interval(self, values_S: np.ndarray) -> tuple[float, float, float]:
        """The measured value, and the 95 % interval over the draws."""
        draws = values_S[1:]
        if not len(draws) or np.isnan(draws).any() or np.isnan(values_S[0]):
            return float(values_S[0]), np.nan, np.nan
        low, high = np.percentile(draws, (2.5, 97.5), method="nearest")
        return float(values_S[0]), float(low), float(high)


def compare(runs: Sequence[Measured], chains: Chains, characters_per_token: float, draws: int = 2000) -> Comparison:
    """Group runs by model and draw.

    Raises:
        UserError: no runs, runs of other chains, or two runs of one model and seed.
    """
    groups: dict[Design, list[Measured]] = {}
    for run in runs:
        groups.setdefault(run.design, []).append(run)
    if not groups:
        raise UserError("there are no runs to compare")
    n_chains, n_bins = chains.chains, len(chains.bins())
    if bad := [run.run_id for run in runs if run.loss_CxP.shape != (n_chains, n_bins)]:
        raise UserError(f"{bad[0]}: was measured on other chains of windows")
    for members in groups.values():
        if len({run.seed for run in members}) < len(members):
            named = with_and([run.run_id for run in members])
            raise UserError(f"{named} are of one model and seed, but not the same run: compare one design at a time")
    rank = size_ranks(design.params for design in groups)
    models = tuple(
        Model(**asdict(design), size=rank[design.params], run_ids=tuple(run.run_id for run in members))
        for design, members in groups.items()
    )
    curves = [np.stack([np.hstack([run.loss_CxP, run.late_Cx2]) for run in members]) for members in groups.values()]
    rng = np.random.default_rng(0)
    # the variance of a resampled mean of C chains is (C - 1) / C of the variance with new chains: corrected here
    widen = np.sqrt(n_chains / (n_chains - 1)) if n_chains > 1 else 1.0
    shares_RxC = rng.multinomial(n_chains, np.full(n_chains, 1 / n_chains), draws) / n_chains
    over_chains = [(model.family, curve.mean(axis=1)) for model, curve in zip(models, curves, strict=True)]
    pools = {model.family: _deviations(over_chains, model.family) for model in models}
    samples = []
    for model, curve_NxCxP in zip(models, curves, strict=True):
        deviations, left = pools[model.family]
        over_seeds_CxP = curve_NxCxP.mean(axis=0)
        measured_P = over_seeds_CxP.mean(axis=0)
        drawn_RxP = measured_P + widen * (shares_RxC @ over_seeds_CxP - measured_P)
        if len(deviations):
            chosen = rng.integers(len(deviations), size=(draws, len(curve_NxCxP)))
            signs = rng.choice((-1.0, 1.0), size=(*chosen.shape, 1))
            drawn_RxP = drawn_RxP + students_factor(left) * (signs * deviations[chosen]).mean(axis=1)
        samples.append(np.vstack([measured_P, drawn_RxP]))
    samples_SxMxP = np.stack(samples, axis=1)
    return Comparison(
        chains,
        characters_per_token,
        models,
        samples_SxMxP[:, :, :-2],
        samples_SxMxP[:, :, -2:],
        max(map(len, groups.values())),
    )


def size_ranks(params: Iterable[float]) -> dict[float, int]:
    """Parameter count -> rank of its size, from 0, in rising order. Counts of one size differ a little."""
    counts = sorted(set(params))
    return dict(zip(counts, map(int, ranks_of(np.array(counts), SAME_SIZE)), strict=True))


def _deviations(curves_NxP: Sequence[tuple[str, np.ndarray]], family: str) -> tuple[np.ndarray, int]:
    """Deviations of runs from the mean over their seeds, [n, P], scaled to the variance of one run, and their degrees
    of freedom: of a family, or of all families if it has fewer than `LEAST_RUNS`.

    Models with a shorter context are left out: they have no values at later positions.
    """
    found = [
        (of, np.sqrt(len(curve) / (len(curve) - 1)) * (curve - curve.mean(axis=0)))
        for of, curve in curves_NxP
        if len(curve) > 1 and not np.isnan(curve[:, :-2]).any()
    ]
    own = [deviation for of, deviation in found if of == family]
    pool = own if sum(map(len, own)) >= LEAST_RUNS else [deviation for _, deviation in found]
    return np.concatenate(pool) if pool else np.empty((0, 0)), sum(len(deviation) - 1 for deviation in pool)


def save(path: Path, runs: Sequence[Measured], chains: Chains, characters_per_token: float) -> None:
    """Write the arguments of :func:`compare` to a file, without pickled objects."""
    facts = [{key: value for key, value in vars(run).items() if not isinstance(value, np.ndarray)} for run in runs]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        loss_NxCxP=np.stack([run.loss_CxP for run in runs]).astype(np.float32),
        late_NxCx2=np.stack([run.late_Cx2 for run in runs]).astype(np.float32),
        facts=json.dumps({"runs": facts, "chains": chains.as_fields(), "characters_per_token": characters_per_token}),
    )
    write_bytes_atomically(path, buffer.getvalue())


def load(path: Path) -> tuple[list[Measured], Chains, float]:
    """Read a file of :func:`save`.

    Raises:
        UserError: no such file, or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            facts = json.loads(str(saved["facts"]))
            loss, late = saved["loss_NxCxP"].astype(np.float64), saved["late_NxCx2"].astype(np.float64)
        chains = Chains.of_fields(facts["chains"])
        runs = [
            Measured(**of_run, loss_CxP=loss_CxP, late_Cx2=late_Cx2)
            for of_run, loss_CxP, late_Cx2 in zip(facts["runs"], loss, late, strict=True)
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as measured positions: {error}") from None
    return runs, chains, float(facts["characters_per_token"])
