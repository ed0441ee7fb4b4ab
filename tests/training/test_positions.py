"""Loss by position on chains of windows, of a trained run."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

import seqjax
from seqjax.config import run_id
from seqjax.errors import UserError
from seqjax.models import build_model
from seqjax.trained.by_position import FILE, measure_positions, read_positions
from seqjax.trained.chains import Chains
from seqjax.training.loop import train


@pytest.mark.parametrize("family", ["lstm", "transformer"])
def test_they_are_the_losses_of_the_model_on_each_window(family, make_config, tmp_path):
    config = make_config(family, **{"train.steps": 3, "train.context_length": 16})
    folder = tmp_path / run_id(config)
    train(config, folder, devices=1, wandb_mode="disabled", quiet=True)
    chains = Chains(16, 4, 2, 5, (3, 6), (11, 14))
    measure_positions(folder, chains, batch_size=3)
    loss_CxWxT, short_CxWxT = read_positions(folder, chains)
    assert loss_CxWxT.shape == (2, 5, 16)
    run = seqjax.open(folder)
    tokens, params = np.asarray(run.data.shard("validation").tokens), run.params
    apply = jax.jit(build_model(config.model, 257, 16).apply)
    for chain, window in ((0, 0), (1, 4)):
        start = chains.starts(len(tokens))[chain, window]
        logits_TxV = apply({"params": params}, tokens[None, start : start + 16].astype(np.int32))[0][0]
        want_T = -jax.nn.log_softmax(logits_TxV)[np.arange(16), tokens[start + 1 : start + 17]]
        np.testing.assert_allclose(loss_CxWxT[chain, window], want_T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(short_CxWxT[:, 0], loss_CxWxT[:, 0], rtol=1e-4, atol=1e-4)  # a context within 32 tokens
    before = (folder / FILE).stat().st_mtime_ns
    measure_positions(folder, chains)
    assert (folder / FILE).stat().st_mtime_ns == before
    assert read_positions(folder, Chains(16, 4, 2, 4)) is None
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "ended": "later"}))  # trained once more
    assert read_positions(folder, chains) is None
    (folder / FILE).write_bytes(b"PK")
    assert read_positions(folder, chains) is None


def test_a_run_without_its_last_checkpoint_is_not_measured(make_config, tmp_path):
    config = make_config("lstm", **{"train.steps": 4, "train.checkpoint_every": 2})
    folder = tmp_path / run_id(config)
    train(config, folder, devices=1, wandb_mode="disabled", quiet=True)
    shutil.rmtree(folder / "checkpoints" / "4")
    with pytest.raises(UserError, match="its last whole checkpoint is of step 2, not 4"):
        measure_positions(folder, Chains(config.train.context_length, 4, 2, 2))
