"""Tables in files: every number and name is read as it is written, or the line is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.laws.files import read_fits
from seqjax.laws.points import read_points
from seqjax.laws.table_file import number_of, read_file, typed

HEAD = b"params,tokens,loss\n"
ROW = b"1e6,2e9,3.1\n"
REFUSED = {
    "comma at the ends of rows": (HEAD + b"1e6,2e9,3.1,\n2e6,2e9,3.0,\n", "line 2: has 4 cells, and the header has 3"),
    "thousands": (HEAD + ROW + b"124,439,808,2e9,3.1\n", "line 3: has 5 cells, and the header has 3"),
    "a short row": (HEAD + ROW + b"1e6,2e9\n", "line 3: has 2 cells"),
    "a long row alone": (HEAD + ROW + b"1e6,2e9,3.1,x\n", "line 3: has 4 cells"),
    "a column twice": (b"params,loss,loss\n1e6,3,4\n", "the column 'loss' is there 2 times"),
    "twice but for spaces": (b"params,loss, loss\n1e6,3,4\n", "the column 'loss' is there 2 times"),
    "no name": (b"params,,loss\n1e6,3,4\n", "column 2 has no name in the header"),
    "semicolons": (b"params;loss\n1,5;3,1\n", "line 1: its columns are separated by semicolons"),
    "tabs": (b"params\tloss\n1\t3\n", "line 1: its columns are separated by tabs"),
    "a comment above": (b"# made by hand\n" + HEAD + ROW, "line 1: comments (#) are not read"),
    "a row commented out": (b"family,params,loss\n#lstm,1e6,3.1\n", "line 2: comments (#) are not read"),
    "Latin-1": (b"params,loss\n1,caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    "UTF-16": ("params,loss\n1,2\n".encode("utf-16"), "is not UTF-8"),
    "UTF-16 without a mark": ("params,loss\n1,2\n".encode("utf-16-le"), "zero bytes"),
    "a spreadsheet": (b"PK\x03\x04\x00\x00", "zero bytes"),
    "empty": (b"", "the file is empty"),
    "blank lines": (b"\n\n", "the file is empty"),
    "a header alone": (HEAD, "has a header and no rows"),
    "an open quote": (HEAD + ROW + b'"1e6,2e9,3.1\n', "line 3"),
    "text after a quote": (HEAD + b'"1e6"x,2e9,3.1\n', "line 2"),
}


def put(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "t.csv").write_bytes(content)
    return tmp_path / "t.csv"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_without_doubt_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    path = put(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert str(caught.value).startswith(str(path)) and words in str(caught.value) and "\n" not in str(caught.value)


PLAIN = pd.DataFrame({"params": [1e6, 2e6], "loss": [3.1, 2.9], "family": ["a", "b"]})
ALIKE = {
    "plain": b"params,loss,family\n1e6,3.1,a\n2e6,2.9,b\n",
    "a mark of byte order": b"\xef\xbb\xbfparams,loss,family\n1e6,3.1,a\n2e6,2.9,b\n",
    "CRLF": b"params,loss,family\r\n1e6,3.1,a\r\n2e6,2.9,b\r\n",
    "CR": b"params,loss,family\r1e6,3.1,a\r2e6,2.9,b\r",
    "spaces": b" params , loss, family \n 1e6 , 3.1 , a\n2e6,2.9,b\n",
    "quotes": b'"params","loss","family"\n"1e6","3.1","a"\n"2e6","2.9","b"\n',
    "blank lines": b"\nparams,loss,family\n\n1e6,3.1,a\n2e6,2.9,b\n\n,,\n",
    "row names": b",params,loss,family\n0,1e6,3.1,a\n1,2e6,2.9,b\n",
    "commas at all ends": b"params,loss,family,\n1e6,3.1,a,\n2e6,2.9,b,\n",
    "no last line end": b"params,loss,family\n1e6,3.1,a\n2e6,2.9,b",
    "other ways to write numbers": b"params,loss,family\n1000000.0,+3.1,a\n2E+6,29e-1,b\n",
}


@pytest.mark.parametrize("name", ALIKE)
def test_one_table_written_in_many_ways_is_one_table(name: str, tmp_path: Path) -> None:
    found, _ = read_file(put(tmp_path, ALIKE[name]))
    pd.testing.assert_frame_equal(found.reset_index(drop=True), PLAIN, check_exact=True)


COLUMNS = {
    "whole": (["1", "-2", "9223372036854775807"], [1, -2, 2**63 - 1]),
    "larger than int64": (["1", "92233720368547758070"], [1.0, 92233720368547758070.0]),
    "with an empty cell": (["1.5", ""], [1.5, np.nan]),
    "with markers": (["1.5", "NA", "None", "nan", "-"], [1.5, np.nan, np.nan, np.nan, np.nan]),
    "labels that pandas drops": (["NA", "None", "nan", "null", "x"], ["NA", "None", "nan", "null", "x"]),
    "labels alone": (["nan", "None"], ["nan", "None"]),
    "truth": (["True", "false"], [True, False]),
    "underscore": (["1_000", "2"], ["1_000", "2"]),
    "quoted thousands": (["124,439,808", "2"], ["124,439,808", "2"]),
    "hexadecimal": (["0x10", "2"], ["0x10", "2"]),
    "other digits": (["١٢", "2"], ["١٢", "2"]),
    "a quoted line end": (["a\nb", "c"], ["a\nb", "c"]),
    "infinite": (["inf", "1"], [np.inf, 1.0]),
    "the nearest double": (["0.1", "2.675e-308", "1.7976931348623157e308"], [0.1, 2.675e-308, 1.7976931348623157e308]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_type_of_a_column_is_what_all_of_its_cells_say(name: str, tmp_path: Path) -> None:
    cells, expected = COLUMNS[name]
    content = "x,y\n" + "".join(f'"{cell}",1\n' for cell in cells)
    found, written = read_file(put(tmp_path, content.encode()))
    assert all(a == b or (a != a and b != b) for a, b in zip(found["x"].tolist(), expected, strict=True))
    assert written["x"].fillna("").tolist() == cells


@pytest.mark.parametrize(
    ("cell", "words"),
    [("124,439,808", "without separators of thousands"), ("3,1", "a decimal point"), ("1_000", "thousands"),
     ("125M", "write it out"), ("3.1 nats", "is not a number"), ("0x10", "is not a number"), ("1d8", "not a number")],
)  # fmt: skip
def test_a_number_is_told_how_to_be_written(cell: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        number_of(cell)


def test_ids_that_look_like_numbers_stay(tmp_path: Path) -> None:
    found, _ = read_file(put(tmp_path, b"run_id,loss\n0123,1\n1e5,2\n"))
    assert found["run_id"].tolist() == ["0123", "1e5"]
    cells = pd.DataFrame({"run_id": ["007"], "device": ["NA"]}, dtype=object)
    assert typed(cells, {"device": "string"}).iloc[0].tolist() == ["007", "NA"]


def test_an_index_of_parquet_is_a_column(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"size": [1e6, 2e6], "loss": [3.0, 2.0]})
    table.set_index("size").to_parquet(tmp_path / "t.parquet")
    assert read_file(tmp_path / "t.parquet")[0]["size"].tolist() == [1e6, 2e6]
    table.iloc[::-1].to_parquet(tmp_path / "t.parquet")
    assert read_file(tmp_path / "t.parquet")[0].index.tolist() == ["row 1", "row 2"]


def call(*words: object) -> int:
    return main([str(word) for word in words])


def law(labels: list[str], name: str = "version") -> bytes:
    """Ten sizes for each label, on one law for each."""
    rows = [f"{name},params,loss"]
    for group, label in enumerate(labels):
        rows += [f"{label},{n:.6g},{(1e13 * (group + 1) / n) ** 0.08:.17g}" for n in np.geomspace(1e4, 1e8, 10)]
    return "\n".join(rows).encode()


@pytest.mark.parametrize(
    "labels",
    [["1.10", "1.1"], ["007", "7"], ["1e3", "1000"], ["True", "true"], ["NA", "None"], ["nan", "null"], ["0x1", "1"]],
    ids=str,
)
def test_groups_are_named_as_they_are_written(labels: list[str], tmp_path: Path) -> None:
    path, out = put(tmp_path, law(labels)), tmp_path / "f.json"
    assert call("fit", path, "--law", "kaplan-n", "--by", "version", "--bootstrap", 0, "--json", out) == 0
    assert set(read_fits(out)) == set(labels)
    found, written = read_file(path)
    points = read_points(found, needs=["params"], cluster=written["version"], where="params > 2e4")
    assert len(set(points.cluster)) == 2 and len(points) == 18


def test_of_several_tables_the_file_and_line_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    a.write_text("params,loss\n1e6,3\n2e6,2.9\n")
    b.write_text("params,loss\n\n4e6,2.8\n8e6,oops\n")
    assert call("fit", a, b, "--law", "kaplan-n") == 2
    assert f"column 'loss', {b} line 4: 'oops' is not a number" in capsys.readouterr().err
    b.write_text("params,loss\n4e6,2.8\n4e6,2.8\n")
    assert call("fit", a, b, "--law", "kaplan-n") == 2
    assert f"{b} line 3 is {b} line 2 once more" in capsys.readouterr().err
    assert call("fit", a, "--law", "kaplan-n", "--where", "loss > 9") == 2
    assert call("fit", a, a, "--law", "kaplan-n") == 2
    assert "once more" in capsys.readouterr().err
