"""Packages that only some commands need: an absent one is named before the work, in one line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from seqjax.errors import UserError

EXTRAS = {"pyarrow": "parquet", "submitit": "slurm", "sacrebleu": "translation", "datasets": "hub", "libtpu": "tpu",
          "jax_cuda13_plugin": "preflight"}  # fmt: skip


def look_for(package: str, what: str) -> None:
    """See that a package is installed, without importing it.

    Args:
        what: the thing that needs it, such as ``BLEU``: the beginning of the message.
    Raises:
        UserError: it is absent.
    """
    if sys.modules.get(package) is None and importlib.util.find_spec(package) is None:
        wanted = f"'seqjax[{EXTRAS[package]}]'" if package in EXTRAS else package
        raise UserError(f"{what} needs {package}: pip install {wanted}")


def need(package: str, what: str) -> ModuleType:
    """The package, imported.

    Raises:
        UserError: it is absent, or it is there and cannot be imported.
    """
    look_for(package, what)
    try:
        return importlib.import_module(package)
    except Exception as error:  # built for another numpy, a shared library that is not there, ...
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"{what} needs {package}, which is installed and cannot be imported ({type(error).__name__}: {reason}): "
            "install it anew"
        ) from None


def need_parquet(places: Iterable[Path]) -> None:
    """See that tables that end in ``.parquet`` can be read, before the first of several is."""
    for place in places:
        if place.suffix.lower() == ".parquet" and not place.is_dir():
            need("pyarrow", f"{place}: parquet")
