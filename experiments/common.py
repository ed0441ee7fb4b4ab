"""What experiments share: a sweep trained to its end and read, the record of it, mistakes told in one line."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqjax.cli import main as seqjax
from seqjax.commands.options import config_options
from seqjax.commands.sweep import FAILED
from seqjax.commands.words import split_config_options
from seqjax.config.plain import whole
from seqjax.errors import UserError
from seqjax.host.disk import read_json, storage_errors, write_atomically, write_json
from seqjax.host.numerics import pinned
from seqjax.host.wording import counted
from seqjax.laws.files import to_dict
from seqjax.laws.fitting import Fit
from seqjax.laws.intervals import t_interval
from seqjax.laws.run_columns import RATE, SEED
from seqjax.laws.run_rows import choices_of, ended
from seqjax.plots.style import save
from seqjax.runs import read_plan, read_result
from seqjax.sweeps.folder import state
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.search import search
from seqjax.sweeps.sweep import results_of
from seqjax.sweeps.table import gather
from seqjax.training.hardware import describe_hardware, describe_package, describe_versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS, SWEEPS = ROOT / "experiments" / "results", ROOT / "configs" / "sweeps"
Analysis = Callable[[pd.DataFrame, Path], tuple[dict[str, Any], dict[str, Any]]]
"""(run table, sweep folder) -> (what was found; figures, and texts by the names of their files)."""


def sweep_table(path: Path, runs: Path, options: Sequence[str] = ()) -> tuple[int, pd.DataFrame | None]:
    """Train a sweep file, or go on with it: the exit code, and the table of its runs once all of them have ended.

    The rows are in the order of the sweep. Runs in the folder that this sweep does not have (of an older version of
    its file, say) are left out. Runs that were given up are in the table, and the code says so.

    Raises:
        UserError: as the sweep; or it has left runs to others that have not ended.
    """
    code = seqjax(["sweep", str(path), "--runs", str(runs), *options])
    if code not in (0, FAILED):
        return code, None
    folder = runs / path.stem
    sweep = read_sweep(path, config_options(split_config_options(list(options))[1]))
    planned, curves = search(sweep, results_of(folder))
    states = {run.run_id: state(folder / run.run_id).name for run in planned}
    if left := [run_id for run_id, name in states.items() if name not in ("finished", "diverged", "failed")]:
        raise UserError(f"{folder}: {len(left)} runs have not ended, such as {left[0]}; see seqjax status {folder}")
    if code == 0 and not all(curve.settled for curve in curves):
        raise UserError(f"{folder}: the search of learning rates has not ended; start the same command again")
    return code, gather([folder]).set_index("run_id", drop=False).loc[list(states)].reset_index(drop=True)


def results(table: pd.DataFrame, folder: Path) -> list[dict[str, Any]]:
    """result.json of every run of a table.

    Raises:
        UserError: a run that has not finished.
    """
    for run_id, status in table[["run_id", "status"]].itertuples(index=False):
        if status != "finished":
            raise UserError(f"{folder / run_id}: the run has not finished: {status}")
    return [read_result(folder / run_id) for run_id in table["run_id"]]


def base_of(folder: Path, run_id: str) -> Path:
    """The config file that a run of a sweep over config files is of, without its suffix and relative to configs."""
    return Path(read_plan(folder / run_id)["axes"]["base"].rpartition("../")[2]).with_suffix("")


def writable(target: Path) -> Path:
    """The folder, made and tried: what cannot be written is told before hours of training.

    Raises:
        UserError: it cannot be made, or no file be written in it.
    """
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target) as file:
            file.write(b"tried")
            file.flush()
    return target


def surroundings(*packages: str) -> dict[str, Any]:
    """Where and when: hardware, versions and date, for results.json.

    Args:
        packages: others whose versions matter, such as torch.
    """
    found = {name: describe_package(name) for name in packages}
    return {
        "hardware": describe_hardware(),
        "versions": describe_versions() | found,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def begun(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """What a benchmark recorded in this file before, to go on with; {} if there is no file.

    Args:
        here: `surroundings` and settings, as they are recorded.

    Raises:
        UserError: the record differs in one of them but the date, since a table is of one machine and one kind of run;
            or the file is damaged.
    """
    if not path.is_file():
        return {}
    record = read_json(path)
    for name in here.keys() - {"date"}:
        if record.get(name) != here[name]:
            raise UserError(
                f"{path}: was measured with another {name} ({record.get(name)}; here {here[name]}): keep it elsewhere, "
                "or measure all of it with --again"
            )
    return record


def measured(
    path: Path, here: dict[str, Any], wanted: Iterable[dict[str, Any]], again: bool,
    measure: Callable[[dict[str, Any]], dict[str, Any]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Measure the wanted rows that a benchmark's record lacks. Each is in the record when it is yielded.

    Args:
        path: the record. here: as for `begun`.
        wanted: what each row is; the row that is measured for it has these items too.
        again: also those that the record has. Rows that are not wanted stay, unless the record has no others: then
            it may be of another machine and begins anew.

    Raises:
        UserError: as `begun`.
    """
    wanted = list(wanted)
    rows = read_json(path).get("rows", []) if path.is_file() else []
    if again and all(any(_is_of(row, one) for one in wanted) for row in rows):
        rows = []
    else:
        begun(path, here)
    for one in wanted:
        place = next((i for i, row in enumerate(rows) if _is_of(row, one)), len(rows))
        if again or place == len(rows):
            rows[place : place + 1] = [measure(one)]
            write_json(path, {**here, "rows": rows})
            yield rows[place]


def _is_of(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return row.items() >= wanted.items()


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean and 95 % interval over seeds, by Student's t."""
    mean, half = t_interval(values.tolist())
    return {"value": mean, "low": mean - half, "high": mean + half}


class AtBest(NamedTuple):
    """The losses at the best rate of a horizon, by seed; whether that rate is at an edge of those tried."""

    rate: float
    losses: pd.Series
    edge: bool


def best_rates(table: pd.DataFrame) -> dict[float, AtBest]:
    """The best rate of each number of tokens, of runs that differ in tokens, rate and seed alone.

    Raises:
        UserError: a run of every rate has diverged.
    """
    table, found = ended(table), {}
    for model in choices_of(table):
        if not model.kept:
            run = table["run_id"].iloc[model.diverged[0]]
            raise UserError(f"a run of every learning rate has diverged, {run} and those that differ in rate and seed")
        rows = table.iloc[model.kept]
        rate, tokens = (float(rows[name].iloc[0]) for name in (RATE, "tokens"))
        found[tokens] = AtBest(rate, by_seed(rows), model.at_edge)
    return dict(sorted(found.items()))


def by_seed(rows: pd.DataFrame) -> pd.Series:
    """Held-out losses in nats per token, by seed. One that diverged is not there."""
    return rows.set_index(SEED)["loss"].astype(float).sort_index()


def as_record(at: AtBest) -> dict[str, Any]:
    """The mean over seeds with its interval, and the rate, as results.json keeps them."""
    return interval(at.losses.to_numpy()) | {"seeds": len(at.losses), "rate": at.rate, "edge": at.edge}


def paired(one: pd.Series, other: pd.Series, what: str) -> pd.Series:
    """``one`` - ``other`` of the seeds that both have. Runs with the same seed see the same batches.

    Args:
        what: the models, for the error.

    Raises:
        UserError: no seed is in both.
    """
    found = (one - other).dropna()
    if found.empty:
        seeds = " and ".join(f"({', '.join(map(str, sorted(losses.index)))})" for losses in (one, other))
        raise UserError(f"{what}: no seed in common: {seeds}")
    return found


def change(one: pd.Series, other: pd.Series, what: str) -> dict[str, Any]:
    """Mean and interval of `paired`, and its number of seeds."""
    found = paired(one, other, what)
    return interval(found.to_numpy()) | {"seeds": len(found)}


def in_common(seeds: int, *of: int) -> str:
    """ " (2 seeds in common)", where a seed is not in all of them."""
    return f" ({counted(seeds, 'seed')} in common)" if seeds < max(of) else ""


def same_horizons(one: dict[float, AtBest], other: dict[float, AtBest]) -> list[tuple[float, AtBest, AtBest]]:
    """Both at every number of tokens.

    Raises:
        UserError: one has a horizon that the other has not.
    """
    if one.keys() != other.keys():
        raise UserError(f"the horizons differ: {sorted(one)} and {sorted(other)} tokens")
    return [(tokens, one[tokens], other[tokens]) for tokens in one]


def runs_at_best(best: pd.DataFrame) -> list[dict[str, Any]]:
    """The runs at the best rate of their model, as results.json keeps them; ``loss`` in nats per token."""
    columns = {"kind": "kind", "params_non_embedding": "params", "model.n_layers": "layers", "tokens": "tokens"}
    columns |= {"train.context_length": "context", "train.seed": "seed"}
    columns |= {"optimizer.learning_rate": "rate", "loss": "loss"}
    rows = best.sort_values(list(columns)[:6])[list(columns)].rename(columns=columns)
    return rows.to_dict("records")


def at_an_edge(table: pd.DataFrame) -> str:
    """How many models have their best rate at an edge of those that were tried for them, diverged ones included."""
    found = [model for model in choices_of(ended(table)) if model.kept]
    edge = sum(model.at_edge for model in found)
    return f"{edge} of {len(found)} models have their best rate at an edge of those tried"


def exponent(law: dict[str, Any], name: str) -> str:
    """0.076 (0.070 to 0.081): a constant of `constants`, with its interval where there is one."""
    if name not in law["intervals"]:
        return f"{law['params'][name]:.3f} (no interval)"
    low, high = law["intervals"][name]
    return bracket({"value": law["params"][name], "low": low, "high": high})


def bracket(found: dict[str, float], sign: bool = False, digits: int = 3) -> str:
    """Value and interval of `interval`; the value alone where one seed has none."""
    value, low, high = (format(found[key], f"{'+' if sign else ''}.{digits}f") for key in ("value", "low", "high"))
    return value if np.isnan(found["low"]) else f"{value} ({low} to {high})"


@pinned()
def run(name: str, sweep: str, doc: str, analyse: Analysis, *, file: str = "results.json", about: bool = True) -> int:
    """Train a sweep of configs/sweeps/, or go on with it, analyse it, and write figures and what was found.

    With ``--record`` they go to experiments/results/NAME, else to report/NAME. What another sweep found is kept under
    its own name. Further options are those of `seqjax sweep`.

    Args:
        file: for what was found.
        about: whether it tells of hardware, versions and date too.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the predicted time, and stop")
    parser.add_argument("--sweep", type=Path, default=SWEEPS / f"{sweep}.yaml", help=f"another one [{sweep}.yaml]")
    parser.add_argument("--seeds", type=whole(1), help="runs of each model, where the seed is an axis [as the sweep]")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="parent of the sweep folder [runs]")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / name, help=f"for the figures [report/{name}]")
    parser.add_argument("--record", action="store_true", help=f"write to experiments/results/{name} (or SWEEP)")
    options, rest = parser.parse_known_args()
    if options.seeds:
        rest += ["--grid.train.seed", json.dumps(list(range(options.seeds)))]
    if options.dry_run:
        return seqjax(["sweep", str(options.sweep), "--runs", str(options.runs), *rest, "--dry-run"])
    own = options.sweep.resolve() == (SWEEPS / f"{sweep}.yaml").resolve()
    target = writable(RESULTS / (name if own else options.sweep.stem) if options.record else options.report)
    code, table = sweep_table(options.sweep, options.runs, ["--extend", *rest])
    if table is None:
        return code
    found, files = analyse(table, options.runs / options.sweep.stem)
    found |= of_last(table, options.runs / options.sweep.stem) if about else {}
    write(target, files, {file: found})
    return code


def of_last(table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """ "ended": how many runs have, and on what; hardware and versions of the last of them; the date."""
    ended = table.dropna(subset=["ended"]).sort_values("ended")
    last = read_result(folder / ended["run_id"].iloc[-1])
    devices = ended["device"].replace("cpu", np.nan).fillna(ended["processor"]).value_counts().to_dict()
    where = {key: last[key] for key in ("hardware", "versions")}
    return {"ended": len(ended), "devices": devices, **surroundings(), **where}


def write(target: Path, files: dict[str, Any], records: dict[str, Any]) -> None:
    """Figures as SVG and PNG, texts, and records as JSON."""
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name, made in files.items():
            if isinstance(made, str):
                write_atomically(target / name, made)
                continue
            for kind in ("svg", "png"):
                save(made, target / f"{name}.{kind}")
        for name, record in records.items():
            write_json(target / name, record)
    print(f"{', '.join(records)} and what goes with it: {target}")


def constants(fit: Fit) -> dict[str, Any]:
    """What results.json keeps of a fit."""
    saved = to_dict(fit)
    return {key: saved[key] for key in ("law", "equation", "n_rows", "params", "intervals", "flags")}
