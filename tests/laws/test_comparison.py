"""Chains of windows, and models compared on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import as_published, difficulty, runs, world

from seqjax.comparison.measured import compare, load, save
from seqjax.comparison.verdicts import leads
from seqjax.errors import UserError
from seqjax.laws.position import power_law
from seqjax.trained.chains import Chains, make_chains


@pytest.mark.parametrize(("context", "characters"), [(1024, 4.3), (512, 2.05), (512, 2.53), (1024, 2.9), (300, 4.0)])
def test_the_late_tokens_of_a_window_are_the_early_tokens_of_a_later_one(context, characters):
    chains = make_chains(context, characters, 3, 6)
    starts_CxW = chains.starts(10**5)
    token_CxWxT = starts_CxW[:, :, None] + np.arange(1, context + 1)
    early_Cx2 = chains.early_and_late(token_CxWxT.astype(float))
    assert (early_Cx2[:, 0] == early_Cx2[:, 1]).all()
    assert chains.early[1] <= chains.late[0] and chains.late[1] <= context
    assert chains.late[1] > context - chains.stride
    assert chains.early[0] * characters == pytest.approx(430, abs=characters)


def test_chains_share_no_token_and_stay_inside_the_text():
    chains = make_chains(512, 2.05, 28, 16)
    starts_CxW = chains.starts(282_176)
    assert starts_CxW.min() == 0
    assert starts_CxW.max() + 512 < 282_176
    assert (starts_CxW[1:, 0] > starts_CxW[:-1, -1] + 512).all()


def test_too_short_a_text_is_told():
    with pytest.raises(UserError, match="too few for 28 chains"):
        make_chains(512, 2.05, 28, 16).starts(10_000)


def test_bins_end_at_powers_of_two_and_cover_every_position_once():
    *bins, whole = Chains(512, 128, 2, 2).bins()
    assert {2**k for k in range(10)} <= {last for _, last in bins}
    assert [p for first, last in bins for p in range(first, last + 1)] == list(range(1, 513))
    assert whole == (1, 512)


def test_bins_hold_means_and_end_with_a_shorter_context():
    chains = Chains(64, 16, 2, 3)
    rng = np.random.default_rng(0)
    loss_CxWxT, short_CxWxT = rng.standard_normal((2, 3, 64)), rng.standard_normal((2, 5, 32))
    found = chains.binned(loss_CxWxT, short_CxWxT)
    for place, (first, last) in enumerate(chains.bins()):
        losses = short_CxWxT if last <= 32 else loss_CxWxT
        np.testing.assert_allclose(found[:, place], losses[:, :, first - 1 : last].mean(axis=(1, 2)))
    short = chains.binned(loss_CxWxT[:, :, :8], short_CxWxT[:, :, :8])
    known = [last <= 8 for _, last in chains.bins()]
    np.testing.assert_array_equal(np.isfinite(short).all(axis=0), known)
    np.testing.assert_array_equal(short[:, known], found[:, known])


def test_short_windows_lie_within_their_chain():
    chains = make_chains(512, 2.05, 28, 16)
    starts, short = chains.starts(282_176), chains.short_starts(282_176)
    assert (short[:, 0] == starts[:, 0]).all()
    assert (short[:, -1] + 32 <= starts[:, -1] + 512).all()
    assert (np.diff(short, axis=1) == 16).all()


def test_the_first_sample_is_what_was_measured():
    c = world(noise=0.05)
    model = c.best("transformer", 3)
    runs_of = [run for run in runs(as_published, c.chains, 0.05, 0.05, 2, 1e8, (1e6, 1e7, 1e8, 1e9), True)
               if run.run_id in c.models[model].run_ids]  # fmt: skip
    assert len(runs_of) == 2
    np.testing.assert_allclose(c.loss_SxMxP[0, model], np.mean([run.loss_CxP.mean(axis=0) for run in runs_of], axis=0))


def test_draws_spread_as_seeds_and_text_do():
    """Standard errors: of the text over 20 chains, shared by all models; of seeds 0.05 / sqrt(2), of each alone."""
    c = world(noise=0.05, draws=4000)
    means_RxM = c.mean_SxM[1:, :6]
    assert (means_RxM[:, 0] - means_RxM[:, 5]).std() == pytest.approx(0.05, rel=0.3)  # sqrt(2) * 0.05 / sqrt(2)
    text = difficulty(c.chains, 0.05)[0].mean(axis=(1, 2))
    assert means_RxM[:, 0].std() == pytest.approx(np.sqrt(text.var(ddof=1) / 20 + 0.05**2 / 2), rel=0.2)


def test_intervals_of_few_seeds_hold_the_truth():
    """Two seeds of two models: the noise is that of 2 degrees of freedom, and Student's factor is 2.2."""
    chains = make_chains(64, 2.0, 8, 4)
    (run,) = runs(as_published, chains, 0.0, 0.0, 1, 1e8, (1e6,), False)[:1]
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        noise = rng.standard_normal((2, 2))
        seen = [
            replace(run, family=family, form="", seed=seed, run_id=f"{family} {seed}",
                    loss_CxP=run.loss_CxP + noise[i, seed])
            for i, family in enumerate(("lstm", "gru")) for seed in (0, 1)
        ]  # fmt: skip
        c = compare(seen, chains, 4.3, 400)
        _, low, high = c.interval(c.mean_SxM[:, 0] - c.mean_SxM[:, 1])
        held += low <= 0 <= high
    assert 0.9 <= held / 300 <= 0.99


def test_one_seed_leaves_no_noise_of_seeds():
    c = world(noise=0.05, seeds=1)
    assert c.seeds == 1
    assert (c.mean_SxM[1:, 0] - c.mean_SxM[1:, 1]).std() < 1e-9


def test_models_of_one_size_share_a_rank():
    c = world()
    assert {m.size for m in c.models} == {0, 1, 2, 3}
    assert c.sizes("lstm", "transformer") == [0, 1, 2, 3]
    assert all(abs(np.log10(m.params) - 6 - m.size) < 0.1 for m in c.models)


def test_positions_that_are_no_bins_are_told():
    with pytest.raises(UserError, match="not whole bins"):
        world(draws=10).at(1, 30)


def test_runs_of_other_chains_are_told():
    chains = make_chains(1024, 4.3, 20, 8)
    of_runs = runs(as_published, chains, 0.0, 0.05, 1, 1e8, (1e6,), False)
    with pytest.raises(UserError, match="measured on other chains"):
        compare(of_runs, make_chains(1024, 4.3, 19, 8), 4.3)
    with pytest.raises(UserError, match="no runs"):
        compare([], chains, 4.3)


def test_two_designs_are_not_taken_for_two_seeds():
    """Runs of one model and seed that are not the same run: of another text, perhaps, in the same folder."""
    chains = make_chains(1024, 4.3, 20, 8)
    of_runs = runs(as_published, chains, 0.0, 0.05, 2, 1e8, (1e6,), False)
    with pytest.raises(UserError, match="of one model and seed, but not the same run"):
        compare([*of_runs, replace(of_runs[0], run_id="other")], chains, 4.3)


def test_seed_noise_is_that_of_the_family():
    """Elman RNNs that differ by 1 nat from seed to seed say nothing of LSTMs that do not differ."""
    chains = make_chains(1024, 4.3, 20, 8)
    sizes = (1e6, 1e7)
    quiet = runs(as_published, chains, 0.001, 0.05, 2, 1e8, sizes, False)
    loud = [
        replace(run, family="elman", loss_CxP=run.loss_CxP + run.seed, run_id=f"elman {run.run_id}") for run in quiet
        if run.family == "lstm"
    ]  # fmt: skip
    c = compare([*quiet, *loud], chains, 4.3, 400)
    lstm, elman = c.of("lstm"), c.of("elman")
    assert (c.mean_SxM[1:, lstm[0]] - c.mean_SxM[1:, lstm[1]]).std() < 0.01
    assert (c.mean_SxM[1:, elman[0]] - c.mean_SxM[1:, elman[1]]).std() > 0.3


def test_saved_and_loaded_they_are_the_same(tmp_path):
    chains = make_chains(1024, 4.3, 20, 8)
    of_runs = runs(as_published, chains, 0.01, 0.05, 2, 1e8, (1e6, 1e7), True)
    save(tmp_path / "positions.npz", of_runs, chains, 4.3)
    loaded, again, characters = load(tmp_path / "positions.npz")
    assert (again, characters) == (chains, 4.3)
    for one, other in zip(of_runs, loaded, strict=True):
        assert (one.run_id, one.params, one.seed) == (other.run_id, other.params, other.seed)
        np.testing.assert_allclose(one.loss_CxP, other.loss_CxP, rtol=1e-6)


@pytest.mark.parametrize("content", [b"no", b"", b"PK"])
def test_another_file_is_told(content, tmp_path):
    (tmp_path / "positions.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "positions.npz")


def test_a_pickled_object_is_not_loaded(tmp_path):
    np.savez(tmp_path / "positions.npz", facts=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "positions.npz")


def test_the_law_of_position_is_found_in_many_curves_at_once():
    position = np.geomspace(2, 1024, 30)
    wanted = np.array([0.3, 0.47, 0.62, 1.1])
    curves = 2.5 + 4.0 * position ** -wanted[:, None]
    found, fitted = power_law(position, curves)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(fitted, curves, atol=2e-3)


def test_a_lead_with_zero_in_its_interval_is_not_told_apart():
    (told,) = leads(world())
    assert "the Transformer is ahead of the LSTM by" in told
    (told,) = leads(world(lambda family, *where: as_published("transformer", *where), noise=0.05))
    assert "are not told apart: the former is ahead by" in told and "(95 %: -0." in told


def test_a_lead_of_one_seed_is_sure_of_the_text_alone():
    (told,) = leads(world(seeds=1))
    assert "nats per token (95 % by the held-out text, one seed: 0." in told
