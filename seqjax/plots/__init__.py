"""Figures and reports, and their style.

matplotlib is imported here first, without the user's ``matplotlibrc`` and ``MPLBACKEND``: both would change figures,
and a broken one would stop the import.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path


def _import_matplotlib() -> None:
    """Import it in the folder of its default ``matplotlibrc``, since it reads the one of the working folder."""
    package = importlib.util.find_spec("matplotlib")
    if package is None or "matplotlib" in sys.modules:
        return
    here, backend = os.open(".", os.O_RDONLY), os.environ.pop("MPLBACKEND", None)
    try:
        os.chdir(Path(package.submodule_search_locations[0]) / "mpl-data")
        importlib.import_module("matplotlib")
    finally:
        os.fchdir(here)
        os.close(here)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


_import_matplotlib()
