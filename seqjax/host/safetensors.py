"""Files of the format safetensors: named arrays without code, which other programs read too.

A file is the length of its header (8 bytes, little-endian), the header, and the arrays one after the other. The header
is JSON: name -> {"dtype", "shape", "data_offsets"}, and under "__metadata__" texts by name.
Source: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from seqjax.errors import UserError
from seqjax.host import disk

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"{letter.upper()}{8 * size}": np.dtype(f"<{letter}{size}") for letter in "iu" for size in (1, 2, 4, 8)},
    "BOOL": np.dtype(bool),
}
MOST_HEADER = 100_000_000  # bytes, as in the reference implementation


def encoded(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file. Equal arrays and metadata, in any order, give equal bytes."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    parts, end = [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape)}
        header[name]["data_offsets"] = [end, end := end + array.nbytes]
        parts.append(array.tobytes())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all."""
    disk.write_bytes_atomically(path, encoded(arrays, metadata))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, mapped from the disk and read-only, and its metadata.

    Raises:
        UserError: it is missing, or not a whole file of this format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MOST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        body = np.memmap(path, np.uint8, mode="r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)
        return {name: _array(body, **entry) for name, entry in header.items()}, metadata
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is not a whole file of the format safetensors ({error})") from None


def _array(body: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    if not 0 <= begin <= end <= len(body):
        raise ValueError("an array ends after the file")
    return body[begin:end].view(DTYPES[dtype]).reshape(shape)
