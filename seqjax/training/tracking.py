"""wandb as a mirror of metrics.jsonl. If it is not installed, offline or broken, the run is not affected."""

from __future__ import annotations

import contextlib
import functools
import netrc
import os
import queue
import secrets
import sys
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from seqjax import runs
from seqjax.config import Config, run_id, to_dict
from seqjax.errors import UserError, printable
from seqjax.host import disk
from seqjax.host.optional import look_for
from seqjax.host.streams import leave_at_once
from seqjax.host.wording import quoted

MODES = ("online", "offline", "disabled")
MEANINGS = {mode: mode for mode in MODES} | {"run": "online", "shared": "online", "dryrun": "offline"}  # of WANDB_MODE
OTHERS = tuple(
    f"WANDB_{name}"
    for name in (
        "RUN_ID", "RESUME", "RESUME_FROM", "FORK_FROM", "NAME", "RUN_GROUP", "JOB_TYPE", "DIR",
        "SWEEP_ID", "SWEEP_PARAM_PATH", "LAUNCH", "SERVICE", "CONSOLE", "INIT_TIMEOUT", "REINIT",
    )
)  # fmt: skip
CONNECT_SECONDS = 30
FINISH_SECONDS = 60
LEAVE_SECONDS = 30


class Mirror:
    """A mirror that does nothing."""

    def log(self, record: dict[str, Any]) -> None:
        """Mirror one line of metrics.jsonl."""

    def finish(self, result: dict[str, Any], patient: bool = False) -> None:
        """Mirror result.json and end.

        Args:
            patient: wait as long as wandb takes lines; else `FINISH_SECONDS` for all of them.
        """


class _Wandb(Mirror):
    """A wandb run in its own thread, so that training never waits for wandb."""

    def __init__(
        self, config: Config, folder: Path, mode: str, say: Callable[[str], None], token: str, name: str | None = None
    ) -> None:
        self._say = say
        self._failure: str | None = None  # why it stopped mirroring
        self._told = self._ended = False
        self._records: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._result: dict[str, Any] = {}
        options = {
            "project": os.environ.get("WANDB_PROJECT") or "seqjax",
            "id": f"{run_id(config)}-{token}",
            "name": name or run_id(config),
            "group": folder.resolve().parent.name,
            "job_type": config.model.family,
            "config": to_dict(config),
            "mode": mode,
            "dir": str(folder if os.access(folder, os.W_OK) else Path.cwd()),
            "resume": "allow",
            "reinit": "create_new",  # the lanes of a bundle are several open runs
        }
        axis = "tokens" if isinstance(config, Config) else "step"  # each line of the run has it
        self._thread = threading.Thread(target=self._serve, args=(options, axis), daemon=True)
        with self._guard():
            _clear_environment()
            warnings.filterwarnings("ignore", module="wandb")
            import wandb  # noqa: F401 (here, since two threads must not import it at once)

            _bound_the_exit()
            self._thread.start()
        self._tell()

    def _serve(self, options: dict[str, Any], axis: str) -> None:
        with self._guard():
            import wandb

            settings = wandb.Settings(silent=True, console="off", init_timeout=CONNECT_SECONDS)
            run = wandb.init(**options, settings=settings)
            run.define_metric("*", step_metric=axis)
            while (record := self._records.get()) is not None:
                run.log(record)
            run.summary.update(self._result)
            run.finish()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Keep any error of wandb as the failure, also SystemExit."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            reason = (str(error).splitlines() or [""])[0][:200]
            self._failure = f"{type(error).__name__}: {reason}"

    def _tell(self) -> None:
        """Report once, on the training thread, that mirroring has stopped."""
        if self._failure is not None and not self._told:
            self._told = True
            self._say(
                f"wandb stopped mirroring ({self._failure}); the run continues, and "
                "`seqjax export-wandb` replays it later"
            )

    def works(self) -> bool:
        """Whether there was no failure so far."""
        return self._failure is None

    def log(self, record: dict[str, Any]) -> None:
        self._tell()
        if self._failure is None:
            self._records.put(record)

    def finish(self, result: dict[str, Any], patient: bool = False) -> None:
        if self._ended:
            return
        self._ended, self._result = True, dict(result)
        self._records.put(None)
        if self._failure is None:
            # wandb may wait for a network forever; the run's own files are complete
            self._join(1 if _hung.is_set() else FINISH_SECONDS, patient)
            if self._thread.is_alive():
                _hung.set()
                self._failure = self._failure or "TimeoutError: it does not come to an end"
        self._tell()

    def _join(self, seconds: float, patient: bool) -> None:
        """Wait for the thread, at most ``seconds``; if patient, as long after each line that it takes."""
        left, end = self._records.qsize(), time.monotonic() + seconds
        while self._thread.is_alive() and (wait := end - time.monotonic()) > 0:
            self._thread.join(min(wait, 0.1) if patient else wait)
            if patient and self._records.qsize() < left:
                left, end = self._records.qsize(), time.monotonic() + seconds


_hung = threading.Event()  # set if one run did not finish in time: the process does not wait for the others


def _clear_environment() -> None:
    """Remove environment variables that would rename runs, share another service, or make wandb ask a question.

    wandb reads these variables itself and refuses unknown values.
    """
    for name in OTHERS:
        os.environ.pop(name, None)
    if os.environ.get("WANDB_MODE"):
        os.environ["WANDB_MODE"] = MEANINGS.get(os.environ["WANDB_MODE"].strip().lower(), "offline")
    os.environ["WANDB_SILENT"] = "true"  # else it asks for a key


@functools.cache
def _bound_the_exit() -> None:
    """End the process, with its exit code, if wandb still holds it LEAVE_SECONDS after the main thread's end."""
    codes = [0]
    leave = sys.exit

    def leave_with(status: Any = None, /) -> NoReturn:
        codes.append(status if isinstance(status, int) else int(status is not None))
        leave(status)

    def watch() -> None:
        threading.main_thread().join()  # ends before other threads are joined and exit hooks are called
        time.sleep(LEAVE_SECONDS)
        leave_at_once(1 if hasattr(sys, "last_type") else codes[-1] & 255)

    sys.exit = leave_with
    threading.Thread(target=watch, daemon=True).start()


def choose_mode(flag: str | None, say: Callable[[str], None] = lambda text: None) -> str:
    """The flag, else WANDB_DISABLED or WANDB_MODE, else online if there is a key, else offline.

    The variables may have been set for other programs: an unknown value is reported to ``say`` and means offline.

    Raises:
        UserError: a flag that is not a mode.
    """
    if flag is not None:
        if flag not in MODES:
            raise UserError(f"wandb mode {flag!r} is not allowed; allowed: {', '.join(MODES)}")
        return flag
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on"):
        return "disabled"
    variable = os.environ.get("WANDB_MODE", "").strip()
    if not variable:
        return "online" if _has_key() else "offline"
    if variable.lower() not in MEANINGS:
        say(f"note: WANDB_MODE={printable(variable)} is no mode of wandb ({', '.join(MODES)}); it is mirrored offline")
    return MEANINGS.get(variable.lower(), "offline")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname or "wandb"
    with contextlib.suppress(OSError, ValueError, netrc.NetrcParseError):
        return any(server in host for host in netrc.netrc(os.environ.get("NETRC")).hosts)
    return False


@contextlib.contextmanager
def open_mirror(
    config: Config, folder: Path, flag: str | None, say: Callable[[str], None], name: str | None = None
) -> Iterator[Mirror]:
    """A mirror for one run, on process 0 only, in the group of its parent folder. ``disabled`` does not import wandb.

    ``name`` is the name in wandb; None: the run id.
    """
    import jax

    mode = choose_mode(flag, say)
    if mode == "disabled" or jax.process_index():
        yield Mirror()
        return
    if mode == "online" and not _has_key():
        say("wandb has no key here, so it is mirrored offline (`wandb login`, or set WANDB_API_KEY)")
        mode = "offline"
    mirror = _Wandb(config, folder, mode, say, _token(folder), name)
    try:
        yield mirror
    finally:
        mirror.finish({})
        if mode == "offline" and mirror.works():
            say(f"wandb is offline; to upload this run: {sync_command(folder)}")


def sync_command(folder: Path, beside: bool = False) -> str:
    """The command that uploads what wandb has kept of a run while offline.

    Args:
        beside: of all runs in the folder above it.
    """
    if not os.access(folder, os.W_OK):
        return f"wandb sync {quoted(Path.cwd())}/wandb/offline-run-*"
    place = f"{quoted(folder.parent)}/*" if beside else quoted(folder)
    return f"wandb sync {place}/wandb/offline-run-*"


def _token(folder: Path) -> str:
    """A token that distinguishes run folders of one config in wandb. It is kept in the folder for resumed runs."""
    path = folder / "wandb-token.txt"
    if not path.is_file():
        disk.write_atomically(path, secrets.token_hex(4))
    return path.read_text()


def export(folder: Path, flag: str | None, say: Callable[[str], None]) -> int:
    """Replay a run's metrics.jsonl and result.json into a wandb run; return the number of lines."""
    config = runs.read_config(folder)
    runs.read_curve(folder)  # raises if the file is missing
    look_for("wandb", "export-wandb")
    records = runs.read_metrics(folder)
    mode = choose_mode(flag, say)
    if mode == "disabled":
        raise UserError("wandb is disabled (--wandb or WANDB_MODE), so nothing can be replayed into it")
    if not os.access(folder, os.W_OK):
        say(f"note: {folder} cannot be written: wandb's own files go to {Path.cwd() / 'wandb'}")
    mirror = _Wandb(config, folder, mode, say, secrets.token_hex(4))
    for record in records:
        mirror.log(record)
    mirror.finish(runs.read_result(folder) or {}, patient=True)
    if not mirror.works():
        raise UserError(f"{folder}: wandb did not take every line; is it installed, and is the mode right?")
    return len(records)
