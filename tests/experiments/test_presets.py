"""The presets of Figure 7: no run of theirs is starved of steps, or of progress by a batch that is too large."""

from __future__ import annotations

from functools import cache

import experiment
import pytest
from quick import quick

from seqjax.config import RunConfig
from seqjax.families import kind_of
from seqjax.runs.targets import non_embedding_parameters
from seqjax.sweeps.grid import Planned, Sweep, read_sweep
from seqjax.sweeps.search import foreseen

PRESETS = ("laptop", "workstation", "far", "gpu", "pod")
QUICK = ("laptop", "workstation")  # planning the others takes seconds
LEAST_STEPS, LEAST_STEPS_OF_A_BRANCH = 2500, 150


def effective_steps(config: RunConfig) -> float:
    """S / (1 + B / B_crit(L)), equation 5.4 of Kaplan et al. 2020: the steps that a very large batch would need.

    B_crit(L) = 2e8 / L^(1 / 0.21) tokens at the loss L(N, D) that their equation 1.5 predicts for the end of the run.
    """
    train = config.train
    params, tokens = non_embedding_parameters(config.model), train.steps * train.batch_size * train.context_length
    loss = ((8.8e13 / params) ** (0.076 / 0.095) + 5.4e13 / tokens) ** 0.095
    return train.steps / (1 + train.batch_size * train.context_length / (2e8 / loss ** (1 / 0.21)))


@cache
def planned_of(preset: str) -> tuple[Sweep, list[Planned]]:
    """The sweep of a preset and all its runs; planning takes seconds."""
    sweep = read_sweep(experiment.REPOSITORY / f"configs/figure7/{preset}.yaml")
    return sweep, foreseen(sweep, lambda _: None)


@pytest.mark.parametrize("preset", quick([*PRESETS, "families", "families-workstation"], *QUICK))
def test_no_run_of_a_preset_is_starved(preset: str) -> None:
    sweep, planned = planned_of(preset)
    for run in planned:
        least = LEAST_STEPS if run.trunk == run.run_id else LEAST_STEPS_OF_A_BRANCH
        assert effective_steps(run.config) >= least, run.label
    assert {run.axes["horizon.tokens"] for run in planned} == {*sweep.horizons}


@pytest.mark.parametrize("preset", quick(PRESETS, *QUICK))
def test_a_preset_has_the_lstm_and_both_forms_at_equal_sizes(preset: str) -> None:
    sizes: dict[str, set[float]] = {}
    for run in planned_of(preset)[1]:
        kind = kind_of(run.config.model.family, vars(run.config.model))
        sizes.setdefault(kind, set()).add(run.axes["size.non_embedding"])
    main = [sizes[kind] for kind in ("lstm", "transformer gpt2", "transformer modern")]
    assert main[0] == main[1] == main[2] and len(main[0]) >= 2


def test_the_recorded_short_runs_were_starved() -> None:
    starved = read_sweep(experiment.REPOSITORY / "configs/figure7/starved.yaml").runs()
    assert max(effective_steps(run.config) for run in starved) < LEAST_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gpu", "pod"])
def test_a_preset_fits_its_target(preset: str) -> None:
    """As `experiments/preflight.py` compiled the largest model of each form; again, if a preset changes."""
    preflight = experiment.load("preflight")
    target = preflight.PRESETS[preset]
    rows = {row["name"]: row for row in preflight.read_rows() if row["target"] == target}
    largest = preflight.largest_of(preset, planned_of(preset)[1])
    for form, config in largest.items():
        if (row := rows.get(form)) is not None:
            compiled = non_embedding_parameters(config.model), config.train.batch_size, config.train.context_length
            assert (row["N"], row["B"], row["T"]) == compiled, (
                f"{form}: python experiments/preflight.py --record --again"
            )
            assert row["fits"] and row["GiB"] <= row["GiB_of_device"], form
    if missing := largest.keys() - rows.keys():
        pytest.skip(f"not compiled yet ({', '.join(missing)}): python experiments/preflight.py --record")
