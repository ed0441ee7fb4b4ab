"""Several processes that train one run: how they find each other, and where each keeps its files.

Every process runs the same command. Process 0 alone holds the run folder: it writes metrics, checkpoints, log and
result. It reads the checkpoint of a run that resumes, and the parameters and the tokenizer that a run starts from. So
the processes need no common file system. Each one reads the rows of the batches that its devices compute.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from seqjax import __version__
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host import peers as host_peers
from seqjax.host.peers import ALONE, LOST, Peers, meet
from seqjax.host.stopping import Asked, Interrupted, exit_code
from seqjax.host.wording import with_and

KEEPS_OPEN = 5.0  # seconds, see `_kept_open`
_joined: list[Peers] = []


@dataclass(frozen=True)
class Place:
    """The place of this process among the processes of a run.

    Attributes:
        host, port: where process 0 listens.
        count, index: number of processes, and of this one.
        gpus: which of the visible GPUs this process uses; empty: all of them.
    """

    host: str
    port: int
    count: int
    index: int
    gpus: tuple[int, ...] = ()


def peers() -> Peers:
    """The processes that this one has joined; `ALONE` outside of :func:`joined`."""
    return _joined[-1] if _joined else ALONE


@contextlib.contextmanager
def joined(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> Iterator[Peers]:
    """Join the processes of a run, before JAX has used a device; alone if there is one process.

    Under ``srun`` and on the hosts of a TPU slice the processes are found without arguments. If one process ends early,
    the others end too: with its error, or with `LOST`.

    Args:
        coordinator: HOST:PORT at which process 0 listens.
        processes, process: number of processes, and number of this one; one process means alone.
    Raises:
        UserError: wrong arguments, or not all processes come.
    """
    place = find(coordinator, processes, process, os.environ)
    if place is None:
        yield ALONE
        return
    found = meet((place.host, place.port), place.count, place.index, _versions())
    try:
        _initialize(place, found)
        _joined.append(found)
        yield found
    except Interrupted:  # all have stopped at the same step
        found.leave(_shut_down)
        raise
    except BaseException as error:
        found.fail(*_told(error), close=_shut_down)
        raise
    else:
        found.leave(_shut_down)
    finally:
        _joined.clear()


def find(
    coordinator: str | None, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> Place | None:
    """The place of this process by its options, by Slurm or by the TPU slice; None: it is alone.

    Raises:
        UserError: options are missing or do not fit together.
    """
    if coordinator is None and process is None:
        if processes is None:
            return _of_slurm(environment) or _of_tpu()
        if processes == 1:
            return None
    missing = [
        name
        for name, value in (("--coordinator", coordinator), ("--processes", processes), ("--process", process))
        if value is None
    ]
    if missing:
        raise UserError(
            f"command line: {with_and(missing)}: missing; several processes need --coordinator HOST:PORT, "
            "--processes N and --process I (0 to N - 1)"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"command line: --coordinator {coordinator}: expected HOST:PORT, such as 10.0.0.1:7733")
    if not 0 <= process < processes:
        raise UserError(
            f"command line: --process {process}: expected 0 to {processes - 1}, for --processes {processes}"
        )
    return None if processes == 1 else Place(host.strip("[]"), int(port), processes, process)


def _of_slurm(environment: Mapping[str, str]) -> Place | None:
    """The task of a job step of ``srun``. A batch script outside of ``srun`` is no task.

    Every step of a job has a port of its own, above those that Linux gives to programs.
    """
    count = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if count == 1 or "SLURM_PROCID" not in environment or "SLURM_STEP_NODELIST" not in environment:
        return None
    step = f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_STEP_ID')}"
    return Place(
        host=_first_host(environment["SLURM_STEP_NODELIST"]),
        port=61_440 + zlib.crc32(step.encode()) % 4096,
        count=count,
        index=int(environment["SLURM_PROCID"]),
        gpus=_gpus_of_task(environment),
    )


def _first_host(nodes: str) -> str:
    """The first of Slurm's node list: ``gpu[007,009-012],cpu1`` -> ``gpu007``."""
    head, bracket, rest = nodes.partition("[")
    if "," in head or not bracket:
        return head.split(",")[0]
    inside, _, after = rest.partition("]")
    return head + inside.split(",")[0].split("-")[0] + after.split(",")[0]


def _gpus_of_task(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The share of a task in the GPUs that it sees; all of them if Slurm has given each task its own.

    JAX alone would take one GPU for each task.
    """
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    tasks = _tasks_on_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"), int(environment.get("SLURM_NODEID", "0")))
    bound = any(environment.get(f"SLURM_{name}") for name in ("GPUS_PER_TASK", "GPU_BIND", "TRES_PER_TASK"))
    share = len(visible) // tasks
    if tasks == 1 or bound or share == 0:
        return ()
    first = int(environment.get("SLURM_LOCALID", "0")) * share
    return tuple(range(first, first + share))


def _tasks_on_node(counts: str, node: int) -> int:
    """Slurm's tasks of each node, ``2(x3),1``, at one node."""
    each: list[int] = []
    for part in counts.split(","):
        tasks, _, times = part.partition("(x")
        each += [int(tasks)] * int(times.rstrip(")") or 1)
    return each[min(node, len(each) - 1)]


def _of_tpu() -> Place | None:
    """This host of a TPU slice of several hosts, as JAX finds it."""
    from jax._src import cloud_tpu_init
    from jax._src.clusters import ClusterEnv

    if not cloud_tpu_init.running_in_cloud_tpu_vm or "tpu" not in (jax.config.jax_platforms or "tpu"):
        return None
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, [], None, int(host_peers.WAIT))
    address, count, index, _ = found
    if address is None or not count or count == 1:
        return None
    host, _, port = address.rpartition(":")
    return Place(host, int(port), count, index)


def _versions() -> str:
    return ", ".join([f"seqjax {__version__}", *(f"{n} {importlib.metadata.version(n)}" for n in ("jax", "jaxlib"))])


def _initialize(place: Place, found: Peers) -> None:
    """Start JAX's own service beside our connections.

    A recoverable task can leave while others stay, so that an error needs no wait for the others.
    """
    jax.config.update("jax_enable_recoverability", True)
    port = found.first(_free_port())
    before = _sockets()
    local = place.host in ("localhost", "127.0.0.1")
    jax.distributed.initialize(
        f"{place.host}:{port}",
        place.count,
        place.index,
        local_device_ids=list(place.gpus),
        cluster_detection_method="deactivate",
        coordinator_bind_address=f"127.0.0.1:{port}" if local else None,
    )
    if place.index == 0:
        _kept_open(_sockets() - before)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def _sockets() -> set[int]:
    """The sockets of this process; none where the system has no /proc."""
    found = set()
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
    return found


def _kept_open(sockets: set[int]) -> None:
    """Keep the sockets of JAX's service open for a few seconds after this process has died.

    JAX aborts a process, with a stack trace, as soon as the connection to its service closes. So the process first
    hears of the loss from our own connection, and ends with one line.
    """
    if sockets:
        wait = f"import sys, time; sys.stdin.read(); time.sleep({KEEPS_OPEN})"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        command = [sys.executable, "-S", "-c", wait]
        _keepers.append(subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=tuple(sockets), **quiet))


_keepers: list[subprocess.Popen[bytes]] = []


def _shut_down() -> None:
    jax.distributed.shutdown()
    while _keepers:
        _keepers[-1].kill()
        _keepers.pop().communicate()


def _told(error: BaseException) -> tuple[str, int, bool]:
    """What the others are told of an error: the reason, their exit code, and whether it is surely of this process."""
    if isinstance(error, UserError):
        return str(error), 2, True
    if isinstance(error, Asked):
        return "stopped by a signal", exit_code(error.signal_number), True
    if isinstance(error, KeyboardInterrupt):
        return "stopped", 130, True
    reason = (str(error).splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {reason}", LOST, isinstance(error, OSError) and error.filename is not None


@contextlib.contextmanager
def own_folders(lanes: Sequence[tuple[Any, Path]]) -> Iterator[Sequence[tuple[Any, Path]]]:
    """The runs with their folders in process 0; in the others with temporary folders, which are deleted afterwards."""
    if peers().index == 0:
        yield lanes
        return
    above = Path(tempfile.mkdtemp(prefix="seqjax-"))
    peers().last.append(partial(shutil.rmtree, above, ignore_errors=True))
    try:
        yield [(config, above / str(lane)) for lane, (config, _) in enumerate(lanes)]
    finally:
        shutil.rmtree(above, ignore_errors=True)


def share_file(path: Path) -> None:
    """Copy a text file of process 0 to this path, in the own folder, of each other process; nothing if it is absent."""
    there = peers().count > 1 and peers().index == 0 and path.is_file()
    text = peers().first(path.read_text(encoding="utf-8") if there else None)
    if peers().index > 0 and text is not None:
        disk.write_atomically(path, text)


def check_same(what: str, value: str) -> None:
    """Raise UserError if a process has another value than process 0."""
    values = peers().gather(value)
    for index, other in enumerate(values):
        if other != values[0]:
            raise UserError(
                f"process {index} of {len(values)} has {what} {other}, and process 0 has {values[0]}: start all with "
                "the same command (or each one alone, with --processes 1)"
            )
