"""What is concluded from compiled programs, on programs made up for it; nothing is compiled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from seqjax.cli import main
from seqjax.config import Config
from seqjax.errors import UserError
from seqjax.preflight import needs
from seqjax.preflight.accelerators import Target, target_named
from seqjax.preflight.as_text import Row, describe, table
from seqjax.preflight.compiling import Compiled, asked, devices_of
from seqjax.preflight.needs import Check, batch_that_fits, check, program_of
from seqjax.preflight.program_text import ProgramText
from seqjax.runs.targets import training_flops_per_token

EXCHANGE = """
ENTRY %main (g: f32[1000]) -> f32[1000] {
  %g = f32[1000]{0} parameter(0)
  %held = f32[ARRAY] broadcast(%g), dimensions={}
  ROOT %r = f32[1000]{0} all-reduce(%g), replica_groups=[1,8]<=[8], to_apply=%sum
}
"""
GIB = 2**30


def programs(array: str = "3", memory: float = GIB) -> Compiled:
    """A made-up program with an array of these axes."""
    return Compiled(memory, 3e8, 2e8, 1e9, ProgramText(EXCHANGE.replace("ARRAY", array)))


def made_up(config: Config, name: str = "8xh100", step: Compiled | None = None) -> Check:
    return Check(config, target_named(name), step or programs(), programs(), 1e12, 1e11, False, None)


@pytest.fixture
def memory_of_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Programs whose memory is fixed + slope x batch, instead of compiled ones."""

    def use(fixed: float, slope: float) -> None:
        def compiled(config: Config, shapes: object, target: Target) -> Compiled:
            return dataclasses.replace(programs(), memory=fixed + slope * config.train.batch_size)

        monkeypatch.setattr(needs, "compile_step", compiled)

    return use


def test_a_bound_is_its_largest_cause(make_config: Callable[..., Config]) -> None:
    found = made_up(make_config())
    bound, chip = found.step_bound, found.target.chip
    assert bound.products == pytest.approx(1e12 / (8 * chip.peak_float32))
    assert bound.memory == pytest.approx((3e8 + 2e8 + 2 * 1e9) / chip.bandwidth)
    assert bound.link == pytest.approx(2 * 7 / 8 * 4000 / chip.link)
    assert bound.by == "memory" and bound.seconds == bound.memory
    assert found.device_hours(3600) == pytest.approx(8 * bound.seconds)
    assert found.device_hours(3600, 1e-3) == pytest.approx(1e12 / chip.peak_float32 / 1e-3)


def test_an_evaluation_has_the_optimizer_beside_it(make_config: Callable[..., Config]) -> None:
    config = make_config()
    big = dataclasses.replace(programs(memory=75 * GIB), arguments=1e8)
    found = Check(config, target_named("h100"), programs(), big, 1.0, 1.0, None, None)
    assert found.memory == pytest.approx(75 * GIB + 2e8) and not found.fits


@pytest.mark.parametrize(("fixed", "slope"), [(GIB, GIB), (GIB, 0.01 * GIB), (40 * GIB, 3 * GIB)])
def test_the_batch_that_fits_is_found_on_a_line(
    make_config: Callable[..., Config], memory_of_batches: Callable[..., None], fixed: float, slope: float
) -> None:
    memory_of_batches(fixed, slope)
    for batch in (8, 80, 400):
        config = make_config(**{"train.batch_size": batch})
        found = made_up(config, step=dataclasses.replace(programs(), memory=fixed + slope * batch))
        limit = found.target.chip.memory
        assert batch_that_fits(found) == int((limit - fixed) / slope) // 8 * 8


def test_no_batch_fits_if_the_state_does_not(
    make_config: Callable[..., Config], memory_of_batches: Callable[..., None]
) -> None:
    memory_of_batches(90 * GIB, GIB)
    assert batch_that_fits(made_up(make_config(**{"train.batch_size": 16}), step=programs(memory=106 * GIB))) is None


def test_arrays_of_all_scores_and_logits_are_seen(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per device: 8 sequences of 24 tokens are one for each of 8 devices."""
    config = make_config(
        "transformer",
        **{"train.batch_size": 8, "train.context_length": 24, "data.tokenizer": "bpe-777", "model.n_heads": 2},
    )
    monkeypatch.setattr(needs, "compile_evaluation", lambda *_: programs())
    answers = {}
    for array in ("1,2,24,24", "48,24", "1,24,24", "1,24,777", "24,777", "777,24", "12,777"):
        monkeypatch.setattr(needs, "compile_step", lambda *_, array=array: programs(array))
        found = check(config, target_named("8xh100"))
        answers[array] = (found.scores, found.logits)
    assert answers == {
        "1,2,24,24": (True, False),
        "48,24": (False, False),
        "1,24,24": (False, False),  # of one head: less than all scores
        "1,24,777": (False, True),
        "24,777": (False, True),
        "777,24": (False, True),
        "12,777": (False, False),  # a chunk
    }
    assert found.step_flops == training_flops_per_token(config, 777) * 8 * 24
    assert found.evaluation_flops == pytest.approx(
        training_flops_per_token(config, 777) / 3 * config.evaluation.batch_size * 24
    )


def test_equal_lengths_of_axes_cannot_be_told_apart(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "compile_evaluation", lambda *_: programs())
    monkeypatch.setattr(needs, "compile_step", lambda *_: programs("8,64,64"))
    found = check(
        make_config(
            "lstm",
            **{"model.d_model": 64, "train.context_length": 64, "train.batch_size": 8, "data.tokenizer": "bpe-777"},
        ),
        target_named("h100"),
    )
    assert found.scores is None
    found = check(
        make_config(
            "lstm",
            **{
                "model.d_model": 64,
                "train.context_length": 24,
                "train.batch_size": 8,
                "data.tokenizer": "bytes",
                "model.d_hidden": 257,
            },
        ),
        target_named("h100"),
    )
    assert found.logits is None


def test_runs_share_a_program_unless_it_differs(make_config: Callable[..., Config]) -> None:
    alike = [
        make_config(**changed)
        for changed in ({}, {"train.steps": 7}, {"optimizer.learning_rate": 0.5}, {"train.seed": 3})
    ]
    assert len({program_of(config) for config in alike}) == 1
    other = [
        make_config(**changed)
        for changed in ({"train.batch_size": 6}, {"model.d_model": 24}, {"train.compute_dtype": "bfloat16"})
    ]
    assert len({program_of(config) for config in [*alike, *other]}) == 4


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.61G of 15.75G hbm. Exceeded", 22.61 * GIB),
        ("total memory required for HLO temporaries (512.5M) exceeds available HBM (15.75G).", 512.5 * 2**20),
        ("RESOURCE_EXHAUSTED", math.inf),
    ],
)
def test_a_refusal_tells_what_was_asked_for(message: str, size: float) -> None:
    assert asked(message) == size


def test_reports_are_within_80_columns(make_config: Callable[..., Config]) -> None:
    config = make_config("transformer", **{"model.d_model": 128, "model.n_layers": 12, "train.steps": 123456})
    misfit = made_up(config, step=Compiled(2e12))
    for text in (describe(made_up(config), 4096), describe(misfit, None), table([Row(misfit, 300, 10**9)])):
        assert max(map(len, text.splitlines())) <= 80, text
    assert "DOES NOT FIT" in describe(misfit, None) and "no batch fits" in describe(misfit, None)
    assert "1 DO NOT FIT" in table([Row(misfit, 300, 10**9), Row(made_up(config), 1, 1)])


@pytest.mark.parametrize(("name", "package"), [("v5e-4", "seqjax[tpu]"), ("h100", "seqjax[preflight]")])
def test_an_absent_compiler_is_told(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    devices_of.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError) as error:
        devices_of(target_named(name))
    assert f"compiling for {name} needs" in str(error.value) and package in str(error.value)


SWEEP = """
model: {family: lstm, n_layers: 1, d_model: 16}
data: {corpus: english, tokenizer: bytes}
train: {steps: 4, batch_size: 8, context_length: 24}
grid: {optimizer.learning_rate: [1e-3, 1e-2], model.d_model: [16, 24]}
"""


def test_a_sweep_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []

    def too_large(config: Config, *_: object) -> Compiled:
        compiled.append(config.model.d_model)
        return programs(memory=(100 if config.model.d_model == 24 else 1) * GIB)

    monkeypatch.setattr(needs, "compile_step", too_large)
    monkeypatch.setattr(needs, "compile_evaluation", lambda *_: programs())
    monkeypatch.setattr("seqjax.sweeps.sweep.measured_speeds", lambda *_: None)
    (tmp_path / "s.yaml").write_text(SWEEP)
    words = ["sweep", str(tmp_path / "s.yaml"), "--runs", str(tmp_path / "runs"), "--preflight", "h100"]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "--preflight h100: 1 programs do not fit" in shown.err and "4 runs, 2 programs on h100" in shown.out
    assert sorted(compiled) == [16, 24] and not (tmp_path / "runs").exists()
    assert main(["preflight", str(tmp_path / "s.yaml"), "--on", "h100"]) == 0
    assert "1 DO NOT FIT" in capsys.readouterr().out
