"""Reading a table from a CSV or parquet file, without guesses that could change a number or a name.

A CSV file is UTF-8 text with commas and one line of column names. Cells are kept as text until `typed` decides the
type of their column. Ambiguous input is refused with its line.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seqjax.errors import UserError
from seqjax.host.optional import need
from seqjax.host.pointers import refuse_pointer_file

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
SPECIAL = {"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}
MISSING = {"", "na", "n/a", "null", "none", "-"}
"""Spellings of a missing number; in a column of text only the empty cell is missing."""
TRUTH = {"true": True, "false": False}


def read_file(paths: Path | Sequence[Path], what: str = "a table") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables in CSV or parquet files, one below the other.

    Args:
        what: a name of the expected table, for errors.
    Returns:
        The table with typed columns, and the same cells as text. The index of both is the place of each row, such as
        ``line 3``, with the file if there are several.
    Raises:
        UserError: no such file, another kind of file, a pointer of Git LFS, or an unreadable file.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    text, frames = [], []
    for path in paths:
        is_csv = path.suffix.lower() == ".csv"
        part = read_cells(path, what) if is_csv else _read_parquet(path, what)
        if len(paths) > 1:
            part.index = [f"{path} {place}" for place in part.index]
        (text if is_csv else frames).append(part)
    cells = [pd.concat(text)] if text else []
    return pd.concat([*map(typed, cells), *frames]), pd.concat([*cells, *frames]).astype("string")


def read_cells(path: Path, what: str = "a table") -> pd.DataFrame:
    """The cells of a CSV file as text without surrounding spaces; None for an empty cell.

    Raises:
        UserError: no such file, or not CSV (with the line).
    """
    refuse_pointer_file(path)
    text = _decoded(path, what)
    where = f"{path}: cannot be read as {what}"
    lines = re.split(r"\r\n|\r|\n", text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    rows: dict[str, list[str]] = {}
    begin = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(f"{where}: line {begin}: {error}; look for a stray quote") from None
        begin, line = reader.line_num + 1, begin
        fields = [field.strip() for field in fields]
        if not any(fields):
            continue
        if lines[line - 1].lstrip().startswith("#"):
            raise UserError(f"{where}: line {line}: comments (#) are not read; delete it, or quote its first cell")
        if not names:
            names = fields
            _check_separator(f"{where}: line {line}", names)
            continue
        if len(fields) != len(names):
            raise UserError(
                f"{where}: line {line}: has {len(fields)} cells, and the header has {len(names)} columns; numbers and "
                "texts that hold a comma go in quotes"
            )
        rows[f"line {line}"] = fields
    if not names:
        raise UserError(f"{where}: No columns, the file is empty")
    kept = _kept_columns(where, names, list(rows.values()))
    if not rows:
        raise UserError(f"{where}: it has a header and no rows")
    cells = [[fields[place] or None for place in kept] for fields in rows.values()]
    return pd.DataFrame(cells, index=list(rows), columns=[names[place] for place in kept], dtype=object)


def _decoded(path: Path, what: str) -> str:
    if path.suffix.lower() != ".csv":
        raise UserError(f"{path}: not {what}: expected a name that ends in .csv or .parquet")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such table") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as {what}: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise UserError(
            f"{path}: cannot be read as {what}: line {line}: byte 0x{byte:02x} is not UTF-8; save it as CSV in UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{path}: cannot be read as {what}: it holds zero bytes, so it is not text; save it as CSV")
    return text


def _check_separator(where: str, names: Sequence[str]) -> None:
    for separator, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(separator in name for name in names) and (len(names) == 1 or separator == "\t"):
            raise UserError(
                f"{where}: its columns are separated by {called}; save it with commas, and numbers with a point"
            )


def _kept_columns(where: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Indices of the named columns. An unnamed first column holds row names; other unnamed columns must be empty."""
    kept = [place for place, name in enumerate(names) if name]
    for place in set(range(1, len(names))) - set(kept):
        if any(fields[place] for fields in rows):
            raise UserError(f"{where}: column {place + 1} has no name in the header, and cells; name it")
    _refuse_twice(where, [names[place] for place in kept])
    return kept


def _refuse_twice(where: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise UserError(f"{where}: the column '{name}' is there {times} times; rename or drop the others")


def _read_parquet(path: Path, what: str) -> pd.DataFrame:
    if path.suffix.lower() != ".parquet":
        raise UserError(f"{path}: not {what}: expected a name that ends in .csv or .parquet")
    refuse_pointer_file(path)
    need("pyarrow", f"{path}: parquet")
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such table") from None
    except (ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read as {what}: {reason}") from None
    indices = [name for name in table.index.names if name is not None]
    _refuse_twice(str(path), map(str, [*indices, *table.columns]))
    table = table.reset_index(level=indices).reset_index(drop=True) if indices else table.reset_index(drop=True)
    table.columns = [str(name) for name in table.columns]
    if table.empty:
        raise UserError(f"{path}: has no rows")
    table.index = [f"row {row + 1}" for row in range(len(table))]
    return table


def typed(cells: pd.DataFrame, kinds: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Cells as typed columns: of the given kinds (string, Int64, Float64, boolean), else by their contents.

    A column is of numbers or truth values if all of its cells are; otherwise it stays text. A run id is always text.

    Raises:
        UserError: a cell that is not of the given kind.
    """
    kinds = {"run_id": "string", **(kinds or {})}
    columns = {}
    for name in cells.columns:
        values = cells[name].tolist()
        columns[name] = _as_kind(cells, name, kinds[name]) if name in kinds else _by_content(values)
    return pd.DataFrame(columns, index=cells.index)


def _by_content(values: Sequence[str | None]) -> Any:
    held = [value for value in values if value is not None]
    if held and all(value.lower() in TRUTH for value in held):
        truth = [None if value is None else TRUTH[value.lower()] for value in values]
        return pd.array(truth, dtype="bool" if len(held) == len(values) else "boolean")
    numbers = [value for value in held if NUMBER.fullmatch(value)]
    if not numbers or not all(_is_number(value) or _is_missing(value) for value in held):
        return pd.array(values, dtype="str")
    if len(numbers) == len(values) and all(value.lstrip("+-").isdigit() for value in values):
        whole = [int(value) for value in values]
        if all(-(2**63) <= value < 2**63 for value in whole):
            return np.array(whole, np.int64)
    return np.array([float("nan") if _is_missing(value) else float(value) for value in values], np.float64)


def _is_missing(cell: str | None) -> bool:
    return cell is None or cell.lower() in MISSING


def _is_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell)) or cell.lower() in SPECIAL


def number_of(cell: str) -> float:
    """The number in a cell, without surrounding spaces.

    Raises:
        ValueError: not a number; the message may say how to write it.
    """
    text = cell.strip()
    if not _is_number(text):
        raise ValueError(f"{cell!r} is not a number{_hint(text)}")
    return float(text)


def _hint(text: str) -> str:
    if re.fullmatch(r"[+-]?[0-9]{1,3}([,_' ][0-9]{3})+(\.[0-9]*)?", text):
        return "; write it without separators of thousands"
    if re.fullmatch(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?", text):
        return "; write a decimal point"
    if re.fullmatch(r"[0-9.]+ ?[kKMGBT%]", text):
        return "; write it out, such as 1.5e8"
    return ""


def _as_kind(cells: pd.DataFrame, name: str, kind: str) -> Any:
    def convert(cell: str | None) -> Any:
        if cell is None or kind == "string":
            return cell
        if kind == "boolean":
            if cell.lower() not in TRUTH:
                raise ValueError(f"{cell!r} is not true or false")
            return TRUTH[cell.lower()]
        number = float("nan") if _is_missing(cell) else number_of(cell)
        if np.isnan(number):
            return None
        if kind != "Int64":
            return number
        if cell.lstrip("+-").isdigit() and abs(int(cell)) < 2**63:
            return int(cell)
        if number != np.floor(number) or abs(number) > 2**53:
            raise ValueError(f"{cell!r} is not a whole number")
        return int(number)

    found = []
    for place, cell in cells[name].items():
        try:
            found.append(convert(cell))
        except ValueError as error:
            raise UserError(f"the column '{name}' cannot be read as {kind.lower()}: {place}: {error}") from None
    return pd.array(found, dtype=kind)
