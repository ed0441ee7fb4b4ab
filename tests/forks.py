"""A program that starts `seqjax` commands as its children, so that a test imports JAX once for all of them.

It reads a line of JSON for each child: {"words": [...], "log": path, "signal": [step, number] or null}; a child sends
itself the signal where it makes the batch of that step. It answers with the child's pid. {"wait": pid} is answered with
its exit code, negative for a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS = " --xla_force_host_platform_device_count=4"
"""Children have four devices."""


@contextmanager
def started() -> Iterator[Popen[str]]:
    """The program; its children end with it at the latest."""
    environment = {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"] + FLAGS}
    command = [sys.executable, __file__]
    program = Popen(command, stdin=PIPE, stdout=PIPE, text=True, start_new_session=True, env=environment)
    try:
        yield program
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def ask(program: Popen[str], **words: Any) -> int:
    """One question and its answer."""
    assert program.stdin is not None and program.stdout is not None
    program.stdin.write(json.dumps(words) + "\n")
    program.stdin.flush()
    return int(program.stdout.readline())


def _child(words: list[str], log: str, at: list[int] | None) -> None:
    """Run the command in this process, which ends with its exit code."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    if at is not None:
        from seqjax.tasks import text

        real = text.batch_at

        def batch_at(config: Any, shard: Any, step: int, *rows: Any, **more: Any) -> Any:
            if step == at[0]:
                os.kill(os.getpid(), at[1])
            return real(config, shard, step, *rows, **more)

        text.batch_at = batch_at
    from seqjax.cli import main

    sys.exit(main(words))


def _serve() -> None:
    import seqjax.commands.train
    import seqjax.training.loop  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            hang = threading.Timer(240, os._exit, (99,))  # fails the test
            hang.daemon = True
            hang.start()
            _child(asked["words"], asked["log"], asked["signal"])


if __name__ == "__main__":
    _serve()
