"""16-bit products on a part of a card are refused: there they come out wrong."""

from types import SimpleNamespace

import pytest

from seqjax.errors import UserError
from seqjax.training import hardware, loop

CARD, PROCESSOR = SimpleNamespace(platform="gpu"), SimpleNamespace(platform="cpu")


@pytest.mark.parametrize(
    ("device", "dtype", "share", "refused"),
    [
        (CARD, "bfloat16", "60", True),
        (CARD, "bfloat16", " 99.5 ", True),
        (CARD, "bfloat16", "100", False),
        (CARD, "bfloat16", None, False),
        (CARD, "float32", "60", False),
        (PROCESSOR, "bfloat16", "60", False),
    ],
)
def test_a_part_of_a_card_is_refused_for_16_bits(monkeypatch, device, dtype, share, refused):
    monkeypatch.delenv(hardware.SHARE, raising=False)
    if share is not None:
        monkeypatch.setenv(hardware.SHARE, share)
    if refused:
        with pytest.raises(UserError, match=f"{hardware.SHARE}={share.strip()}: .*float32"):
            hardware.refuse_share(device, dtype)
    else:
        hardware.refuse_share(device, dtype)


def test_training_asks(monkeypatch, make_config, tmp_path):
    monkeypatch.setenv(hardware.SHARE, "60")
    monkeypatch.setattr(loop, "present_devices", lambda: [CARD])
    with pytest.raises(UserError, match=hardware.SHARE):
        loop.train(make_config("lstm", **{"train.compute_dtype": "bfloat16"}), tmp_path / "run")
