"""`seqjax watch`: a page in the browser with live curves of all runs of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import whole
from seqjax.errors import UserError

PORT = 8642
EXPLAINED = """
The page is read from the files of the runs every few seconds: learning curves, loss against learning rate, loss against
parameters. It is served on this machine alone, to those who have its address. For runs on another machine, start it
there, and on yours: ssh -L 8642:127.0.0.1:8642 MACHINE
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "watch",
        """
        seqjax watch runs
        seqjax watch runs/first --port 9000
        """,
        explained=EXPLAINED,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run, a sweep, or a folder of them")
    parser.add_argument("--port", type=whole(0, 65535), help=f"port of 127.0.0.1; 0: any [{PORT}, else any]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the address, and serve until Ctrl-C."""
    shared.no_more(rest)
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: there is no such folder")
    server = _server(options.folder, options.port)
    print(f"{server.address}\nCtrl-C ends", flush=True)
    with server:
        server.serve_forever()
    return 0


def _server(folder: Path, port: int | None) -> Any:
    from seqjax.commands.sweep import stay_off_accelerators
    from seqjax.sweeps.serving import Server

    stay_off_accelerators()  # parameters are counted by JAX
    if port is not None:
        return Server(folder, port)
    try:
        return Server(folder, PORT)
    except UserError:  # another page is shown there
        return Server(folder, 0)
