"""The run table: one row per run, from run folders, with stable columns.

Every folder with a config is a row. Runs that have not ended, diverged, were given up or have a damaged file have their
status and no loss. `COLUMNS` describes the first columns. After them comes every field of the config under its dotted
key (``model.d_model``, ``optimizer.learning_rate``, ...), empty if a family has no such field. Fields of other tasks
and of the user's own families come last.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from seqjax import runs
from seqjax.config import Config, dotted, run_id, to_dict
from seqjax.config.fields import leaves
from seqjax.errors import UserError, did_you_mean, printable
from seqjax.families import kind_of, own
from seqjax.host import disk
from seqjax.host.optional import need
from seqjax.host.own_code import is_own
from seqjax.host.wording import si
from seqjax.laws.table_file import read_cells, read_file, typed
from seqjax.runs.tree import OWN
from seqjax.sweeps import folder as folders
from seqjax.sweeps.lines import aligned_within

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

FIRST_OUT = ("flops_exact", "bits_per_byte", "loss_se", "train.seed")
"""Columns of `SHOWN` that are left out where they do not fit, the first one first."""

OF_TASKS = ("task.", "train.", "data.", "encoder.", "data_sha256")  # prefixes of columns of other tasks than text
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


def all_columns() -> dict[str, str]:
    """`COLUMNS`, then the dotted keys of the config, each with its pandas type, which does not depend on the values."""
    types = {name: "string" if name in TEXTS else "Int64" if name in COUNTS else "Float64" for name in COLUMNS}
    of_json = {"integer": "Int64", "number": "Float64", "boolean": "boolean", "string": "string", "array": "string"}
    for key, schema in leaves():
        if not key.startswith(("horizon.", "size.")):
            types[key] = of_json[schema["type"] if "type" in schema else schema["anyOf"][0]["type"]]
    return types


def row_of(run_folder: Path) -> dict[str, Any]:
    """The row of one run; if a file is damaged, the values known without it."""
    try:
        row = _of_result(run_folder, runs.read_config(run_folder))
        _check_types(run_folder / "result.json", row)
        return row
    except UserError as error:
        return _of_damaged(run_folder, str(error))


def _of_damaged(run_folder: Path, reason: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(all_columns())
    row |= {"sweep": printable(run_folder.resolve().parent.name), "status": "damaged", "reason": reason}
    try:
        config = runs.read_config(run_folder)
    except UserError:
        return row | {"run_id": printable(run_folder.name)}
    kind = kind_of(config.model.family, vars(config.model))
    return row | {"run_id": run_id(config), "kind": kind} | _of_config(config)


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


def _of_result(run_folder: Path, config: Config) -> dict[str, Any]:
    state = folders.state(run_folder)
    result = runs.read_result(run_folder) or {}
    path = run_folder / "result.json"
    found = {name: _from_result(path, result, PLACES.get(name, name)) for name in COLUMNS}
    found |= {
        "run_id": run_id(config),
        "sweep": printable(run_folder.resolve().parent.name),
        "label": printable(state.label),
        "status": state.name,
        "steps": result.get("steps", state.step),
        "training_seconds": _training_seconds(result),
        "halved_from": _halved_from(run_folder, result),
        "failures": state.failures,
        "reason": state.reason or None,
        "made_by": _made_by(path, result),
        "kind": kind_of(config.model.family, vars(config.model)),
        "trunk": folders.read_plan(run_folder).get("trunk"),
        **({"data_sha256": result["data_sha256"]} if "data_sha256" in result else {}),
    }
    return found | _of_config(config) | _look(config, result)


def _training_seconds(row: Mapping[str, Any]) -> float | None:
    """D / (rate of its program); None where one is not known. The row: a result, or one of a saved table."""
    found = [row.get(name) for name in ("tokens", "tokens_per_second", "runs_in_program")]
    if not all(runs.is_number(value) and value > 0 for value in found):
        return None
    return float(found[0]) / float(found[1] * found[2])


def _look(config: Config, result: Mapping[str, Any]) -> dict[str, str]:
    """The label and the colour that a family of the user's own has given itself, for figures without its code."""
    name, look = config.model.family, result.get("look")
    if is_own(name) and isinstance(look, dict):
        own.note_look(name, look)
    return {f"model.{key}": value for key, value in own.look_of(name).items()}


def _of_config(config: Config) -> dict[str, Any]:
    return {
        key: json.dumps(value) if isinstance(value, list | tuple) else value for key, value in dotted(to_dict(config))
    }


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


def gather(places: Iterable[Path]) -> pd.DataFrame:
    """One table of all runs in sweep folders, run folders and saved tables; one row per run.

    Of two rows of a run the one that has ended is kept; else a folder, which is current, rather than a saved table.

    Raises:
        UserError: a place without runs, a saved table with unknown columns, a run with two different outcomes.
    """
    in_order = sorted(dict.fromkeys(places), key=Path.is_dir)
    parts = [read_table(place) if place.is_file() else _of_folder(place) for place in in_order]
    table = pd.concat(parts, ignore_index=True)
    origin = [
        f"{place}{f' row {row + 1}' if place.is_file() else ''}"
        for place, part in zip(in_order, parts, strict=True)
        for row in range(len(part))
    ]
    dropped: list[int] = []
    for (_, name), rows in table.groupby(["sweep", "run_id"], dropna=False, sort=False):
        if len(rows) > 1:
            ended = rows[rows["status"].isin(runs.ENDED)]
            folders.refuse_two_outcomes(name, {
                origin[i]: (status, None if pd.isna(loss) else float(loss))
                for i, status, loss in zip(ended.index, ended["status"], ended["loss"], strict=True)
            })  # fmt: skip
            kept = (ended if len(ended) else rows).index[-1]
            dropped += [i for i in rows.index if i != kept]
    return table.drop(index=dropped).reset_index(drop=True)


def _of_folder(place: Path) -> pd.DataFrame:
    rows = [row_of(run_folder) for run_folder in folders.run_folders(place)]
    columns = all_columns()
    others = dict.fromkeys(name for row in rows for name in row if name not in columns)  # of tasks, own families
    table = pd.DataFrame(rows, columns=[*columns, *others])
    return table.astype(columns | table[list(others)].convert_dtypes().dtypes.to_dict())


def read_table(path: Path) -> pd.DataFrame:
    """A run table that was saved as CSV or parquet.

    Raises:
        UserError: another kind of file, an unreadable file, or an unknown column.
    """
    known = all_columns()
    is_csv = path.suffix.lower() == ".csv"
    table = read_cells(path, "a run table") if is_csv else read_file(path, "a run table")[0]
    others = [name for name in table.columns if name not in known and str(name).startswith(_other_columns(table))]
    for column in table.columns:
        if column not in known and column not in others:
            raise UserError(
                f"{path}: the column '{column}' is not one of a run table{did_you_mean(str(column), known)}; drop it, "
                "or rename it to one that `seqjax runs --columns` lists"
            )
    for column in ("run_id", "status"):
        if column not in table.columns:
            raise UserError(f"{path}: has no column '{column}', so it is not a run table")
    if is_csv:
        try:
            table = typed(table, known)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    table = table.reset_index(drop=True).reindex(columns=[*known, *others])
    for column, kind in known.items():
        try:
            table[column] = table[column].astype(kind)
        except (ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path}: the column '{column}' cannot be read as {kind.lower()}: {reason}") from None
    _note_looks(table)
    table["kind"] = table["kind"].fillna(_kinds(table))
    derived = pd.Series([_training_seconds(row) for _, row in table.iterrows()], table.index, dtype="Float64")
    table["training_seconds"] = table["training_seconds"].fillna(derived)
    return table


def _kinds(table: pd.DataFrame) -> pd.Series:
    """The column `kind`, for tables that were saved before it."""
    fields = [name for name in table.columns if name.startswith("model.")]
    values = [{key.partition(".")[2]: row[key] for key in fields if pd.notna(row[key])} for _, row in table.iterrows()]
    kinds = [kind_of(value["family"], value) if "family" in value else None for value in values]
    return pd.Series(kinds, index=table.index, dtype="string")


def _note_looks(table: pd.DataFrame) -> None:
    columns = [name for name in map("model.{}".format, own.LOOK) if name in table.columns]
    for row in table[["model.family", *columns]].drop_duplicates().to_dict("records") if columns else ():
        if is_own(row["model.family"]):
            own.note_look(row["model.family"], {name.partition(".")[2]: row[name] for name in columns})


def _other_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """What the columns of other tasks than text, and of families and tasks of the user's own, begin with."""
    has_own = {key: key in table.columns and any(map(is_own, table[key])) for key in OWN}
    sections = {f"{name.partition('.')[0]}." for name in map(str, table.columns) if "." in name}
    found = ("model.",) if has_own["model.family"] else ()
    found += OF_TASKS if "task.name" in table.columns else ()
    return (*found, *sections) if has_own["task.name"] else found


def render(table: pd.DataFrame, form: str) -> bytes:
    """The table as ``csv`` or ``parquet``.

    Raises:
        UserError: parquet without pyarrow.
    """
    if form == "csv":
        return table.to_csv(index=False).encode()
    buffer = io.BytesIO()
    need("pyarrow", "--format parquet")
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def by_size(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows by family, size, tokens and loss."""
    numbers = ("params_non_embedding", "tokens", "loss")
    return sorted(rows, key=lambda row: (str(row["model.family"]), *(_number(row[name]) for name in numbers)))


def as_text(rows: Sequence[Mapping[str, Any]], width: float) -> tuple[str, list[str]]:
    """Aligned text of the columns `SHOWN`; and the headings of those of `FIRST_OUT` that are left out to fit."""
    is_text = all(pd.isna(row.get("task.name")) for row in rows)
    loss = "nats/token" if is_text else "loss"
    heading = ("run", "status", "N", "tokens", "FLOP", "rate", "seed", loss, "±", "bits/byte")
    names = dict(zip(SHOWN, heading, strict=True))
    body = [[_cell(name, row[name]) for name in SHOWN] for row in rows]
    return aligned_within([heading, *body], width, [names[name] for name in FIRST_OUT], left=2)


def _number(value: Any) -> float:
    return float("inf") if pd.isna(value) else float(value)


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return "-"
    if name in ("params_non_embedding", "tokens", "flops_exact"):
        return si(value).strip()
    if name in ("loss", "loss_se", "bits_per_byte"):
        return f"{value:.4f}"
    return f"{value:g}" if isinstance(value, float) else str(value)
