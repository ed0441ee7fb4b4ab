"""Driving recordings: what is read is what was written, and every mistake in a log folder is named with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqjax.data.driving import COLUMNS, load_log, load_recording
from seqjax.errors import UserError

Image = pytest.importorskip("PIL.Image", reason="images need Pillow")
Log = Callable[..., Path]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log folder of five grey images; ``rows`` by line number (from 1) replace what stands there."""

    def make(size: tuple[int, int] = (320, 160), rows: dict[int, str] | None = None) -> Path:
        (tmp_path / "IMG").mkdir()
        lines = []
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0]), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "IMG" / f"center_{i}.png")
            lines.append(rf"C:\Users\me\IMG\center_{i}.png, C:\l.png, C:\r.png, {-0.1 * i:.2f}, 0.5, 0, {3 * i}")
        for line, row in (rows or {}).items():
            lines[line - 1] = row
        (tmp_path / "driving_log.csv").write_text("\n".join(lines) + "\n")
        return tmp_path

    return make


def shrink(pixels_YxX: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over rectangles of the image, pixels on an edge counted by the part inside, in float64."""

    def weights(n_in: int, n_out: int) -> np.ndarray:
        found = np.zeros((n_out, n_in))
        for i in range(n_out):
            low, high = i * n_in / n_out, (i + 1) * n_in / n_out
            for j in range(n_in):
                found[i, j] = max(0.0, min(high, j + 1) - max(low, j))
        return found / found.sum(axis=1, keepdims=True)

    return weights(len(pixels_YxX), height) @ pixels_YxX.astype(float) @ weights(pixels_YxX.shape[1], width).T


def test_a_log_folder_is_read_whatever_machine_wrote_its_paths(log: Log) -> None:
    drive = load_log(log())
    assert drive.frames_TxYxX.shape == (5, 32, 64) and drive.frames_TxYxX.dtype == np.uint8
    np.testing.assert_allclose(drive.steer_T, [0, -0.1, -0.2, -0.3, -0.4], atol=1e-7)
    np.testing.assert_array_equal(drive.speed_T, [0, 3, 6, 9, 12])
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (160, 320), np.uint8)
        box = shrink(pixels[60:135], 32, 64)
        # Pillow takes a pixel whole or not at all, so that with 75 rows for 32 its means differ by half a row.
        assert np.corrcoef(box.ravel(), drive.frames_TxYxX[i].ravel())[0, 1] > 0.85
        assert abs(box.mean() - drive.frames_TxYxX[i].mean()) < 1.5


def test_rows_of_the_road_are_cropped_and_averaged(log: Log) -> None:
    """Of an image whose row i is of grey i, row j shows the middle of rows 60 + 75 j / 32 to 60 + 75 (j + 1) / 32."""
    folder = log()
    gradient = np.repeat(np.arange(160, dtype=np.uint8)[:, None], 320, axis=1)
    for i in range(5):
        Image.fromarray(gradient).save(folder / "IMG" / f"center_{i}.png")
    frame_YxX = load_log(folder).frames_TxYxX[0]
    assert (frame_YxX == frame_YxX[:, :1]).all()
    np.testing.assert_allclose(frame_YxX[:, 0], 60 + 75 / 32 * (np.arange(32) + 0.5) - 0.5, atol=1.0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("IMG/center_9.png,l,r,0,0,0,1", ("driving_log.csv:3: image", "center_9.png is missing", "did you mean")),
        ("IMG/center_2.png,l,r,0,0,1", ("driving_log.csv:3: 6 columns; expected 7", ", ".join(COLUMNS))),
        ("IMG/center_2.png,l,r,left,0,0,1", ("driving_log.csv:3: steering: expected a number, got 'left'",)),
        ("IMG/center_2.png,l,r,nan,0,0,1", ("driving_log.csv:3: steering: expected a finite number, got 'nan'",)),
        ("IMG/center_2.png,l,r,0,0,0,inf", ("driving_log.csv:3: speed: expected a finite number",)),
    ],
)
def test_mistakes_in_a_row_are_named(log: Log, row: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load_log(log(rows={3: row}))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_frames_of_another_size_are_named_with_both_sizes(log: Log) -> None:
    folder = log()
    Image.new("L", (200, 100)).save(folder / "IMG" / "center_3.png")
    with pytest.raises(UserError, match=r"csv:4: .*center_3.png has 200x100 pixels, but .*center_0.png has 320x160"):
        load_log(folder)


def test_an_image_that_is_none_is_named(log: Log) -> None:
    folder = log()
    (folder / "IMG" / "center_1.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"csv:2: image .*center_1.png cannot be read"):
        load_log(folder)


def test_logs_that_are_absent_or_empty(tmp_path: Path) -> None:
    (tmp_path / "drivinglog.csv").write_text("")
    with pytest.raises(UserError, match=r"driving_log.csv: no such log; found drivinglog.csv; did you mean"):
        load_log(tmp_path)
    (tmp_path / "driving_log.csv").write_text("\n")
    with pytest.raises(UserError, match="holds no rows"):
        load_log(tmp_path)


def test_an_absent_recording_says_what_can_be_had_instead(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"driving.npz: absent; .*no public address.*SEQJAX_DATA.*log folder.*road"):
        load_recording(tmp_path)


def test_a_recording_must_be_one(tmp_path: Path) -> None:
    frames, controls = np.zeros((3, 32, 64), np.uint8), np.zeros((3, 4), np.float32)
    np.savez(tmp_path / "driving.npz", frames=frames)
    with pytest.raises(UserError, match="not an archive with frames and controls"):
        load_recording(tmp_path)
    np.savez(tmp_path / "driving.npz", frames=frames, controls=controls[:2])
    with pytest.raises(UserError, match=r"controls \[2, 4\]; expected"):
        load_recording(tmp_path)
    controls[1, 0] = np.nan
    np.savez(tmp_path / "driving.npz", frames=frames, controls=controls)
    with pytest.raises(UserError, match="controls of frame 1 are not finite"):
        load_recording(tmp_path)


def test_the_recording_has_its_known_floors(shared_data: Path) -> None:
    if not (shared_data / "driving.npz").is_file():
        pytest.skip("driving.npz is absent")
    drive = load_recording(shared_data)
    assert drive.frames_TxYxX.shape == (4053, 32, 64)
    assert drive.steer_T.var() == pytest.approx(0.0363, abs=5e-5)
    assert (np.diff(drive.steer_T) ** 2).mean() == pytest.approx(0.00784, abs=5e-6)
    assert (drive.steer_T == 0).mean() == pytest.approx(0.72, abs=5e-3)
