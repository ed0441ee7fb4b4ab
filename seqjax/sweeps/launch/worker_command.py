"""The command line of a worker: it imports the same seqjax as this process, not one of the working directory."""

from __future__ import annotations

import sys
from pathlib import Path

import seqjax

# -P leaves the working directory out of the path. The folder of seqjax is in the path only during the import of seqjax:
# its other contents (site-packages, a checkout) must not come before the standard library.
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import seqjax; del sys.path[0]; "
    "from seqjax.sweeps.worker import main; sys.exit(main())"
)


def worker_command(*options: str) -> list[str]:
    """The command line of a worker with these options (see :mod:`seqjax.sweeps.worker`)."""
    return [sys.executable, "-P", "-c", PROGRAM, str(Path(seqjax.__file__).absolute().parent.parent), *options]
