"""A signal in an evaluation ends it before its next batch; the resumed run ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from quick import slow
from same_run import assert_same_run

from seqjax import runs
from seqjax.host.stopping import Interrupted
from seqjax.tasks import text_evaluation as evaluation
from seqjax.training.loop import train, train_bundle


class Signalled:
    """Sends a signal to this process within a certain batch of evaluation, and counts the batches."""

    def __init__(self, at: int, patch: pytest.MonkeyPatch) -> None:
        self.seen = 0
        real = evaluation.gather_windows

        def gather(*arguments: Any) -> Any:
            self.seen += 1
            if self.seen == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*arguments)

        patch.setattr(evaluation, "gather_windows", gather)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


# evaluations at 8 and 16, at the end on as many windows (two batches each), and the last one on 64 windows
@pytest.mark.parametrize(("batch", "step"), [(1, 8), slow(3, 16), slow(5, 20), (8, 20)])
def test_it_ends_before_the_next_batch(
    batch: int, step: int, whole: Path, make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("gru", **{"evaluation.every": 8, "train.checkpoint_every": 20})
    train(config, whole, devices=1, quiet=True)
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
        signalled = Signalled(batch, patch)
        train(config, tmp_path / "cut", devices=1, quiet=True)
    assert (signalled.seen, stopped.value.step, stopped.value.signal_number) == (batch, step, signal.SIGTERM)
    assert (tmp_path / "cut" / "checkpoints" / str(step)).is_dir()
    assert runs.read_result(tmp_path / "cut") is None
    train(config, tmp_path / "cut", devices=1, quiet=True)
    assert_same_run(config, whole, tmp_path / "cut")


@pytest.mark.slow
def test_a_bundle_on_streams_is_stopped_so_too(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"data.batching": "streams", "evaluation.every": 8, "train.checkpoint_every": 20}
    configs = [make_config("gru", **changes, **{"train.seed": seed}) for seed in (0, 1)]
    train_bundle([(c, tmp_path / f"whole{i}") for i, c in enumerate(configs)], devices=1, quiet=True)
    cut = [(c, tmp_path / f"cut{i}") for i, c in enumerate(configs)]
    real, asked = evaluation.stream_batch, []

    def batch(*arguments: Any) -> Any:
        asked.append(os.kill(os.getpid(), signal.SIGINT))
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="step 8"):
        patch.setattr(evaluation, "stream_batch", batch)
        train_bundle(cut, devices=1, quiet=True)
    assert len(asked) <= 2  # a batch is made before it is asked for
    train_bundle(cut, devices=1, quiet=True)
    for lane, config in enumerate(configs):
        assert_same_run(config, tmp_path / f"whole{lane}", tmp_path / f"cut{lane}")
