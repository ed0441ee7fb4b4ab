"""Run commands as one Slurm job array by submitit. Stopped, preempted and timed-out jobs are requeued.

Each job runs its command as a child process. The command must

    read one line from its standard input, which stays open, and end when it is closed: then the job has died;
    save its state and exit with 75 on SIGTERM (which may come twice), and resume when started again;
    do nothing, and exit with 0, when it is started again after its end.

The signals depend on how a job is stopped. Measured on Slurm 22.05, with the job's program as the batch script:

    time limit, or preemption on a cluster with `SlurmctldParameters=preempt_send_user_signal`:
        USR2 to the job's program only -> the child saves, submitit requeues the job
    preemption elsewhere, `scontrol requeue`:
        SIGTERM to every process, SIGKILL after KillWait seconds -> the child saves, Slurm requeues the job
    `scancel`: the same signals -> the child saves; nothing is requeued

submitit's default, srun, is not used: there USR2 also reaches the child and kills it.
Results are read from the run folders and from squeue, never from submitit's pickles.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqjax.errors import UserError
from seqjax.host.optional import look_for
from seqjax.sweeps.launch.slurm_client import absent, one_line
from seqjax.sweeps.launch.slurm_task import WARN, Task

SLACK_SECONDS = 60  # Slurm may send the warning this much too early
OURS = ("array", "error", "job-name", "open-mode", "output", "requeue", "signal", "time")
TIME = re.compile(r"(?:([0-9]{1,9})-)?([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?")


@dataclass(frozen=True)
class SlurmOptions:
    """Options of each job of an array.

    A job is warned ``signal_seconds`` before ``minutes`` are over; its command has 0.8 of these seconds to save.
    A command that fails (exit code neither 0 nor 75) is started again up to ``retries`` times in the same job.
    """

    minutes: int
    partition: str | None = None
    gpus_per_run: int = 0
    cpus_per_run: int = 1
    memory_gb: float | None = None
    max_parallel: int = 32
    signal_seconds: int = 90
    retries: int = 1
    account: str | None = None
    qos: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)  # further options of sbatch; a flag has the value ""

    def __post_init__(self) -> None:
        least = (self.signal_seconds + SLACK_SECONDS) // 60 + 1
        if self.minutes < least:
            raise UserError(
                f"Slurm: a limit of {self.minutes} min leaves no time to train when the warning comes "
                f"{self.signal_seconds} s before it (up to {SLACK_SECONDS} s earlier); allow {least} min or more"
            )
        for name in ("cpus_per_run", "max_parallel", "signal_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"Slurm: {name} must be at least 1, not {getattr(self, name)}")
        for key in self.extra:
            if key.lstrip("-").replace("_", "-") in OURS:
                raise UserError(f"Slurm: the option {key!r} is set by seqjax itself; leave it out")


def parse_time(text: str) -> int:
    """Minutes, rounded up, from Slurm's own formats: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S. So "4:00" is 4 minutes.

    Raises:
        UserError: another format, or a time of 0.
    """
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{text!r} is not a time limit: write minutes (90), H:M:S (4:00:00) or D-H:M:S (1-12:00:00)")
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    if total := int(days or 0) * 24 * 60 + hours * 60 + minutes + -(-seconds // 60):
        return total
    raise UserError(f"{text!r}: a job needs a time limit of at least a minute")


def check_present() -> None:
    """Raise UserError if submitit or Slurm is missing, before anything is prepared."""
    look_for("submitit", "--launcher slurm")  # not imported: that configures the logging of this process
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise absent("sbatch")


def submit(
    commands: Sequence[Sequence[str]], inputs: Sequence[str], folder: Path, options: SlurmOptions, name: str
) -> list[str]:
    """Submit one job array: job i runs ``commands[i]`` with the line ``inputs[i]`` on its standard input.

    submitit's files and the jobs' output (``<job id>_0_log.out`` and ``.err``) go to ``folder``. Only its owner may
    enter it, as the jobs unpickle files there. Every node must see it. The jobs run in the current folder.

    Returns:
        The job ids in order: ``["123_0", "123_1"]``; for a single command, which is not an array: ``["123"]``.

    Raises:
        UserError: submitit or Slurm is missing, Slurm refuses the array, or the folder belongs to another user.
    """
    check_present()
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    _make_private(folder)
    pairs = zip(commands, inputs, strict=True)
    tasks = [Task(command, line, options.signal_seconds, options.retries) for command, line in pairs]
    # submitit gives up after max_num_timeout time-outs, and counts each preemption of a job of 10 minutes or less.
    executor = submitit.SlurmExecutor(
        folder,
        max_num_timeout=20 if options.minutes > 10 else 200,
        python=f"exec {shlex.quote(sys.executable)} -P",  # replaces the batch script, which gets the signals
    )
    executor.update_parameters(**_parameters(options, name))
    # If this is a job itself, its variables of Slurm are not for the new jobs; the user's variables of sbatch are.
    keep = {key: value for key, value in os.environ.items() if key.startswith("SBATCH_") or key == "SLURM_CONF"}
    try:
        with submitit.helpers.clean_env(), submitit.helpers.environment_variables(**keep):
            return [job.job_id for job in executor.submit_array(tasks)]
    except (FailedJobError, FailedSubmissionError) as error:
        hint = f" ({len(tasks)} jobs; see the cluster's MaxArraySize)" if "array" in str(error) else ""
        raise UserError(f"Slurm refused the jobs: {one_line(str(error))}{hint}") from error


def _parameters(options: SlurmOptions, name: str) -> dict[str, Any]:
    additional: dict[str, Any] = {key.lstrip("-"): value or True for key, value in options.extra.items()}
    additional |= {key: value for key in ("account", "qos") if (value := getattr(options, key)) is not None}
    additional |= {"requeue": True, "signal": f"B:{WARN.name.removeprefix('SIG')}@{options.signal_seconds}"}
    return {
        "job_name": name,
        "partition": options.partition,
        "time": options.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": options.cpus_per_run,
        "gpus_per_node": options.gpus_per_run or None,
        "mem": None if options.memory_gb is None else f"{round(options.memory_gb * 1024)}MB",
        "array_parallelism": options.max_parallel,
        "setup": ["# either signal would kill a job that is not yet ready for it", "trap '' USR2 TERM"],
        "use_srun": False,
        "additional_parameters": additional,
    }


def header(options: SlurmOptions, name: str, jobs: int) -> str:
    """The lines of the batch script that tell Slurm what each job of an array needs."""
    asked = _parameters(options, name)
    at_once, more = asked.pop("array_parallelism"), asked.pop("additional_parameters")
    setup = asked.pop("setup")
    asked |= {"array": f"0-{jobs - 1}%{min(at_once, jobs)}"} if jobs > 1 else {}
    asked |= more
    lines = [
        f"#SBATCH --{key.replace('_', '-')}" + f"={value}" * (value is not True)
        for key, value in asked.items()
        if value not in (None, False)
    ]
    return "\n".join(["#!/bin/bash", *lines, *setup])


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise UserError(f"{folder}: belongs to another user, who could change what the jobs run; choose another")
        folder.chmod(0o700)
    except OSError as error:
        raise UserError(f"{folder}: cannot be used for the jobs' files: {error.strerror}") from error
