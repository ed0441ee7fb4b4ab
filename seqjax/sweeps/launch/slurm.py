"""Run commands as one Slurm job array, through submitit: stopped, preempted and timed-out ones are requeued.

Each job runs its command as a child process. The command is expected to

    read one line from its standard input, which stays open: its end tells that the job died, so the child should end;
    save its state and exit with 75 on SIGTERM (which may come twice), and resume from there when started again;
    do nothing, and exit with 0, when it is started again after its end.

How a job is stopped decides what it gets. Measured on Slurm 22.05, with the job's program being the batch script:

    time limit, or preemption on a cluster with `SlurmctldParameters=preempt_send_user_signal`:
        USR2 to the job's program alone -> the child saves, the job is requeued by submitit
    preemption elsewhere, `scontrol requeue`:
        SIGTERM to every process, SIGKILL after KillWait seconds -> the child saves, Slurm requeues the job
    `scancel`: the same signals -> the child saves; nothing is requeued

submitit's own way, under srun, is not used: there USR2 reaches the child as well, and kills it.
What became of a job is read from the run folders and from squeue, never from submitit's pickles.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from seqjax.errors import UserError

STOPPED = 75  # the exit code of a command that saved its state and wants to be started again
WARN = signal.SIGUSR2
SLACK_SECONDS = 60  # Slurm may send the warning this much earlier than asked
OURS = ("array", "error", "job-name", "open-mode", "output", "requeue", "signal", "time")
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class SlurmOptions:
    """What each job of an array gets.

    A job is warned ``signal_seconds`` before ``minutes`` are over; 0.8 of these seconds are its command's to save.
    A command that fails (neither 0 nor 75) is started again up to ``retries`` times in the same job.
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
        UserError: another format, or no time at all.
    """
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{text!r} is no time of Slurm's: write minutes (90), H:M:S (4:00:00) or D-H:M:S (1-12:00:00)")
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    if total := int(days or 0) * 24 * 60 + hours * 60 + minutes + -(-seconds // 60):
        return total
    raise UserError(f"{text!r}: a job needs a time limit of at least a minute")


def submit(
    commands: Sequence[Sequence[str]], inputs: Sequence[str], folder: Path, options: SlurmOptions, name: str
) -> list[str]:
    """Submit one job array: job i runs ``commands[i]`` with the line ``inputs[i]`` on its standard input.

    submitit's files and the jobs' output (``<job id>_0_log.out`` and ``.err``) go to ``folder``, which only its owner
    may enter, as the jobs unpickle from there; every node must see it. The jobs run in the current folder.

    Returns:
        The job ids in order: ``["123_0", "123_1"]``; a single command is no array: ``["123"]``.

    Raises:
        UserError: submitit or Slurm is absent, Slurm refuses the array, or the folder is not ours.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install 'seqjax[slurm]'") from None
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise _absent("sbatch")
    _make_private(folder)
    pairs = zip(commands, inputs, strict=True)
    tasks = [Task(command, line, options.signal_seconds, options.retries) for command, line in pairs]
    # submitit gives up after so many time-outs, and counts every preemption of a job of 10 minutes or less as one.
    executor = submitit.SlurmExecutor(
        folder,
        max_num_timeout=20 if options.minutes > 10 else 200,
        python=f"exec {shlex.quote(sys.executable)}",  # in the place of the batch script, to which signals are sent
    )
    executor.update_parameters(**_parameters(options, name))
    # What Slurm told the job that we may be in is not for the new jobs; what the user tells sbatch is.
    keep = {key: value for key, value in os.environ.items() if key.startswith("SBATCH_") or key == "SLURM_CONF"}
    try:
        with submitit.helpers.clean_env(), submitit.helpers.environment_variables(**keep):
            return [job.job_id for job in executor.submit_array(tasks)]
    except (FailedJobError, FailedSubmissionError) as error:
        hint = f" ({len(tasks)} jobs; see the cluster's MaxArraySize)" if "array" in str(error) else ""
        raise UserError(f"Slurm refused the jobs: {_one_line(str(error))}{hint}") from error


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
        "setup": ["trap '' USR2 TERM  # else either one kills a job that has not yet got ready for it"],
        "use_srun": False,
        "additional_parameters": additional,
    }


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise UserError(f"{folder}: belongs to another user, who could change what the jobs run; choose another")
        folder.chmod(0o700)
    except OSError as error:
        raise UserError(f"{folder}: cannot be used for the jobs' files: {error.strerror}") from error


def queue(user: str | None = None) -> dict[str, str]:
    """The jobs of ``user`` (ourselves) that have not ended: job id ("123_0", "123") -> Slurm's state ("PENDING")."""
    lines = _ask("squeue", "--noheader", "--array", "--user", user or str(os.getuid()), "--format", "%i|%T")
    return dict(line.strip().split("|") for line in lines.splitlines() if "|" in line)


def names() -> dict[str, str]:
    """The names of our jobs that have not ended, by job id."""
    lines = _ask("squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i|%j")
    return dict(line.strip().split("|", 1) for line in lines.splitlines() if "|" in line)


def cancel(job_ids: Iterable[str]) -> None:
    """End jobs; their commands get SIGTERM first, and KillWait seconds. Jobs that have ended are passed over."""
    if chosen := list(job_ids):
        _ask("scancel", "--quiet", *chosen)


def release(job_id: str) -> None:
    """Let a requeued job start in two seconds, not two minutes (earlier, Slurm may kill it: "credential revoked")."""
    _ask("scontrol", "update", f"jobid={job_id}", "StartTime=now+2")


def _ask(*command: str, seconds: float = 60) -> str:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}  # a user's own filters
    try:
        done = subprocess.run(command, env=plain, stdin=DEVNULL, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError:
        raise _absent(command[0]) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: Slurm did not answer in {seconds:.0f} s; try again later") from None
    if done.returncode:
        raise UserError(f"{command[0]} failed: {_one_line(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def _absent(program: str) -> UserError:
    return UserError(f"--launcher slurm: {program} is not on PATH; start this where Slurm is, e.g. on a login node")


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


class Task:
    """What one job does: run the command as a child, and when warned, have it save its state and be requeued.

    Signal handlers run in the midst of ``__call__``, so neither reaps the child before the other is done with it.
    """

    def __init__(self, command: Sequence[str], line: str, signal_seconds: float, retries: int) -> None:
        if "\n" in line:
            raise ValueError("the input of a command is one line")
        self.command, self.line = list(command), line
        self.signal_seconds, self.retries = signal_seconds, retries
        self._pid: int | None = None
        self._terminated = False

    def __call__(self) -> int:
        """Run the command to its end; a failure ends the job with the command's exit code, so that Slurm sees it."""
        signal.signal(signal.SIGTERM, self._terminate)
        code, attempt = STOPPED, 0
        while not self._terminated and attempt <= self.retries:
            code, attempt = self._run(), attempt + 1
            print(f"attempt {attempt} of {1 + self.retries}: exit code {code}", flush=True)
            if code in (0, STOPPED):
                break
        if code and self._terminated and _runs_on():
            signal.raise_signal(WARN)  # SIGTERM was a warning, not the end: requeue, which Slurm will not do
        if code:
            sys.exit(code if code > 0 else 128 - code)
        return code

    def checkpoint(self) -> Any:
        """Called by submitit when the job is warned: what to run when the job, requeued, starts again."""
        from submitit.helpers import DelayedSubmission

        if self._pid is not None:
            os.kill(self._pid, signal.SIGTERM)
            deadline = time.monotonic() + 0.8 * self.signal_seconds
            while (end := _end_of(self._pid)) is None and time.monotonic() < deadline:
                time.sleep(0.05)
            _kill_group(self._pid)
            if end is not None and (end.si_code, end.si_status) == (os.CLD_EXITED, 0):
                sys.exit(0)  # it came to its end meanwhile
        if _runs_on() is False:
            sys.exit(STOPPED)  # Slurm requeues the job itself; or it was cancelled, and requeueing would undo that
        return DelayedSubmission(Task(self.command, self.line, self.signal_seconds, self.retries))

    def _run(self) -> int:
        # Blocked, so that the child ignores it for good, and that no warning finds a child without a known pid.
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
    """How a child ended, if it has; it is left to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _runs_on() -> bool | None:
    """Whether Slurm means this job to run on: not if it is being cancelled or requeued; None if Slurm does not say."""
    with contextlib.suppress(UserError):
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        # the last task of an array has the array's own job id, by which squeue would tell of all its tasks
        job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
        return _ask("squeue", "-h", "-j", job, "-o", "%T", seconds=15).strip() in ("RUNNING", "SIGNALING")
    return None
