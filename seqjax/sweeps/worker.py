"""A process that trains units of a sweep, one after another; :mod:`seqjax.sweeps.launch.worker_command` starts it.

It reads requests from standard input, one JSON object per line, and writes one line per answer to ``--answers``:

    {"train": [run folders], "wandb": mode, "devices": 1}
    {"measure": config, "vocabulary": V, "lanes": R}
    {"positions": run folder, "chains": fields of Chains}

A request may also hold ``"code"``: source texts of the user's own families and tasks, by config key and name.

An answer has an ``outcome``: ``done``, ``stopped``, ``locked`` or ``error``; the last three have a ``reason``.
Output during training goes to ``output.txt`` in the (first) run folder. When standard input ends, the launcher has
ended: the worker saves its runs and exits with 75, so that the sweep can be resumed.
With ``--once`` it ends after one request: 0 done, 75 stopped, 1 failed.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from seqjax.config.plain import whole
from seqjax.errors import UserError
from seqjax.host.memory import keep_freed_memory
from seqjax.host.numerics import pinned
from seqjax.host.out_of_memory import OutOfMemory, is_out_of_memory, reason
from seqjax.host.own_code import class_of
from seqjax.host.stopping import STOPPED, Interrupted
from seqjax.host.streams import forgiving_streams
from seqjax.runs.tree import OWN


@forgiving_streams()
@pinned()
def main() -> int:
    """Serve requests until standard input ends."""
    parser = argparse.ArgumentParser(prog="seqjax.sweeps.worker", description="Train units of a sweep.")
    parser.add_argument("--answers", type=int, help="file descriptor for the answers [standard output]")
    parser.add_argument("--cores", help="processor cores to run on, such as 0,1 [any]")
    parser.add_argument("--threads", type=whole(), help="size of XLA's thread pool [number of cores]")
    parser.add_argument("--once", action="store_true", help="end after one request")
    options = parser.parse_args()
    keep_freed_memory()
    if options.cores:
        cores = {int(core) for core in options.cores.split(",")}
        os.sched_setaffinity(0, cores)
        options.threads = len(cores)
    if options.threads:
        os.environ["NPROC"] = str(options.threads)  # the size of XLA's thread pool
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # for the time between requests: nothing to save
    # duplicated, so that no child process inherits it and keeps it open
    answers = os.fdopen(os.dup(1 if options.answers is None else options.answers), "w", encoding="utf-8")
    if options.answers is not None:
        os.close(options.answers)
    requests: queue.Queue[str | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(requests, busy), daemon=True).start()
    while (line := requests.get()) is not None:
        busy.set()
        answer = _serve(json.loads(line))
        busy.clear()
        _tell(answers, answer)
        if answer["outcome"] == "stopped":
            return STOPPED
        if options.once:
            return 0 if answer["outcome"] == "done" else 1
    return 0


def _listen(requests: queue.Queue[str | None], busy: threading.Event) -> None:
    with os.fdopen(os.dup(0), encoding="utf-8") as lines:
        for line in lines:
            requests.put(line)
    requests.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(answers: IO[str], answer: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    except BrokenPipeError:  # the launcher has ended; the run folders have the results
        pass


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    try:
        for key, texts in request.get("code", {}).items():
            for name, text in texts.items():
                OWN[key].adopt(name, text, Path(f"{class_of(name)}.py"))
        if "train" in request:
            return _train(request)
        return _measure(request) if "measure" in request else _positions(request)
    except OutOfMemory as error:  # perhaps others beside it took the memory: it is tried again
        return {"outcome": "error", "reason": str(error)}
    except UserError as error:  # such as an unknown JAX_PLATFORMS: another try would fail again
        traceback.print_exc()  # into output.txt
        sys.stderr.flush()
        return {"outcome": "error", "reason": str(error), "user": True}
    except Exception as error:
        if is_out_of_memory(error):
            return {"outcome": "error", "reason": reason(error)}
        traceback.print_exc()
        sys.stderr.flush()
        text = (str(error).splitlines() or [""])[0][:300]
        return {"outcome": "error", "reason": f"{type(error).__name__}: {text}"}


def _train(request: dict[str, Any]) -> dict[str, Any]:
    folders = [Path(folder) for folder in request["train"]]
    with open(folders[0] / "output.txt", "a", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    import jax

    from seqjax import runs
    from seqjax.sweeps.folder import read_plan
    from seqjax.training.loop import train_bundle

    _share_compilations()
    lanes = [(runs.read_config(folder), folder) for folder in folders]
    names = [read_plan(folder).get("label", folder.name) for folder in folders]
    try:
        train_bundle(lanes, names=names, devices=request.get("devices", 1), wandb_mode=request.get("wandb"), quiet=True)
    except runs.Locked as error:
        return {"outcome": "locked", "reason": str(error)}
    except Interrupted as stop:
        return {"outcome": "stopped", "reason": str(stop)}
    finally:
        jax.clear_caches()  # the next unit has other shapes
    return {"outcome": "done"}


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    from seqjax.sweeps.speed import measure

    _share_compilations()
    return {"outcome": "done", **measure(request["measure"], request["vocabulary"], request["lanes"])}


def _positions(request: dict[str, Any]) -> dict[str, Any]:
    import jax

    from seqjax.trained.by_position import measure_positions
    from seqjax.trained.chains import Chains

    _share_compilations()
    try:
        measure_positions(Path(request["positions"]), Chains.of_fields(request["chains"]))
    finally:
        jax.clear_caches()  # the next run has other shapes
    return {"outcome": "done"}


def _share_compilations() -> None:
    from seqjax.layers import native
    from seqjax.sweeps.program_cache import share_compilations

    share_compilations(native.version())


if __name__ == "__main__":
    sys.exit(main())
