"""Frames of a road and the steering of the car: a packed recording, or the log folder of a driving simulator.

The recording `driving.npz` has no licence and no public address with a digest, so it is never downloaded. A log folder
has the format of Udacity's simulator: `driving_log.csv` without header

    centre image, left image, right image, steering, throttle, brake, speed

and the images beside it in IMG/. The CSV often holds paths of another machine, with backslashes: only the file's name
is used. Steering lies in [-1, 1], negative to the left.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.text import lines_of
from seqjax.errors import UserError, did_you_mean
from seqjax.host.pointers import refuse_pointer_file

FILE = "driving.npz"
LOG = "driving_log.csv"
COLUMNS = ("centre", "left", "right", "steering", "throttle", "brake", "speed")
HEIGHT, WIDTH = 32, 64
CROP = (60 / 160, 135 / 160)
"""Rows of a camera image that show the road: 60 to 134 of 160, below the horizon and above the bonnet."""


class Drive(NamedTuple):
    """A recording, frame by frame.

    Attributes:
        frames_TxYxX: uint8, grey.
        steer_T: float32, the steering at the time of the frame.
        speed_T: float32, in the units of the source.
        source: for messages.
    """

    frames_TxYxX: np.ndarray
    steer_T: np.ndarray
    speed_T: np.ndarray
    source: str


def load_recording(folder: Path) -> Drive:
    """The packed recording `driving.npz`: "frames" uint8 [T, 32, 64] and "controls" [T, 4], steering first, speed last.

    Raises:
        UserError: the file is missing, has another format, or holds a control that is not finite.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: absent; this recording has no public address to fetch it from: put it there (SEQJAX_DATA names "
            f"the folder), or give the log folder of a simulator, or use the built-in road (--data road)"
        )
    refuse_pointer_file(path)
    try:
        with np.load(path) as archive:
            frames, controls = archive["frames"], archive["controls"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not an archive with frames and controls: {error}") from None
    if frames.dtype != np.uint8 or frames.ndim != 3 or controls.shape != (len(frames), 4):
        raise UserError(
            f"{path}: frames are {frames.dtype} {list(frames.shape)} and controls {list(controls.shape)}; expected "
            f"uint8 [T, Y, X] and [T, 4]"
        )
    if not np.isfinite(controls).all():
        row = int(np.argwhere(~np.isfinite(controls))[0][0])
        raise UserError(f"{path}: controls of frame {row} are not finite")
    return Drive(frames, controls[:, 0].astype(np.float32), controls[:, 3].astype(np.float32), str(path))


def load_log(folder: Path) -> Drive:
    """A simulator's log folder: the centre camera's images, grey, cropped to the road, resized to 32 x 64.

    Raises:
        UserError: no log or no images; a row with another number of columns; a number that is malformed or not finite;
            an image that is missing, unreadable, or of another size than the first. Rows are named file:line.
    """
    path = folder / LOG
    if not path.is_file():
        near = [p.name for p in folder.glob("*.csv")] if folder.is_dir() else []
        found = f"; found {', '.join(sorted(near)[:5])}" if near else ""
        raise UserError(f"{path}: no such log{found}{did_you_mean(LOG, near)}")
    frames, steer, speed, first = [], [], [], None
    rows = csv.reader(lines_of(path.read_bytes(), str(path)))
    for row in rows:
        if row:
            place = f"{path}:{rows.line_num}"
            if len(row) != len(COLUMNS):
                raise UserError(f"{place}: {len(row)} columns; expected {len(COLUMNS)}: {', '.join(COLUMNS)}")
            steer.append(_number(row[3], "steering", place))
            speed.append(_number(row[6], "speed", place))
            image_path = folder / "IMG" / PureWindowsPath(row[0].strip()).name
            image = _open_image(image_path, place)
            first = first or (image_path, image.size)
            if image.size != first[1]:
                raise UserError(
                    f"{place}: {image_path} has {_size(image.size)} pixels, but {first[0]} has {_size(first[1])}"
                )
            frames.append(prepare(image))
    if not frames:
        raise UserError(f"{path}: holds no rows")
    return Drive(np.stack(frames), np.array(steer, np.float32), np.array(speed, np.float32), str(folder))


def prepare(image: Any) -> np.ndarray:
    """A camera image (PIL) as uint8 [32, 64]: grey, cropped to the rows of the road, resized with a box filter."""
    from PIL import Image

    width, height = image.size
    box = (0, round(CROP[0] * height), width, round(CROP[1] * height))
    return np.asarray(image.convert("L").crop(box).resize((WIDTH, HEIGHT), Image.Resampling.BOX), np.uint8)


def _open_image(path: Path, place: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise UserError(
            "images of a log folder are read by Pillow, which is not installed: pip install pillow"
        ) from None
    refuse_pointer_file(path)
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{place}: image {path} is missing{did_you_mean(path.name, siblings)}") from None
    except OSError as error:
        raise UserError(f"{place}: image {path} cannot be read: {error}") from None
    return image


def _number(text: str, name: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{place}: {name}: expected a number, got {text!r}") from None
    if not math.isfinite(value):
        raise UserError(f"{place}: {name}: expected a finite number, got {text.strip()!r}")
    return value


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
