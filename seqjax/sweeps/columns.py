"""The columns of a run table that come from the files of a run alone, and their text. Nothing here needs JAX or pandas.

`COLUMNS` describes them. The fields of the config, which follow them in a table, are in `seqjax.sweeps.table`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqjax import runs
from seqjax.errors import UserError, printable
from seqjax.host import disk
from seqjax.host.wording import si
from seqjax.laws.best_rates import Trial, choices
from seqjax.laws.run_columns import RATE, SEED, is_of_design
from seqjax.sweeps import folder as folders
from seqjax.sweeps.aligned import aligned, aligned_within

COLUMNS = {
    "run_id": "name of the run folder",
    "sweep": "name of the folder above it",
    "label": "readable name in its sweep",
    "status": "finished, diverged, imported, running, stopped, planned, failed or damaged",
    "loss": "final held-out loss, nats per token (of other tasks than text: in the unit of the task)",
    "loss_se": "its standard error",
    "bits_per_byte": "the same loss in bits per byte of text",
    "best_loss": "lowest point of the validation curve, nats per token",
    "best_step": "its step",
    "train_loss": "last line of the training curve, nats per token",
    "params_non_embedding": "N of Kaplan et al. 2020: matrices of layers and blocks",
    "params_with_readout": "N and the readout's weights",
    "params_embedding": "the token embedding",
    "params_total": "all parameters",
    "steps": "optimizer steps taken",
    "tokens": "training tokens seen",
    "unique_tokens": "tokens of the training split",
    "epochs": "tokens / unique_tokens",
    "flops_kaplan": "6 N D, with N non-embedding",
    "flops_exact": "training FLOPs with attention and readout",
    "flops_per_token": "exact training FLOPs of one token",
    "tokens_per_second": "training rate of this run, without compilation and evaluation",
    "seconds": "wall time of the run",
    "training_seconds": "time of one worker for all its steps, those taken by its trunk too, without the rest",
    "waited_share": "its threads' wait for cores that other work had, over that time; above 0.1 other work ran beside",
    "runs_in_program": "number of runs that shared its program (and its time)",
    "halved_from": "number of runs planned for its program, if its bundle died and was halved; last digits differ",
    "failures": "number of times its process died",
    "reason": "why it last died; for a damaged run, what is damaged",
    "device": "device kind",
    "processor": "processor",
    "jax_version": "version of jax",
    "seqjax_version": "version of seqjax",
    "made_by": "versions and devices that took its steps, if they changed on the way; last digits differ",
    "ended": "UTC time of the result",
    "corpus_sha256": "of the text",
    "tokenizer_sha256": "of the tokenizer",
    "kind": "family, and its form where it has several: lstm, transformer gpt2, transformer modern",
    "trunk": "run_id of the run whose first steps it shares, its own for a trunk; empty if it shares none",
}
TEXTS = ("run_id", "sweep", "label", "status", "reason", "device", "processor", "jax_version", "seqjax_version",
         "made_by", "ended", "corpus_sha256", "tokenizer_sha256", "kind", "trunk")  # fmt: skip
COUNTS = ("best_step", "params_non_embedding", "params_with_readout", "params_embedding", "params_total", "steps",
          "tokens", "unique_tokens", "runs_in_program", "halved_from", "failures")  # fmt: skip
SHOWN = ("run_id", "status", "params_non_embedding", "tokens", "flops_exact", "optimizer.learning_rate", "train.seed",
         "loss", "loss_se", "bits_per_byte")  # fmt: skip
ALWAYS = ("status", "params_non_embedding", "loss")
"""Columns of `SHOWN` that are shown even where no row has a value."""
FIRST_OUT = ("flops_exact", "bits_per_byte", "loss_se", "train.seed")
"""Columns of `SHOWN` that are left out where they do not fit, the first one first."""

COUNTED = ("params_", "tokens", "unique_tokens", "flops_")  # beginnings of columns that are shown as 12.3 k
OF_DATA = ("task.", "data.corpus", "data.tokenizer", "data.batching", "train.context_length")
"""Beginnings of config keys that losses depend on. Where runs differ in them, they stand beside the losses."""
LOSSES = ("loss", "loss_se", "best_loss", "train_loss", "bits_per_byte")
PLACES = {
    **{name: f"validation.{name}" for name in ("loss", "loss_se", "bits_per_byte")},
    **{f"params_{name}": f"parameters.{name}" for name in ("non_embedding", "with_readout", "embedding", "total")},
    "best_loss": "best.validation_loss",
    "best_step": "best.step",
    "flops_kaplan": "training_flops.kaplan_6nd",
    "flops_exact": "training_flops.exact",
    "flops_per_token": "flops_per_token.training",
    "device": "hardware.device",
    "processor": "hardware.processor",
    "jax_version": "versions.jax",
    "seqjax_version": "versions.seqjax",
}
"""The place of a column in result.json, if it is not there under its own name."""


def of_files(run_folder: Path) -> dict[str, Any]:
    """`COLUMNS` of one run from its files, without ``run_id`` and ``kind``, which need its config.

    Raises:
        UserError: a file is damaged.
    """
    state = folders.state(run_folder)
    result = runs.read_result(run_folder) or {}
    path = run_folder / "result.json"
    found = {name: _from_result(path, result, PLACES.get(name, name)) for name in COLUMNS}
    found |= {
        "sweep": printable(run_folder.resolve().parent.name),
        "label": printable(state.label),
        "status": state.name,
        "steps": result.get("steps", state.step),
        "training_seconds": training_seconds(result),
        "waited_share": result.get("waited_share"),
        "halved_from": _halved_from(run_folder, result),
        "failures": state.failures,
        "reason": state.reason or None,
        "made_by": _made_by(path, result),
        "trunk": folders.read_plan(run_folder).get("trunk"),
    }
    _check_types(path, found)
    return found


def listed(places: Iterable[Path], names: Iterable[str], alike: bool = False) -> list[dict[str, Any]] | None:
    """The rows of run folders for these columns: names of `COLUMNS`, or dotted keys that every config.json has.

    None where that is not enough: a saved table, a damaged file, a run in two places, code of the user's own, a field
    that a config.json leaves to its default. `seqjax.sweeps.table` has all of these.

    Args:
        alike: all fields are needed, so that every config.json must have the same fields.
    """
    rows: list[dict[str, Any]] = []
    places = list(places)
    if any(place.is_file() for place in places):
        return None
    try:
        for place in places:
            for run_folder in folders.run_folders(place):
                saved = _saved(run_folder)
                row = saved | of_files(run_folder) | {"run_id": folders.identity(run_folder)}
                named = [saved.get(key) for key in ("model.family", "task.name") if key in saved]
                if not all(isinstance(name, str) and name.isidentifier() for name in named):
                    return None
                rows.append(row)
    except UserError:
        return None
    known = all(name != "kind" and all(name in row for row in rows) for name in names)
    once = len({(row["sweep"], row["run_id"]) for row in rows}) == len(rows)
    return rows if rows and known and once and (not alike or _alike(rows)) else None


def _saved(run_folder: Path) -> dict[str, Any]:
    """The dotted keys of config.json."""
    path = run_folder / "config.json"
    sections = disk.read_json(path)
    if gone := [name for name, of in sections.items() if not isinstance(of, dict)]:
        raise disk.damaged(path, f"its '{gone[0]}' is not an object")
    return {f"{name}.{key}": value for name, of in sections.items() for key, value in of.items()}


def _alike(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all runs have the same fields, and all runs of a family the same fields of the model."""
    models = {(row.get("model.family"), frozenset(key for key in row if key.startswith("model."))) for row in rows}
    others = {frozenset(key for key in row if "." in key and not key.startswith("model.")) for row in rows}
    return len(others) == 1 and len(models) == len({family for family, _ in models})


def at_best_rates(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The finished runs at the best learning rate of their model, all seeds, of rows that are alike."""
    ended = [row for row in rows if row["status"] in ("finished", "diverged")]
    keys = sorted({key for row in ended for key in row if is_of_design(key)})
    designs = [tuple(str(row.get(key)) for key in keys) for row in ended]
    losses = [math.inf if row["status"] == "diverged" else row["loss"] for row in ended]
    trials = [Trial(row.get(RATE), row.get(SEED), loss) for row, loss in zip(ended, losses, strict=True)]
    found = choices(designs, [row.get("tokens") for row in ended], trials)
    return [ended[row] for row in sorted(row for model in found for row in model.kept)]


def _check_types(path: Path, row: Mapping[str, Any]) -> None:
    """Raise UserError if a value of a number column is not a number."""
    for name, meaning in COLUMNS.items():
        fits = runs.is_count if name in COUNTS else runs.is_number
        if name not in TEXTS and row[name] is not None and not fits(row[name]):
            raise disk.damaged(path, f"{name}, {meaning}, is {row[name]!r}")


def _from_result(path: Path, result: Mapping[str, Any], place: str) -> Any:
    """The value at a place, ``key`` or ``section.key``; None if it is not there."""
    section, _, key = place.rpartition(".")
    values = (result.get(section) or {}) if section else result
    if not isinstance(values, dict):
        raise disk.damaged(path, f"its '{section}' is not an object")
    return values.get(key)


def _halved_from(run_folder: Path, result: Mapping[str, Any]) -> int | None:
    planned = folders.read_plan(run_folder).get("halved_from")
    return planned if planned and result.get("runs_in_program", planned) < planned else None


def _made_by(path: Path, result: Mapping[str, Any]) -> str | None:
    """Only what changed: "0: jax 0.10.2; 40: jax 0.11.0", each with its first step."""
    makers = result.get("made_by") or []
    if not (isinstance(makers, list) and all(isinstance(maker, dict) for maker in makers)):
        raise disk.damaged(path, "its 'made_by' is not a list of objects")
    names = [name for name in (makers[0] if makers else ()) if len({str(maker.get(name)) for maker in makers}) > 1]
    parts = [" ".join(f"{name} {maker.get(name)}" for name in names if name != "from_step") for maker in makers]
    return "; ".join(f"{maker.get('from_step')}: {part}" for maker, part in zip(makers, parts, strict=True)) or None


def training_seconds(row: Mapping[str, Any]) -> float | None:
    """D / (rate of its program); None where one is not known. The row: a result, or one of a saved table."""
    found = [row.get(name) for name in ("tokens", "tokens_per_second", "runs_in_program")]
    if not all(runs.is_number(value) and value > 0 for value in found):
        return None
    return float(found[0]) / float(found[1] * found[2])


def data_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns `OF_DATA` in which these rows differ; where their tasks do, `task.name` stands for all its fields."""
    if len({row.get("task.name") for row in rows}) > 1:
        return ["task.name", *(name for name in _differing(rows) if not name.startswith("task."))]
    return _differing(rows)


def _differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = sorted({name for row in rows for name in row if name.startswith(OF_DATA)})
    return [name for name in names if len({str(row[name]) for row in rows if row.get(name) is not None}) > 1]


def data_of(run_folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the loss of a finished run depends on beside the model: config keys `OF_DATA`, and the digests.

    Raises:
        UserError: config.json is damaged.
    """
    return _of_data(_saved(run_folder) | result)


def incomparable(rows: Sequence[Mapping[str, Any]], loss: str = "loss") -> tuple[str, ...]:
    """The columns that make the losses of these rows incomparable; pandas is loaded only where the rows differ."""
    data = [_of_data(row) for row in rows]
    if len({tuple(sorted((key, str(value)) for key, value in row.items())) for row in data}) < 2:
        return ()
    import pandas as pd

    from seqjax.laws.comparable import differences

    return tuple(differences(pd.DataFrame(data), loss))


def _of_data(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key.startswith(OF_DATA) or key.endswith("_sha256")}


def by_size(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows by family, size, tokens and loss."""
    numbers = ("params_non_embedding", "tokens", "loss")
    return sorted(rows, key=lambda row: (str(row["model.family"]), *(_number(row[name]) for name in numbers)))


def as_text(rows: Sequence[Mapping[str, Any]], width: float) -> tuple[str, list[str]]:
    """Aligned text of the columns `SHOWN` and `data_columns`; and the headings of those that are left out to fit.

    Columns of `FIRST_OUT` go before columns of the data. Columns without a value are not shown, but for `ALWAYS`.
    """
    is_text = all(row.get("task.name") is None for row in rows)
    loss = "nats/token" if is_text else "loss"
    heading = ("run", "status", "N", "tokens", "FLOP", "rate", "seed", loss, "±", "bits/byte")
    names = dict(zip(SHOWN, heading, strict=True))
    apart = {name: "task" if name == "task.name" else name.rpartition(".")[2] for name in data_columns(rows)}
    known = [name for name in SHOWN[1:] if name in ALWAYS or any(row.get(name) is not None for row in rows)]
    columns = (SHOWN[0], *apart, *known)
    body = [[_cell(name, row.get(name)) for name in columns] for row in rows]
    out = [names[name] for name in FIRST_OUT] + list(apart.values())[::-1]
    return aligned_within([[(names | apart)[name] for name in columns], *body], width, out, left=2 + len(apart))


def _number(value: Any) -> float:
    return float("inf") if value is None else float(value)


def by_column(rows: Sequence[Mapping[str, Any]], column: str) -> list[Mapping[str, Any]]:
    """The rows, rising in a column; those without a value come last."""
    there = [row for row in rows if row[column] is not None]
    return sorted(there, key=lambda row: row[column]) + [row for row in rows if row[column] is None]


def columns_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Aligned text of these columns, in the order of the rows."""
    heading = tuple(column.rpartition(".")[2] for column in columns)
    return aligned([heading, *([_cell(column, row[column]) for column in columns] for row in rows)])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column.startswith(COUNTED) and not isinstance(value, str):
        return si(value).strip()
    if column in LOSSES:
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1e6 else f"{value:g}"
    return str(value)
