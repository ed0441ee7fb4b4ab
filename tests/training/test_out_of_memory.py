"""Memory that runs out: one line with the keys to change, and the last checkpoint stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jax.errors import JaxRuntimeError

from seqjax import runs
from seqjax.cli import main
from seqjax.host.out_of_memory import OutOfMemory
from seqjax.sweeps import worker
from seqjax.training import bundle
from seqjax.training.bundle import Bundle
from seqjax.training.loop import train

ASKED = JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\nmore\n")


def has_no_room(patch: pytest.MonkeyPatch, where: str, call: int, error: Exception) -> None:
    """The call of that number of the bundle's method raises the error; a call from then on."""
    real, calls = getattr(Bundle, where), []

    def fails(*arguments: Any, **how: Any) -> Any:
        calls.append(None)
        if len(calls) >= call:
            raise error
        return real(*arguments, **how)

    patch.setattr(Bundle, where, fails)


@pytest.mark.parametrize("error", [ASKED, MemoryError()], ids=["XLA", "Python"])
def test_the_keys_are_named_and_the_checkpoint_stays(
    error: Exception, make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A step does not fit, later the evaluation at step 10 does not; a state is saved before it is evaluated."""
    config, folder = make_config("window"), tmp_path / "run"
    with monkeypatch.context() as patch:
        has_no_room(patch, "schedule", 2, error)
        advice = r"raise train\.accumulation \(now 1\), or lower train\.batch_size \(now"
        with pytest.raises(OutOfMemory, match=advice) as refused:
            train(config, folder, devices=2, quiet=True)
        assert "or turn on train.remat (now False), or raise train.mesh.fsdp (now 1), or take" in str(refused.value)
    with monkeypatch.context() as patch:
        program = bundle.make_bundle

        def make(*arguments: Any, **how: Any) -> Any:
            made = program(*arguments, **how)

            def score(*_: Any) -> Any:
                raise error

            return replace(made, score=score)

        patch.setattr(bundle, "make_bundle", make)
        assert main(["train", str(folder), "--quiet", "--wandb", "disabled"]) == 2
    told = capsys.readouterr().err
    assert "out of memory" in told and "lower evaluation.batch_size (now 16)" in told
    assert told.endswith("the checkpoint of step 10 is kept\n") and "Traceback" not in told
    assert runs.read_result(folder) is None and (folder / "checkpoints" / "10").is_dir()
    assert train(config, folder, devices=1, quiet=True)["status"] == "finished"


def test_other_errors_are_not_taken_for_it(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_no_room(monkeypatch, "schedule", 1, RuntimeError("other"))
    with pytest.raises(RuntimeError, match=r"^other$"):
        train(make_config("window"), tmp_path / "run", devices=1, quiet=True)


def test_a_worker_of_a_sweep_gives_the_reason_and_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ``user``: another run beside it may have had the memory."""
    for error, reason in ((OutOfMemory("run: out of memory"), "run: out of memory"),
                          (ASKED, "out of memory (Out of memory allocating 123 bytes)")):  # fmt: skip

        def fails(request: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(worker, "_train", fails)
        assert worker._serve({"train": []}) == {"outcome": "error", "reason": reason}
