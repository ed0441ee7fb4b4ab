"""The Slurm launcher: on a real cluster of two nodes where one can be started, its parts everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, release_until, start_cluster, wait_until, why_not
from sweeping import write_sweep

from seqjax import runs
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.launch import jobs, slurm, slurm_client
from seqjax.sweeps.launch.slurm import SlurmOptions, parse_time, submit
from seqjax.sweeps.launch.slurm_client import queue
from seqjax.sweeps.launch.slurm_task import Task
from seqjax.sweeps.sweep import Outcome, run_sweep

CHILD = """\
import json, os, pathlib, select, signal, sys, time

folder, seconds_to_save = pathlib.Path(sys.argv[1]), float(sys.argv[2])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
line = sys.stdin.buffer.raw.readline()
(folder / "pid").write_text(str(os.getpid()))
saved = folder / "saved"
step = int(saved.read_text()) if saved.exists() else 0
start = dict(line=line.decode(), step=step, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), at=time.time())


def end(code):
    with open(folder / "starts", "a") as file:
        file.write(json.dumps(dict(start, code=code, until=time.time())) + "\\n")
    sys.exit(code)


with open(folder / "steps", "a", buffering=1) as log:
    while not (folder / "enough").exists():
        log.write(f"{step}\\n")
        time.sleep(0.1)
        step += 1
        if stopped:
            time.sleep(seconds_to_save)
            saved.write_text(str(step))
            end(75)
        if select.select([0], [], [], 0)[0]:
            end(9)  # the other end of standard input is gone
end(0)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this module's own; afterwards nothing of it may run."""
    pytest.importorskip("submitit")
    if reason := why_not():
        pytest.skip(reason)
    with start_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started
    config = started.environment["SLURM_CONF"]
    state = os.path.dirname(config)
    assert not os.path.exists(state)
    listing = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    assert state not in listing
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert config.encode() not in environment.read_bytes() or environment.parent.name == str(os.getpid())
        except OSError:
            continue


@pytest.fixture
def on_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, known to the launcher by the environment."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.run("scancel", "--quiet", "--user=root")  # what a failed test leaves is not for the next to wait for


@pytest.fixture
def child(tmp_path: Path) -> Path:
    """A program: count until its folder holds `enough`; save on SIGTERM and exit with 75; go on from what was saved."""
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    return path


def command_of(child: Path, folder: Path, seconds_to_save: float = 0) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [sys.executable, str(child), str(folder), str(seconds_to_save)]


def steps_of(folder: Path) -> list[int]:
    path = folder / "steps"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def starts_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "starts").read_text().splitlines()]


def resume(cluster: Cluster, job: str) -> None:
    """Wait until a job has gone back to the queue, then let it start."""
    wait_until(lambda: queue().get(job) == "PENDING", f"{job} is requeued")
    cluster.release(job)


@pytest.mark.slow
def test_an_array_runs_two_at_a_time_and_resumes_what_is_preempted(
    on_cluster: Cluster, child: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / f"run-{index}" for index in range(4)]
    options = SlurmOptions(minutes=5, partition="low", gpus_per_run=1, max_parallel=2, signal_seconds=10, memory_gb=0.5)
    jobs = submit(
        [command_of(child, folder) for folder in folders],
        [f"input {index}" for index in range(4)],
        tmp_path / "jobs",
        options,
        "counting",
    )
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{index}" for index in range(4)]
    assert set(queue()) == set(jobs)
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700

    # A job that needs both GPUs of the node of a running one: that one gets USR2, saves and goes back to the queue.
    wait_until(lambda: all(len(steps_of(folder)) > 3 for folder in folders[:2]), "the first two jobs count")
    node = on_cluster.run("squeue", "-h", "-j", jobs[0], "-o", "%N").strip()
    on_cluster.run("sbatch", "-p", "high", "-w", node, "--gpus-per-node=2", "--output=/dev/null", "--wrap", "sleep 1")
    resume(on_cluster, jobs[0])
    for folder in folders[1:3]:
        (folder / "enough").touch()
    counts = lambda: len(steps_of(folders[3])) > 3  # noqa: E731
    release_until(on_cluster, counts, "the last job counts")  # the first may have taken a neighbour with it

    # A job that is told to stop in the plain way gets SIGTERM.
    on_cluster.run("scontrol", "requeue", jobs[3])
    resume(on_cluster, jobs[3])
    for folder in folders:
        (folder / "enough").touch()
    release_until(on_cluster, lambda: not queue(), "the queue is empty")

    for index, folder in enumerate(folders):
        starts = starts_of(folder)
        assert steps_of(folder) == list(range(len(steps_of(folder)))), "no step is lost or repeated"
        assert [start["code"] for start in starts] == [75] * (len(starts) - 1) + [0]
        assert {start["line"] for start in starts} == {f"input {index}\n"}
        assert {start["gpus"] for start in starts} <= {"0", "1"}
    assert len(starts_of(folders[0])) == len(starts_of(folders[3])) == 2
    every = [start for folder in folders for start in starts_of(folder)]
    assert max(sum(one["at"] <= other["at"] < one["until"] for one in every) for other in every) == 2


@pytest.mark.slow
def test_a_failure_is_retried_a_warning_requeues_and_a_cancellation_ends(
    on_cluster: Cluster, child: Path, tmp_path: Path
) -> None:
    options = SlurmOptions(minutes=5, partition="low", signal_seconds=10, retries=1)
    fail = ["sh", "-c", f"echo run >> {tmp_path}/count; exit 7"]
    (failing,) = submit([fail], [""], tmp_path / "jobs", options, "failing")
    count = command_of(child, tmp_path / "run", seconds_to_save=1)
    (endless,) = submit([count], [""], tmp_path / "jobs", options, "endless")

    # SIGTERM while Slurm means the job to run on is a warning; scancel is the end, even of a job that saves already.
    wait_until(lambda: len(steps_of(tmp_path / "run")) > 1, "the job counts")
    on_cluster.run("scancel", "--batch", "--signal=TERM", endless)
    resume(on_cluster, endless)
    before = len(steps_of(tmp_path / "run"))
    wait_until(lambda: len(steps_of(tmp_path / "run")) > before, "the job counts on")
    assert failing not in queue()
    on_cluster.run("scancel", "--batch", "--signal=USR2", endless)
    time.sleep(0.3)
    on_cluster.run("scancel", "--quiet", endless, failing)
    wait_until(lambda: not queue(), "the queue is empty")
    assert [start["code"] for start in starts_of(tmp_path / "run")] == [75, 75]
    assert steps_of(tmp_path / "run") == list(range(len(steps_of(tmp_path / "run"))))
    assert (tmp_path / "count").read_text() == "run\n" * 2
    assert "ExitCode=7:0" in on_cluster.run("scontrol", "show", "job", failing)

    with pytest.raises(UserError, match=r"Slurm refused the jobs: .*invalid partition"):
        submit([["true"]], [""], tmp_path / "jobs", SlurmOptions(minutes=5, partition="none"), "refused")


TWO_TASKS = """\
#!/bin/sh
#SBATCH --partition=abrupt --nodes=2 --ntasks-per-node=1 --requeue --open-mode=append
exec srun {python} -m seqjax train {config} --run {run} --no-sample
"""


@pytest.mark.slow
def test_one_run_over_two_tasks_of_srun_is_preempted_and_goes_on(
    on_cluster: Cluster, small_text: Path, tmp_path: Path
) -> None:
    config = "\n".join([
        f"data: {{corpus: {small_text}}}",
        "model: {family: lstm, d_model: 16, n_layers: 1}",
        "train: {steps: 1000000, batch_size: 8, context_length: 16, checkpoint_every: 1000}",
        "evaluation: {every: 1000000, windows: 8, final_windows: 8, batch_size: 8}",
    ])  # fmt: skip
    (tmp_path / "c.yaml").write_text(config)
    run = tmp_path / "run"
    script = TWO_TASKS.format(python=sys.executable, config=tmp_path / "c.yaml", run=run)
    (tmp_path / "job.sh").write_text(script)
    job = on_cluster.run("sbatch", "--parsable", f"--output={tmp_path}/job.txt", str(tmp_path / "job.sh")).strip()
    said = lambda: (tmp_path / "job.txt").read_text() if (tmp_path / "job.txt").exists() else ""  # noqa: E731
    wait_until(lambda: "  loss " in said(), "the run trains", 240)
    on_cluster.run("sbatch", "-p", "high", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    wait_until(lambda: queue().get(job) == "PENDING", "the job is requeued", 60)
    stopped = max(runs.steps_of(run))
    assert 0 < stopped < 1_000_000 and "state saved" in said()
    assert "in 2 processes" in said()
    on_cluster.release(job)
    wait_until(lambda: f"resuming at step {stopped}" in said(), "the run goes on", 240)
    on_cluster.run("scancel", job)
    wait_until(lambda: not queue(), "the queue is empty", 60)
    assert "Traceback" not in said()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("4:30", 5),
        ("4:00:00", 240),
        ("0:00:01", 1),
        ("2-0", 2880),
        ("1-12:30", 2190),
        ("1-12:00:00", 2160),
        (" 7 ", 7),
    ],
)
def test_times(text: str, minutes: int) -> None:
    assert parse_time(text) == minutes


@pytest.mark.parametrize("text", ["", "4h", "1:2:3:4", "-5", "1-", "UNLIMITED", "1.5", "0", "0:00:00"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="time"):
        parse_time(text)


def test_options_that_cannot_work() -> None:
    with pytest.raises(UserError, match="allow 3 min or more"):
        SlurmOptions(minutes=2)
    with pytest.raises(UserError, match="max_parallel must be at least 1"):
        SlurmOptions(minutes=60, max_parallel=0)
    with pytest.raises(UserError, match="'job_name' is set by seqjax"):
        SlurmOptions(minutes=60, extra={"job_name": "x"})


def test_what_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue is not on PATH"):
        queue()
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: no controller' >&2\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    with pytest.raises(UserError, match="squeue failed: slurm_load_jobs error: no controller"):
        queue()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"^--launcher slurm needs submitit: pip install 'seqjax\[slurm\]'$"):
        submit([["true"]], [""], tmp_path / "jobs", SlurmOptions(minutes=60), "x")


def in_a_process(command: list[str], **settings: object) -> subprocess.Popen[str]:
    """A task in a process of its own, which SIGUSR1 has call checkpoint() as submitit does."""
    code = (
        "import signal, sys; from seqjax.sweeps.launch.slurm_task import Task\n"
        f"task = Task({command!r}, 'hello', **{settings!r})\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(type(task.checkpoint().function).__name__))\n"
        "task()"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_a_child_passes_over_the_warning_and_ends_with_its_job(child: Path, tmp_path: Path) -> None:
    job = in_a_process(command_of(child, tmp_path / "run"), signal_seconds=10, retries=0)
    wait_until(lambda: len(steps_of(tmp_path / "run")) > 1, "the child counts")
    os.kill(int((tmp_path / "run" / "pid").read_text()), signal.SIGUSR2)  # so does `scancel --full --signal=USR2`
    wait_until(lambda: len(steps_of(tmp_path / "run")) > 4, "the child counts on")
    job.kill()
    job.communicate()
    wait_until(lambda: (tmp_path / "run" / "starts").exists(), "the child notices")
    assert [start["code"] for start in starts_of(tmp_path / "run")] == [9]


def test_a_warned_job_waits_for_its_child_and_kills_one_that_does_not_end(child: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    job = in_a_process(command_of(child, tmp_path / "run"), signal_seconds=10, retries=5)
    wait_until(lambda: len(steps_of(tmp_path / "run")) > 1, "the child counts")
    job.send_signal(signal.SIGUSR1)
    assert "Task" in job.communicate(timeout=120)[1]
    assert [start["code"] for start in starts_of(tmp_path / "run")] == [75]

    deaf = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    job = in_a_process(["sh", "-c", deaf], signal_seconds=1, retries=5)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "the child runs")
    job.send_signal(signal.SIGUSR1)
    assert "Task" in job.communicate(timeout=120)[1]
    wait_until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists(), "the child is gone", 5)


def test_the_input_is_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        Task(["true"], "a\nb", 10, 0)


class Queue:
    """A queue in which jobs wait until the test ends them; ``seen`` is called at each look."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.runs: dict[str, list[str]] = {}
        self.seen: Callable[[], None] = lambda: None
        patch.setattr(slurm, "submit", self.submit)
        patch.setattr(slurm_client, "queue", self.look)
        patch.setattr(slurm_client, "names", lambda: {job: self.names[job] for job in self.states})
        patch.setattr(jobs, "POLL_SECONDS", 0.01)

    def submit(self, commands: Any, requests: list[str], folder: Path, options: SlurmOptions, name: str) -> list[str]:
        array = len(set(self.names.values()))
        ids = [f"{array}_{index}" for index in range(len(requests))] if len(requests) > 1 else [f"{array}"]
        for job, request in zip(ids, requests, strict=True):
            self.states[job], self.names[job] = "PENDING", name
            self.runs[job] = [Path(place).name for place in json.loads(request)["train"]]
        return ids

    def look(self) -> dict[str, str]:
        self.seen()
        return dict(self.states)


@pytest.fixture
def detached(small_text: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Start a sweep of six runs, two jobs at once."""
    rates = "grid: {optimizer.learning_rate: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}"
    axes = f"model: {{family: gru, d_model: 16, n_layers: 1}}\n{rates}"
    sweep = read_sweep(write_sweep(tmp_path / "s.yaml", small_text, axes))
    options, folder = SlurmOptions(minutes=60, max_parallel=2), tmp_path / "runs" / "s"

    def start(detach: bool = True) -> Outcome:
        launch = jobs.slurm_launch(folder, options, wandb_mode=None, retries=0, detach=detach)
        return run_sweep(sweep, folder, jobs.slurm_machine(options), None, bundle=True, launch=launch)

    return start


def test_jobs_in_the_queue_keep_their_runs(
    detached: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a job has begun, the others wait on: the same command submits none of them again."""
    queue = Queue(monkeypatch)
    detached()
    before = dict(queue.runs)
    assert sorted(map(len, before.values())) == [3, 3]
    queue.states["0_0"] = "RUNNING"
    for run_id in before["0_0"]:
        runs.append_metrics(tmp_path / "runs" / "s" / run_id, {"step": 2, "loss": 5.0})
    detached()
    assert queue.runs == before
    for run_id in before["0_1"]:
        assert folders.read_plan(tmp_path / "runs" / "s" / run_id)["lanes"] == before["0_1"]


def test_a_job_whose_runs_others_train_has_not_failed(
    detached: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at once. When the others have ended half of its runs, it is submitted again for the rest."""
    queue = Queue(monkeypatch)
    detached()
    held, ended = contextlib.ExitStack(), {"status": "finished", "steps": 40, "validation": {"loss": 3.0}}
    places = {run_id: tmp_path / "runs" / "s" / run_id for run_ids in queue.runs.values() for run_id in run_ids}
    for place in places.values():
        held.enter_context(runs.lock(place))
    looks = iter(range(100))

    def others() -> None:
        look = next(looks)
        if look == 2:  # the jobs find their runs locked
            queue.states.clear()
        if look == 5:
            for run_id in queue.runs["0_0"]:
                disk.write_json(places[run_id] / "result.json", ended)
            held.close()
        if look > 5 and queue.states:
            assert [queue.runs[job] for job in queue.states] == [queue.runs["0_1"]]
            for run_id in queue.runs["0_1"]:
                disk.write_json(places[run_id] / "result.json", ended)
            queue.states.clear()

    queue.seen = others
    outcome = detached(detach=False)
    assert outcome.failed == () and len(queue.runs) == 3
    assert not any(folders.read_failures(place) for place in places.values())
