"""How the processes of a run find each other, agree, and hear of the end of one."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seqjax.commands.options import config_options
from seqjax.data import stream_batch, window_batch
from seqjax.errors import UserError
from seqjax.host import peers
from seqjax.host.peers import LOST, Peers, meet
from seqjax.training import processes
from seqjax.training.processes import Place, find
from seqjax.training.spanning import of_every_process, own_rows

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "9"}
NODES = {"SLURM_STEP_NODELIST": "gpu[007-008]", "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_NODEID": "1"}
EIGHT = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "SLURM_LOCALID": "1"}


def test_three_options_place_a_process_and_one_process_is_alone() -> None:
    assert find("10.0.0.1:7733", 2, 1, {}) == Place("10.0.0.1", 7733, 2, 1)
    assert find("[::1]:7733", 2, 0, {}) == Place("::1", 7733, 2, 0)
    assert find(None, 1, None, {**STEP, **NODES}) is None
    assert find(None, None, None, {}) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("h:1", 2, None), r"--process: missing; .* --coordinator HOST:PORT, --processes N and --process I"),
        ((None, 2, None), r"--coordinator and --process: missing"),
        (("h", 2, 0), r"--coordinator h: expected HOST:PORT"),
        (("h:70000", 2, 0), r"expected HOST:PORT"),
        (("h:1", 2, 2), r"--process 2: expected 0 to 1, for --processes 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(*options, {})


def test_a_task_of_srun_is_found_and_a_batch_script_is_alone() -> None:
    place = find(None, None, None, {**STEP, **NODES})
    assert place is not None
    assert (place.host, place.count, place.index, place.gpus) == ("gpu007", 16, 9, ())
    other = find(None, None, None, {**STEP, **NODES, "SLURM_STEP_ID": "1"})
    assert other is not None and 61_440 <= place.port != other.port < 65_536
    assert find(None, None, None, STEP) is None
    assert find(None, None, None, {**STEP, **NODES, "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_a_host_of_a_tpu_slice_is_found_as_jax_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["10.0.0.1:8476", 4, 3, None]
    monkeypatch.setattr("jax._src.cloud_tpu_init.running_in_cloud_tpu_vm", True)
    monkeypatch.setattr("jax._src.clusters.ClusterEnv.auto_detect_unset_distributed_params", lambda *_: tuple(found))
    assert find(None, None, None, {}) is None  # JAX_PLATFORMS=cpu
    monkeypatch.setattr(processes, "jax", SimpleNamespace(config=SimpleNamespace(jax_platforms=None)))
    assert find(None, None, None, {}) == Place("10.0.0.1", 8476, 4, 3)
    found[1:3] = [1, 0]
    assert find(None, None, None, {}) is None  # one TPU VM


def test_processes_with_other_runs_or_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "peers", lambda: SimpleNamespace(gather=lambda value: [value, value, "b"]))
    processes.check_same("the run", "b")
    with pytest.raises(UserError, match=r"process 2 of 3 has the run b, and process 0 has a: start all with the same"):
        processes.check_same("the run", "a")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,m2", "n1"), ("gpu[007,009-012],m1", "gpu007"), ("a-[3-4]-x,b", "a-3-x")],
)
def test_the_first_of_a_node_list(nodes: str, first: str) -> None:
    assert processes._first_host(nodes) == first


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, (1,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}, (4, 5, 6, 7)),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, ()),  # one task for a node: all of its GPUs
        ({"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "1"}, ()),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "2,3"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ()),
    ],
)
def test_the_gpus_of_a_task(environment: dict[str, str], gpus: tuple[int, ...]) -> None:
    assert processes._gpus_of_task({**STEP, **NODES, **EIGHT, **environment}) == gpus


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes of processes that would have ended: here they are threads."""
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(peers, "WAIT", 5.0)
    return codes


def together(count: int, work: Any, versions: tuple[str, ...] = ()) -> list[Any]:
    """What ``work(peers)`` gives in each of the processes, or its UserError."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", free.getsockname()[1])
    found: list[Any] = [None] * count

    def one(index: int) -> None:
        try:
            found[index] = work(meet(address, count, index, versions[index] if versions else "1"))
        except UserError as error:
            found[index] = str(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def test_processes_agree_and_leave_process_0_last(ended: list[int]) -> None:
    closed: list[int] = []

    def work(these: Peers) -> Any:
        values = [these.gather([these.index, step]) for step in range(3)][-1], these.first({"at": these.index})
        these.leave(lambda: closed.append(these.index))
        return values

    assert together(3, work) == [([[0, 2], [1, 2], [2, 2]], {"at": 0})] * 3
    assert sorted(closed) == [0, 1, 2] and closed[-1] == 0
    assert not ended


def test_other_versions_and_equal_numbers_are_refused_in_every_process(ended: list[int]) -> None:
    found = together(2, lambda these: these, versions=("jax 1", "jax 2"))
    assert found[0] == found[1] and "the version is jax 2 in process 1" in found[0]


def test_a_process_that_does_not_come_is_named(ended: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "WAIT", 0.1)
    with pytest.raises(UserError, match=r"waited 0 s at localhost:\d+ for process 1, 2 of 3"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        meet(("localhost", port), 3, 0, "1")


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition, but not for ever: the test tells."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize(("lost", "teller"), [(0, 1), (2, 0)])
def test_all_end_when_a_process_is_lost(
    ended: list[int], capsys: pytest.CaptureFixture[str], lost: int, teller: int
) -> None:
    def work(these: Peers) -> None:
        these.gather(None)
        if these.index == lost:
            for link in these._links.values():
                link.left = True  # the thread that stands for the dead process does not end by itself
                link.connection.shutdown(socket.SHUT_RDWR)
        until(lambda: len(ended) == 2)

    together(3, work)
    assert ended == [LOST, LOST]
    said = capsys.readouterr().err
    assert said.count("error:") == 1 and f"process {lost} of 3" in said and "start all processes again" in said


def test_the_error_of_one_process_is_told_by_process_0_with_its_exit_code(
    ended: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(these: Peers) -> None:
        these.gather(None)
        if these.index == 1:
            these.fail("no corpus 'x'", 2, own=True, close=lambda: None)
        until(lambda: len(ended) == 2)

    together(3, work)
    assert ended == [2, 2]
    assert "error: process 1 of 3" in (said := capsys.readouterr().err) and "no corpus 'x'" in said


def test_every_process_gives_equal_parts_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: Any = [SimpleNamespace(process_index=index, id=10 * index + i) for index in (0, 1) for i in range(4)]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert [d.id for d in of_every_process(devices, 4)] == [0, 1, 10, 11]
    with pytest.raises(UserError, match="--devices 3: 2 processes cannot use equal parts"):
        of_every_process(devices, 3)
    with pytest.raises(UserError, match="process 1 has 3"):
        of_every_process(devices[:-1], 8)


def test_a_process_reads_the_rows_of_its_devices() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    whole, streams = window_batch(tokens, 3, 7, 8, 16), stream_batch(tokens, 2, 8, 16)[0]
    rows = own_rows(8, _Spanning())
    assert rows == slice(4, 8)
    np.testing.assert_array_equal(window_batch(tokens, 3, 7, 8, 16, rows), whole[4:])
    np.testing.assert_array_equal(stream_batch(tokens, 2, 8, 16, rows)[0], streams[4:])


class _Spanning:
    """Rows of the batch in four parts, the last two of them in this process."""

    is_fully_addressable = False
    spec = (None, None, "data")

    def addressable_devices_indices_map(self, shape: tuple[int, ...]) -> dict[int, tuple[slice, ...]]:
        return {i: (slice(None), slice(None), slice(2 * i, 2 * i + 2)) for i in (3, 2)}


def test_the_commands_of_the_page_are_commands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    commands = [line.split("#")[0].split(";")[0] for line in page.splitlines() if line.startswith("    ")]
    found = [re.search(r"(?:^ +|/|srun )seqjax ([a-z].*)", line) for line in commands]
    words = [match[1].split() for match in found if match]
    assert len(words) >= 9
    for name, *rest in words:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"seqjax.commands.{name}").add_parser(parser.add_subparsers())
        options, others = parser.parse_known_args([name, *(word.strip("'") for word in rest)])
        config_options(others)
        if name == "train":
            find(options.coordinator, options.processes, options.process, {})
