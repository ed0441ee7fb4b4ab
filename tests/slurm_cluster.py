"""A real Slurm of two nodes for tests: its daemons live, and die, with one process that the test holds.

Everything runs in mount and process namespaces of its own. The kernel ends all that is in a process namespace with
its first process, which ends as soon as its standard input closes: that happens when the test is done, when a start
fails half way, and when the test itself is killed. So nothing is ever left behind, neither daemon nor job.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from seqjax.sweeps.launch.slurm_client import queue

PROGRAMS = ("slurmctld", "slurmd", "munged", "sinfo", "sbatch", "srun", "unshare")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # Debian keeps the daemons where users do not look
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
START_SECONDS = 30

# Two nodes with two "GPUs" each: Slurm wants a device file for each GPU, and no two alike on a node.
GRES = """\
NodeName=n1 Name=gpu File=/dev/null,/dev/zero
NodeName=n2 Name=gpu File=/dev/full,/dev/random
"""

# What is not obvious: config_overrides lets a node claim more cores than the machine has (else it is INVAL);
# AuthInfo leaves the machine's own munge alone; with preempt_send_user_signal a job of the partition `low` that is
# preempted gets its own signal (--signal) and then GraceTime seconds; a job of `abrupt` gets SIGTERM and KillWait
# seconds, which is what most clusters do.
CONFIG = """\
ClusterName=seqjaxtest
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.sock
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.%n.pid
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/spool.%n
SlurmctldLogFile={logs}/slurmctld.log
SlurmdLogFile={logs}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={logs}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE
PartitionName=abrupt Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=1 GraceTime=0 PreemptMode=REQUEUE
PartitionName=high Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""

# The nodes' names must resolve (jax looks the first one up), in these namespaces only.
START = """\
set -e
mount --bind "$1/hosts" /etc/hosts
munged --force --key-file="$1/munge.key" --socket="$1/munge.sock" --pid-file="$1/munged.pid" \
    --log-file="$2/munged.log" --seed-file="$1/munge.seed"
slurmctld -f "$1/slurm.conf"
slurmd -N n1 -f "$1/slurm.conf"
slurmd -N n2 -f "$1/slurm.conf"
while read -r line; do :; done
rm -rf "$1"
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: two nodes `n1` and `n2`, two GPUs and four cores each; partitions `low`, `abrupt`, `high`."""

    environment: Mapping[str, str]  # what its clients need in addition to the usual

    def run(self, *command: str) -> str:
        """What a client command (``"squeue", "-h"``) prints; a failure raises CalledProcessError."""
        return subprocess.run(
            command,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def release(self, job: str) -> None:
        """Let a requeued job start after two seconds, not two minutes (earlier Slurm may kill it)."""
        self.run("scontrol", "update", f"jobid={job}", "StartTime=now+2")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Look ten times a second.

    Raises:
        AssertionError: it was not so in ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.1)


def release_until(cluster: Cluster, condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
    """The same, and meanwhile no requeued job waits for its two minutes."""
    released: dict[str, float] = {}

    def look() -> bool:
        for job, state in queue().items():
            if state == "PENDING" and time.monotonic() > released.get(job, 0.0) + 15:
                with contextlib.suppress(subprocess.CalledProcessError):  # it has started since
                    cluster.release(job)
                released[job] = time.monotonic()
        return condition()

    wait_until(look, what, seconds)


def why_not() -> str | None:
    """Why no cluster can be started here, in a few words, or None if one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster for tests needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"{missing[0]} is absent (Debian: apt-get install slurmctld slurmd slurm-client munge)"
    made = subprocess.run([*NAMESPACES, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no mount and process namespaces here: {made.stderr.strip()}"
    return None


@contextlib.contextmanager
def start_cluster(folder: Path) -> Iterator[Cluster]:
    """Start a cluster, wait until its nodes are idle, and end all of it, jobs too, on leaving.

    The daemons' logs go to ``folder`` and stay there.

    Raises:
        RuntimeError: it did not start in 30 seconds; the message ends with the last lines of the logs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    try:
        _write_files(state, folder)
        with _daemons(state, folder) as first:
            cluster = Cluster({"SLURM_CONF": str(state / "slurm.conf"), "PATH": PATH})
            _wait_until_idle(cluster, first, folder)
            yield cluster
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _write_files(state: Path, logs: Path) -> None:
    state.chmod(0o755)
    for name in ("state", "spool.n1", "spool.n2"):
        (state / name).mkdir()
    (state / "hosts").write_text(Path("/etc/hosts").read_text() + "127.0.0.1 n1 n2\n")
    (state / "munge.key").touch(0o600)
    (state / "munge.key").write_bytes(os.urandom(1024))
    (state / "gres.conf").write_text(GRES)
    host = socket.gethostname().partition(".")[0]
    (state / "slurm.conf").write_text(CONFIG.format(host=host, state=state, logs=logs, ports=_free_ports(3)))


def _free_ports(count: int) -> list[int]:
    """Ports below those that the kernel hands to outgoing connections, so that none of these takes one meanwhile."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(18000, 32000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def _daemons(state: Path, logs: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(logs / "start.log", "wb") as log:
        first = subprocess.Popen(
            [*NAMESPACES, "bash", "-c", START, "bash", str(state), str(logs)],
            env={**os.environ, "PATH": PATH},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield first
    finally:
        assert first.stdin is not None
        first.stdin.close()
        try:
            first.wait(10)
        except subprocess.TimeoutExpired:
            first.kill()
            first.wait()


def _wait_until_idle(cluster: Cluster, first: subprocess.Popen[bytes], logs: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and first.poll() is None:
        with contextlib.suppress(subprocess.CalledProcessError):
            if cluster.run("sinfo", "-h", "-N", "-p", "high", "-o", "%T").split() == ["idle", "idle"]:
                return
        time.sleep(0.2)
    tails = [f"{path.name}: {line}" for path in sorted(logs.glob("*.log")) for line in _last_lines(path)]
    raise RuntimeError("Slurm did not start:\n" + "\n".join(tails))


def _last_lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-5:]
