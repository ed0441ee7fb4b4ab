"""Names of accelerators, and what is known of them."""

from __future__ import annotations

import pytest

from seqjax.errors import UserError
from seqjax.preflight.accelerators import CARDS, GIB, SLICES, target_named


@pytest.mark.parametrize(
    ("name", "platform", "topology", "devices"),
    [
        ("h100", "cuda", "1x1x1", 1),
        ("8xh100", "cuda", "1x1x8", 8),
        ("256xH100", "cuda", "1x32x8", 256),
        ("v5e-4", "tpu", "v5e:2x2", 4),
        ("v5e-256", "tpu", "v5e:16x16", 256),
        ("v5p-8", "tpu", "v5p:2x2x1", 4),  # named by TensorCores, two a chip
        ("v6e-8", "tpu", "v6e:2x4", 8),
    ],
)
def test_a_name_is_a_number_of_devices(name: str, platform: str, topology: str, devices: int) -> None:
    found = target_named(name)
    assert (found.platform, found.topology, found.devices) == (platform, topology, devices)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h10", "--on h10: expected a100, .* did you mean 'h100'"),
        ("v5e-5", "--on v5e-5: there is no such slice; expected v5e-4, v5e-8"),
        ("v5e", "there is no such slice"),
        ("4xv5e-4", "expected a100"),
        ("12xh100", "up to 8 cards, or whole hosts"),
        ("0xh100", "up to 8 cards"),
        ("", "expected a100"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        target_named(name)


def test_numbers_are_of_the_right_size() -> None:
    """Of a slip of the keyboard: a factor of ten in any number would move one of these ratios out of its range."""
    for chip in (*CARDS.values(), *(chip for chip, _ in SLICES.values())):
        assert 100 < chip.peak / chip.bandwidth < 700  # FLOPs a byte
        assert 2 < chip.bandwidth / chip.link < 12
        assert 0.01 < chip.memory / chip.bandwidth < 0.05  # seconds to read all of it
        assert 15 * GIB < chip.memory < 200 * GIB
        assert chip.peak_float32 in (chip.peak, pytest.approx(chip.peak / 2, rel=0.03))
