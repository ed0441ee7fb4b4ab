"""Calls of Slurm's command squeue."""

from __future__ import annotations

import contextlib
import os
import subprocess
from subprocess import DEVNULL

from seqjax.errors import UserError


def queue() -> dict[str, str]:
    """This user's jobs that have not ended: job id ("123_0", "123") -> state ("PENDING")."""
    return _of_jobs("%T")


def names() -> dict[str, str]:
    """The names of this user's jobs that have not ended, by job id."""
    return _of_jobs("%j")


def is_to_run_on() -> bool | None:
    """Whether the job of this process continues to run: False if it is being cancelled or requeued, None if Slurm does
    not answer."""
    with contextlib.suppress(UserError):
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        # the last task of an array has the array's own job id, for which squeue would list all its tasks
        job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
        return _ask("squeue", "-h", "-j", job, "-o", "%T", seconds=15).strip() in ("RUNNING", "SIGNALING")
    return None


def _of_jobs(column: str) -> dict[str, str]:
    lines = _ask("squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", f"%i|{column}")
    return dict(line.strip().split("|", 1) for line in lines.splitlines() if "|" in line)


def _ask(*command: str, seconds: float = 60) -> str:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}  # a user's own filters
    try:
        done = subprocess.run(command, env=plain, stdin=DEVNULL, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError:
        raise absent(command[0]) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: Slurm did not answer in {seconds:.0f} s; try again later") from None
    if done.returncode:
        raise UserError(f"{command[0]} failed: {one_line(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def absent(program: str) -> UserError:
    """The error if a command of Slurm is missing."""
    return UserError(f"--launcher slurm: {program} is not on PATH; start this where Slurm is, e.g. on a login node")


def one_line(text: str) -> str:
    """A message of several lines as one line."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
