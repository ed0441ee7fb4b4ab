"""The program of one Slurm job; :mod:`seqjax.sweeps.launch.slurm` says what its command must do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from seqjax.host.stopping import STOPPED
from seqjax.host.streams import tell
from seqjax.sweeps.launch.slurm_client import is_to_run_on

WARN = signal.SIGUSR2


class Task:
    """Run the command as a child. On a warning the child saves its state and the job is requeued.

    Signal handlers interrupt ``__call__``, so neither may reap the child before the other is done with it.
    """

    def __init__(self, command: Sequence[str], line: str, signal_seconds: float, retries: int) -> None:
        if "\n" in line:
            raise ValueError("the input of a command is one line")
        self.command, self.line = list(command), line
        self.signal_seconds, self.retries = signal_seconds, retries
        self._pid: int | None = None
        self._terminated = False

    def __call__(self) -> int:
        """Run the command to its end. A failure ends the job with the command's exit code, for Slurm."""
        signal.signal(signal.SIGTERM, self._terminate)
        code, attempt = STOPPED, 0
        while not self._terminated and attempt <= self.retries:
            code, attempt = self._run(), attempt + 1
            tell(f"attempt {attempt} of {1 + self.retries}: exit code {code}\n", sys.stdout)
            if code in (0, STOPPED):
                break
        if code and self._terminated and is_to_run_on():
            signal.raise_signal(WARN)  # SIGTERM was only a warning, and Slurm will not requeue: do it here
        if code:
            sys.exit(code if code > 0 else 128 - code)
        return code

    def checkpoint(self) -> Any:
        """Called by submitit on a warning: returns the task for the requeued job."""
        from submitit.helpers import DelayedSubmission

        if self._pid is not None:
            os.kill(self._pid, signal.SIGTERM)
            deadline = time.monotonic() + 0.8 * self.signal_seconds
            while (end := _end_of(self._pid)) is None and time.monotonic() < deadline:
                time.sleep(0.05)
            _kill_group(self._pid)
            if end is not None and (end.si_code, end.si_status) == (os.CLD_EXITED, 0):
                sys.exit(0)  # the command has ended
        if is_to_run_on() is False:
            sys.exit(STOPPED)  # Slurm requeues the job itself, or it was cancelled
        return DelayedSubmission(Task(self.command, self.line, self.signal_seconds, self.retries))

    def _run(self) -> int:
        # Blocked, so that the child never gets it, and that no warning comes before the child's pid is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, {WARN})
        try:
            child = subprocess.Popen(self.command, stdin=subprocess.PIPE, start_new_session=True)
            self._pid = child.pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {WARN})
        if self._terminated:
            os.kill(child.pid, signal.SIGTERM)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(self.line.encode() + b"\n")
            child.stdin.flush()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        _kill_group(child.pid)
        self._pid = None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        return child.wait()

    def _terminate(self, _number: int, _frame: Any) -> None:
        self._terminated = True
        if self._pid is not None:
            os.kill(self._pid, signal.SIGTERM)


def _end_of(pid: int) -> os.waitid_result | None:
    """How a child ended, or None; it is not reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
