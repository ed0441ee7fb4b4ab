"""How a worker is started: with the same seqjax as here, whatever lies in the working directory."""

from __future__ import annotations

import sys
from pathlib import Path

import seqjax

# -P leaves the working directory out of the path. The folder of seqjax is in it only while seqjax is imported:
# whatever else lies there (site-packages, a checkout) must not come before the standard library.
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import seqjax; del sys.path[0]; "
    "from seqjax.sweeps.worker import main; sys.exit(main())"
)


def worker_command(*options: str) -> list[str]:
    """The command line of a worker with these options (see :mod:`seqjax.sweeps.worker`)."""
    return [sys.executable, "-P", "-c", PROGRAM, str(Path(seqjax.__file__).absolute().parent.parent), *options]
