"""wandb as a mirror of metrics.jsonl: it may be absent, offline or broken, and the run never notices."""

from __future__ import annotations

import contextlib
import netrc
import os
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seqjax import disk, runs
from seqjax.config import Config, run_id, to_dict
from seqjax.errors import UserError

MODES = ("online", "offline", "disabled")
CONNECT_SECONDS = 30
FINISH_SECONDS = 60


class Mirror:
    """A mirror that shows nothing; also what is left of a real one after its first error."""

    def log(self, record: dict[str, Any]) -> None:
        """Mirror one line of metrics.jsonl."""

    def finish(self, result: dict[str, Any]) -> None:
        """Mirror result.json and end."""


class _Wandb(Mirror):
    def __init__(
        self, config: Config, folder: Path, mode: str, say: Callable[[str], None], token: str, name: str | None = None
    ) -> None:
        self._say = say
        self._run: Any = None
        with self._guard():
            import wandb

            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "seqjax"),
                id=f"{run_id(config)}-{token}",
                name=name or run_id(config),
                group=folder.resolve().parent.name,
                job_type=config.model.family,
                config=to_dict(config),
                mode=mode,
                dir=str(folder),
                resume="allow",
                reinit="create_new",  # the lanes of a bundle are runs side by side
                settings=wandb.Settings(silent=True, console="off", init_timeout=CONNECT_SECONDS),
            )
            self._run.define_metric("*", step_metric="tokens")

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Whatever wandb raises is said once; from then on the mirror shows nothing."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            self._say(
                f"wandb stopped mirroring ({type(error).__name__}: {reason}); the run goes on, and "
                "`seqjax export-wandb` replays it later"
            )
            self._run = None

    def works(self) -> bool:
        """Whether everything so far was taken."""
        return self._run is not None

    def log(self, record: dict[str, Any]) -> None:
        if self._run is not None:
            with self._guard():
                self._run.log(record)

    def finish(self, result: dict[str, Any]) -> None:
        if self._run is None:
            return
        run, self._run = self._run, None

        def end() -> None:
            with self._guard():
                run.summary.update(result)
                run.finish()

        # wandb may wait for a network that does not come back; our own files are complete by now
        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        thread.join(FINISH_SECONDS)


def choose_mode(flag: str | None) -> str:
    """The flag, then WANDB_MODE, then online only where a key exists, else offline.

    Raises:
        UserError: a mode that is none.
    """
    mode = flag or os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    if mode not in MODES:
        raise UserError(f"wandb mode {mode!r} is not allowed; allowed: {', '.join(MODES)}")
    return mode


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return any("wandb" in host for host in netrc.netrc().hosts)
    return False


@contextlib.contextmanager
def open_mirror(
    config: Config, folder: Path, flag: str | None, say: Callable[[str], None], name: str | None = None
) -> Iterator[Mirror]:
    """A mirror for one run on the process that leads, in the group of its parent folder; ``disabled`` imports nothing.

    ``name`` is what wandb shows; None: the run id.
    """
    import jax

    mode = choose_mode(flag)
    if mode == "disabled" or jax.process_index():
        yield Mirror()
        return
    if mode == "online" and not _has_key():
        say("wandb has no key here, so it is mirrored offline (`wandb login`, or set WANDB_API_KEY)")
        mode = "offline"
    if mode == "online":
        say(f"connecting to wandb (at most {CONNECT_SECONDS} s)")
    mirror = _Wandb(config, folder, mode, say, _token(folder), name)
    try:
        yield mirror
    finally:
        mirror.finish({})


def _token(folder: Path) -> str:
    """Tells run folders of one config apart in wandb, and stays with the folder when the run is resumed."""
    path = folder / "wandb-token.txt"
    if not path.is_file():
        disk.write_atomically(path, secrets.token_hex(4))
    return path.read_text()


def export(folder: Path, flag: str | None, say: Callable[[str], None]) -> int:
    """Replay a run's metrics.jsonl and result.json into a wandb run; return the number of lines."""
    config = runs.read_config(folder)
    records = runs.read_metrics(folder)
    mode = choose_mode(flag)
    if mode == "disabled":
        raise UserError("wandb is disabled (--wandb or WANDB_MODE), so nothing can be replayed into it")
    mirror = _Wandb(config, folder, mode, say, secrets.token_hex(4))
    for record in records:
        mirror.log(record)
    if not mirror.works():
        raise UserError(f"{folder}: wandb did not take every line; is it installed, and is the mode right?")
    mirror.finish(runs.read_result(folder) or {})
    return len(records)
