"""Several processes train one run: equal to one process, and they end together however one of them ends."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import forks
import pytest
from same_run import assert_same_run, metrics_of

from seqjax import runs
from seqjax.config import to_dict
from seqjax.data.kept import kept_tokenizer
from seqjax.host.peers import LOST


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes put their temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def program(temporary: Path) -> Iterator[Popen[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with forks.started() as started:
            yield started


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def train_in(
    program: Popen[str],
    config: Any,
    folder: Path,
    count: int = 2,
    dies: dict[int, tuple[int, int]] | None = None,
    devices: int = 2,
    source: Path | None = None,
) -> list[tuple[int, str]]:
    """Exit code and output of each process; process ``i`` sends itself ``dies[i]``: (step, signal).

    One process uses ``devices``. With a ``source`` they start from the parameters of that run.
    """
    (folder.parent / "config.json").write_text(json.dumps(to_dict(config)))
    words = ["train", str(folder.parent / "config.json"), "--run", str(folder), "--no-sample"]
    words += [] if source is None else ["--from", str(source)]
    place = ["--coordinator", f"localhost:{free_port()}", "--processes", str(count), "--process"]
    logs = [folder.parent / f"process-{index}.txt" for index in range(count)]
    pids = [
        forks.ask(
            program,
            words=[*words, *(["--devices", str(devices)] if count == 1 else [*place, str(index)])],
            log=str(logs[index]),
            signal=(dies or {}).get(index),
        )
        for index in range(count)
    ]
    return [(forks.ask(program, wait=pid), log.read_text()) for pid, log in zip(pids, logs, strict=True)]


@pytest.mark.slow
def test_two_processes_equal_two_devices_of_one(program: Popen[str], make_config: Any, tmp_path: Path) -> None:
    config = make_config("transformer", **{"model.n_layers": 1, "train.steps": 10, "evaluation.every": 5})
    assert [code for code, _ in train_in(program, config, tmp_path / "one", count=1)] == [0]
    (first, said), (second, silent) = train_in(program, config, tmp_path / "two")
    assert (first, second) == (0, 0), said + silent
    assert_same_run(config, tmp_path / "one", tmp_path / "two")
    assert "in 2 processes" in said and "held out" in said
    assert "step" not in silent and "held out" not in silent
    assert "Traceback" not in said + silent


@pytest.mark.slow
def test_two_processes_start_from_the_parameters_and_the_tokenizer_of_another_run(
    program: Popen[str], make_config: Any, tmp_path: Path
) -> None:
    """The text is another one, so that a tokenizer trained anew would be another one too."""
    small = {"data.tokenizer": "bpe-300", "train.steps": 5, "evaluation.every": 5, "train.checkpoint_every": 5}
    (tmp_path / "source").mkdir()
    source = tmp_path / "source" / "run"
    assert [code for code, _ in train_in(program, make_config("gru", **small), source, count=1)] == [0]
    (tmp_path / "other.txt").write_text("".join(f"{n} times {n} equals {n * n}\n" for n in range(2000)))
    config = make_config("gru", **small, **{"data.corpus": str(tmp_path / "other.txt")})
    assert [code for code, _ in train_in(program, config, tmp_path / "one", count=1, source=source)] == [0]
    (first, said), (second, silent) = train_in(program, config, tmp_path / "two", source=source)
    assert (first, second) == (0, 0), said + silent
    config = runs.read_config(tmp_path / "one")
    assert config.train.start and config == runs.read_config(tmp_path / "two")
    assert kept_tokenizer(tmp_path / "two").sha256 == kept_tokenizer(source).sha256
    assert_same_run(config, tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_streams_killed_and_stopped_in_any_process_end_as_if_nothing_had_happened(
    program: Popen[str], make_config: Any, tmp_path: Path, temporary: Path
) -> None:
    config = make_config("lstm", **{
        "model.n_layers": 1, "data.batching": "streams", "train.context_length": 64, "train.steps": 20,
        "train.checkpoint_every": 5, "evaluation.every": 10,
    })  # fmt: skip
    assert [code for code, _ in train_in(program, config, tmp_path / "one", count=1)] == [0]
    folder = tmp_path / "two"

    (code, said), (killed, _) = train_in(program, config, folder, dies={1: (7, signal.SIGKILL)})
    assert (code, killed) == (LOST, -signal.SIGKILL), said
    assert said.count("error: process 1 of 2") == 1 and "start all processes again" in said
    assert "Traceback" not in said and "stack trace" not in said
    assert runs.steps_of(folder) == [5]

    before = set(temporary.glob("seqjax-*"))  # those of a killed process stay
    (killed, _), (code, said) = train_in(program, config, folder, dies={0: (12, signal.SIGKILL)})
    assert set(temporary.glob("seqjax-*")) == before
    assert (code, killed) == (LOST, -signal.SIGKILL), said
    assert said.count("error: process 0 of 2") == 1
    assert "Traceback" not in said and "stack trace" not in said

    (first, said), (second, _) = train_in(program, config, folder, dies={1: (13, signal.SIGTERM)})
    assert (first, second) == (75, 75), said
    assert "resuming at step" in said and "state saved" in said
    stopped = max(runs.steps_of(folder))
    assert 13 < stopped <= 15

    (first, said), (second, silent) = train_in(program, config, folder)
    assert (first, second) == (0, 0), said + silent
    assert f"resuming at step {stopped}" in said
    assert "held out" in said and "in 2 processes" in (folder / "log.txt").read_text()
    assert "step" not in silent and "held out" not in silent
    assert "Traceback" not in said + silent
    assert_same_run(config, tmp_path / "one", folder)


@pytest.mark.slow
def test_four_processes_equal_four_devices_and_outlive_a_kill(
    program: Popen[str], make_config: Any, tmp_path: Path
) -> None:
    """Killed at step 7, all go on from step 5. A process adds the parts of the others in another order than devices of
    one process do, so these agree up to rounding; that a kill changes no bit is tested with two processes."""
    config = make_config("window", **{
        "train.batch_size": 8, "train.steps": 10, "train.checkpoint_every": 5, "evaluation.every": 10,
        "train.mesh.fsdp": 2,
    })  # fmt: skip
    one, cut = tmp_path / "one", tmp_path / "cut"
    found = train_in(program, config, cut, 4, {2: (7, signal.SIGKILL)})
    assert [code for code, _ in found] == [LOST, LOST, -signal.SIGKILL, LOST], found
    assert found[0][1].count("error: process 2 of 4") == 1 and runs.steps_of(cut) == [5]
    assert [code for code, _ in train_in(program, config, cut, 4)] == [0] * 4
    assert [code for code, _ in train_in(program, config, one, 1, devices=4)] == [0]
    for a, b in zip(metrics_of(cut), metrics_of(one), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
