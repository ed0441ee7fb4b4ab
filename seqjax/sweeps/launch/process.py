"""One worker process of a launcher: what it is asked, what it answers, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from seqjax.errors import UserError, printable
from seqjax.runs.tree import OWN
from seqjax.sweeps.launch.worker_command import worker_command

SAVE_SECONDS = 120  # time for a worker to save its state when it is stopped
SHARE_OF_CARD = 0.9  # of its memory, for all workers on it; each has some memory outside of XLA's


def code_for_workers() -> dict[str, dict[str, dict[str, str]]]:
    """The part of a request with the user's own families and tasks."""
    found = {key: texts for key, shelf in OWN.items() if (texts := shelf.texts())}
    return {"code": found} if found else {}


class Worker:
    """One worker process on its cores or its accelerator.

    Args:
        cores: the cores it is pinned to; empty: any.
        gpu: the only accelerator it sees; None: as the environment says.
        sharing: number of workers on that accelerator; each takes its part of the memory.
        log: file for its output outside of runs, written at its end; None: no file.

    Raises:
        UserError: the process cannot be started.
    """

    def __init__(self, cores: tuple[int, ...], gpu: str | None, log: Path | None, sharing: int = 1) -> None:
        self.cores, self.gpu, self.log = cores, gpu, log
        # Python may print at its start (a sitecustomize, a module of the cluster), so answers have their own pipe.
        # Each worker has its own output file, so that its last words explain its death.
        self.output = tempfile.TemporaryFile(dir=log and log.parent)
        ours, its = os.pipe()
        self.answers = os.fdopen(ours, "rb")
        command = worker_command("--answers", str(its))
        if cores and hasattr(os, "sched_setaffinity"):
            command += ["--cores", ",".join(map(str, cores))]
        environment = dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        if sharing > 1:
            environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{SHARE_OF_CARD / sharing:.3f}")
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self.output,
                stderr=self.output,
                pass_fds=(its,),
                start_new_session=True,  # Ctrl-C reaches only the launcher, which stops the workers
                env=environment,
            )
        except OSError as error:
            raise UserError(f"a worker cannot be started: {sys.executable}: {error.strerror}") from None
        finally:
            os.close(its)

    def send(self, request: dict[str, Any]) -> None:
        """Send a request. If the worker has died, its answer says so."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request | code_for_workers()).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for its answer; if it has died, how it died."""
        with contextlib.suppress(ValueError):  # no answer or an incomplete one: it has died
            return json.loads(self.answers.readline())
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = "" if code == -signal.SIGKILL else self.last_words()  # its output does not explain a SIGKILL
        return {"outcome": "died", "reason": f"the worker {how}" + (f"; it last said: {said}" if said else "")}

    def last_words(self) -> str:
        """The last line of its output outside of runs, shortened; empty if there is none."""
        size = self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, size - 4096))
        lines = self.output.read().decode("utf-8", "backslashreplace").split("\n")
        return next((printable(line.strip())[:300] for line in reversed(lines) if line.strip()), "")

    def stop(self) -> None:
        """Ask it to save and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def close(self, seconds: float = SAVE_SECONDS) -> None:
        """Wait for its end; kill it after ``seconds``."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()
        with self.output, contextlib.suppress(OSError), open(self.log or os.devnull, "ab") as log:
            self.output.seek(0)
            shutil.copyfileobj(self.output, log)
