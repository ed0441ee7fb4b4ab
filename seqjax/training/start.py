"""Parameters that a run starts from, taken from another run: in ``start.safetensors`` of its folder.

The config names them ``RUN@0123456789abcdef`` (``train.start``): the run they are from, and the first digits of the
file's sha256. So the run id tells them, and the folder stands alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqjax.config import RunConfig
from seqjax.errors import UserError
from seqjax.host import disk, safetensors

Tree = Any
FILE = "start.safetensors"
DIGITS = 16


def named(params: Tree) -> dict[str, np.ndarray]:
    """The arrays of a tree of parameters by dotted names, on the host."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def encoded(source: str, params: Tree, facts: Mapping[str, str]) -> tuple[str, bytes]:
    """The name of a start for configs, and the contents of its file.

    Args:
        source: the run id, or another name, of what has these parameters.
        facts: texts that the file keeps with them.
    """
    content = safetensors.encoded(named(params), {"source": source, **facts})
    return f"{source}@{hashlib.sha256(content).hexdigest()[:DIGITS]}", content


def write_start(folder: Path, content: bytes) -> None:
    """Keep a start in the folder of a run that has not begun."""
    with disk.storage_errors(folder):
        disk.write_bytes_atomically(folder / FILE, content)


def read_start(folder: Path, config: RunConfig, like: Tree) -> Tree | None:
    """The parameters that a run starts from, numpy arrays; None: they are drawn from its seed.

    Args:
        like: parameters of the run's model, for their names and shapes.
    Raises:
        UserError: the file is missing, is another than the config names, or is of another model.
    """
    if config.train.start is None:
        return None
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: is missing: the run starts from the parameters of {config.train.start}; "
            "seqjax train CONFIG --from RUN puts them there"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
    if found != config.train.start.rpartition("@")[2]:
        raise UserError(f"{path}: its sha256 begins with {found}; train.start names {config.train.start}")
    return fitted(safetensors.read(path)[0], like, str(path))


def fitted(arrays: Mapping[str, np.ndarray], like: Tree, source: str) -> Tree:
    """Named arrays in the form of a tree of parameters.

    Raises:
        UserError: a name or a shape differs; the message begins with `source`.
    """
    wanted = {_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    for name in sorted({*wanted, *arrays}):
        there = list(arrays[name].shape) if name in arrays else "absent"
        here = list(wanted[name]) if name in wanted else "absent"
        if there != here:
            raise UserError(f"{source}: is of another model: the parameter {name} is {there} there and {here} here")
    return jax.tree_util.tree_map_with_path(lambda path, _: np.asarray(arrays[_name(path)], np.float32), like)
