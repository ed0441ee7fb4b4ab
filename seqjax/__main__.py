"""`python -m seqjax` is the `seqjax` command."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory: a queue.py there would hide the standard library's

    from seqjax.cli import main

    sys.exit(main())
