"""seqjax on an accelerator beside torch (cuDNN) and Flax: one command for the day a GPU is there.

    python experiments/benchmarks/accelerator.py --seconds 480   # starts no row after 8 minutes
    python experiments/benchmarks/accelerator.py --tiny          # every kind of row on a CPU, a minute
    python experiments/benchmarks/accelerator.py --report        # write the table of what is there again

Rows come in the order of accelerator_rows.py, the most important first. Each is written to DIR/rows.jsonl as soon as it
is measured, and a row that is there is not measured again: start the same command once more to go on. A system that
fails leaves its error in one line, and the others go on. A row in which the process ended is tried once more, last.
DIR/accelerator.md and DIR/accelerator.json have the table, with card, driver, versions and date.

Nothing but jax, flax, optax, orbax, pydantic, PyYAML, numpy and, for its columns, torch needs to be installed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TRIES = 2  # of a row in which the process ends


def prepare() -> None:
    """What has to be so before jax is imported."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the card
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.7")
    sys.path += [str(folder) for folder in (HERE, ROOT) if str(folder) not in sys.path]  # seqjax need not be installed
    try:
        importlib.import_module("tiktoken")
    except ImportError:  # seqjax.data imports it, but no text is read here
        sys.modules["tiktoken"] = types.ModuleType("tiktoken")


def main() -> int:
    """Measure what is not in the file yet; write and print the table."""
    parser = argparse.ArgumentParser(description="The train step on an accelerator beside torch's and Flax's.")
    parser.add_argument("--seconds", type=float, default=480, help="start no row after so many seconds [480]")
    parser.add_argument("--tiny", action="store_true", help="one small row of every kind")
    parser.add_argument("--out", type=Path, metavar="DIR", help="[report/accelerator, or report/accelerator-tiny]")
    parser.add_argument("--rows", nargs="+", help="only rows whose name has one of these words")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    options = parser.parse_args()
    began = time.perf_counter()
    prepare()
    from seqjax.host.disk import storage_errors

    folder = options.out or ROOT / "report" / ("accelerator-tiny" if options.tiny else "accelerator")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not options.report:
            measure_all(options, folder, began)
        print(write_table(folder, results(read(folder / "rows.jsonl"))))
    return 0


def measure_all(options: argparse.Namespace, folder: Path, began: float) -> None:
    """Every row that is wanted and not there, while there is time.

    Raises:
      UserError: no row has one of the words.
    """
    from accelerator_rows import rows

    from seqjax.errors import UserError

    file = folder / "rows.jsonl"
    there = read(file)
    done, tried = {line["row"] for line in results(there)}, Counter(line["row"] for line in there if "began" in line)
    wanted = [row for row in rows(options.tiny) if not options.rows or any(word in row.name for word in options.rows)]
    if not wanted:
        names = "; ".join(row.name for row in rows(options.tiny))
        raise UserError(f"--rows {' '.join(options.rows)}: no row has such a word in its name; they are: {names}")
    left = sorted((row for row in wanted if row.name not in done), key=lambda row: tried[row.name])
    where = about()
    for index, row in enumerate(left):
        if (seconds := time.perf_counter() - began) > options.seconds:
            print(f"{seconds:5.0f} s: the time is over, {len(left) - index} rows are left", file=sys.stderr)
            return
        if tried[row.name] >= TRIES:
            append(file, {"row": row.name, "goals": row.goals, "error": "the process ended in it, twice", **where})
            continue
        append(file, {"row": row.name, "began": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())})
        line = {"row": row.name, "goals": row.goals, **measured(row), **where}
        append(file, line)
        print(f"{time.perf_counter() - began:5.0f} s: {in_short(line)}", file=sys.stderr, flush=True)
        write_table(folder, results(read(file)))


def measured(row: Any) -> dict[str, Any]:
    """The systems of a row, or why there are none; its memory is given back."""
    import jax
    from accelerator_rows import in_a_line

    began = time.perf_counter()
    try:
        found: dict[str, Any] = {"systems": row.measure()}
    except Exception as error:  # the next row goes on
        found = {"error": in_a_line(error)}
    jax.clear_caches()
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
    return found | {"seconds": round(time.perf_counter() - began, 1)}


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of the file; the last may be torn."""
    found = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def results(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that have ended."""
    return [line for line in lines if "systems" in line or "error" in line]


def append(file: Path, line: dict[str, Any]) -> None:
    """One line more, on the disk when this returns; a torn line before it is ended first."""
    torn = file.is_file() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a") as out:
        out.write(("\n" if torn else "") + json.dumps(line) + "\n")
        out.flush()
        os.fsync(out.fileno())


def about() -> dict[str, Any]:
    """Card, driver, versions, date."""
    import jax

    from seqjax.training.hardware import describe_versions

    device = jax.devices()[0]
    versions = {name: version for name, version in describe_versions().items() if version != "not installed"}
    found = {"card": device.device_kind, "driver": _driver(), "platform": str(device.client.platform_version).strip()}
    try:
        import torch

        versions |= {"torch": torch.__version__, "cudnn of torch": str(torch.backends.cudnn.version())}
    except ImportError:
        pass
    return found | {"versions": versions, "date": time.strftime("%Y-%m-%d", time.gmtime())}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip().split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def in_short(line: dict[str, Any]) -> str:
    """A row in one line."""
    if "error" in line:
        return f"{line['row']}: {line['error']}"
    return f"{line['row']}: " + "; ".join(f"{name} {_number(of)}" for name, of in line["systems"].items())


def _number(system: dict[str, Any]) -> str:
    if "error" in system:
        return system["error"]
    if "step_ms" in system:
        return f"{system['step_ms']:.3g} ms"
    return f"logits {system['logits_error']:.1e}, gradients {system['gradient_error']:.1e}"


def write_table(folder: Path, lines: list[dict[str, Any]]) -> str:
    """Write accelerator.md and accelerator.json; the Markdown."""
    text = as_text(lines)
    (folder / "accelerator.md").write_text(text + "\n")
    (folder / "accelerator.json").write_text(json.dumps({"rows": lines}, indent=1) + "\n")
    return text


def as_text(lines: list[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    import accelerator_table as tables

    parts = (tables.surroundings(lines), tables.goals(lines), tables.errors(lines), tables.speeds(lines))
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    prepare()
    from seqjax.host.guard import guarded

    sys.exit(guarded(main))
