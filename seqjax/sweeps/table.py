"""The run table: one row per run, from run folders, with stable columns.

Every run folder is a row. Runs that have not ended, diverged, were given up or have a damaged file have their
status and no loss. `COLUMNS` describes the first columns. After them comes every field of the config under its dotted
key (``model.d_model``, ``optimizer.learning_rate``, ...), empty if a family has no such field. Fields of other tasks
and of the user's own families come last.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from seqjax import runs
from seqjax.config import Config, dotted, run_id, to_dict
from seqjax.config.fields import leaves
from seqjax.errors import UserError, did_you_mean, printable
from seqjax.families import kind_of, own
from seqjax.host.optional import need
from seqjax.host.own_code import is_own
from seqjax.laws.table_file import read_cells, read_file, typed
from seqjax.runs.tree import OWN
from seqjax.sweeps import folder as folders
from seqjax.sweeps.columns import COLUMNS, COUNTS, TEXTS, of_files, training_seconds

OF_TASKS = ("task.", "train.", "data.", "encoder.", "data_sha256")  # prefixes of columns of other tasks than text


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
        return _of_result(run_folder, runs.read_config(run_folder))
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


def _of_result(run_folder: Path, config: Config) -> dict[str, Any]:
    result = runs.read_result(run_folder) or {}
    found = of_files(run_folder) | {
        "run_id": run_id(config),
        "kind": kind_of(config.model.family, vars(config.model)),
        **({"data_sha256": result["data_sha256"]} if "data_sha256" in result else {}),
    }
    return found | _of_config(config) | _look(config, result)


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
    derived = pd.Series([training_seconds(row) for _, row in table.iterrows()], table.index, dtype="Float64")
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
