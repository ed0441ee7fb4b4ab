"""`seqjax plan`: what it proposes fits, is as large as fits, and is the sweep that its file says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from closed_forms import matrices

from seqjax.cli import main
from seqjax.config import Config
from seqjax.errors import UserError
from seqjax.host.wording import parse_duration
from seqjax.runs import targets
from seqjax.sweeps import programs as units
from seqjax.sweeps.budget import FILL, GridShape, Proposal, as_yaml, probes, propose
from seqjax.sweeps.grid import Sweep, read_sweep
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.printed import predicted_seconds
from seqjax.sweeps.programs import form_units

TWO_CORES = Machine((0, 1), (), 1e13)
THREE_BY_TWO = GridShape()


class MadeUp:
    """6 N FLOPs for each token at 1 GFLOP/s, whether alone or together, and two seconds of compilation."""

    def seconds(self, config: Config, lanes: int) -> float:
        tokens = config.train.steps * config.train.batch_size * config.train.context_length
        return 2.0 + lanes * tokens * 6 * matrices(config.model) / 1e9


@pytest.fixture(autouse=True)
def quick_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """To trace every model that is tried takes its time."""
    monkeypatch.setattr(targets, "non_embedding_parameters", matrices)
    monkeypatch.setattr(units, "memory_of", lambda *_: 1.0)
    monkeypatch.setattr(units, "threads_for", lambda *_: 1)


@pytest.fixture
def file_of(tmp_path: Path, small_text: Path) -> Any:
    """``file_of("grid: ...")``: a sweep file over a base with a warmup and a number of steps."""
    (tmp_path / "base.yaml").write_text(
        f"model: {{family: lstm, n_layers: 1}}\ndata: {{corpus: {small_text}}}\n"
        "train: {batch_size: 4, context_length: 16, steps: 777}\noptimizer: {warmup_steps: 10}\n"
    )

    def make(text: str) -> Path:
        path = tmp_path / "s.yaml"
        path.write_text(f"base: base.yaml\n{text}\n")
        return path

    return make


FAMILIES = "list: [{model.family: lstm}, {model.family: transformer, model.n_layers: 2, model.n_heads: 2}]\n"


def proposal(sweep: Sweep, seconds: float, shape: GridShape = THREE_BY_TWO) -> Proposal:
    return propose(sweep, seconds, shape, TWO_CORES, MadeUp(), bundle=True)


def predicted(sweep: Sweep, sizes: Any, tokens: Any) -> float:
    """Seconds of these sizes and tokens for each model of the sweep."""
    points = [
        {**point, "size.non_embedding": size, "horizon.tokens": length}
        for point in sweep.points
        for size in sizes
        for length in tokens
    ]
    return predicted_seconds(
        form_units([sweep.plan(point) for point in points], TWO_CORES, MadeUp(), bundle=True), TWO_CORES
    )


def test_what_is_proposed_fits_and_more_would_not(file_of: Any) -> None:
    sweep = read_sweep(file_of(FAMILIES))
    before = 0.0
    for budget in (600.0, 7200.0):
        found = proposal(sweep, budget)
        assert found.seconds == pytest.approx(predicted(sweep, found.sizes, found.tokens))
        assert found.seconds <= FILL * budget
        larger = [1.4 * size for size in found.sizes], [1.4 * tokens for tokens in found.tokens]
        assert predicted(sweep, *larger) > FILL * budget
        assert found.sizes[-1] > before
        before = found.sizes[-1]


@pytest.mark.parametrize(
    "shape", [GridShape(), GridShape(sizes=1, lengths=1, ratio=5.0), GridShape(sizes=2, lengths=4)]
)
def test_sizes_and_tokens_are_a_grid(file_of: Any, shape: GridShape) -> None:
    """Every family has each size, within 10 %; the largest has so many tokens for each of its parameters."""
    sweep = read_sweep(file_of(FAMILIES + "grid: {train.seed: [0, 1]}"))
    found = proposal(sweep, 1800.0, shape)
    assert (len(found.sizes), len(found.tokens)) == (shape.sizes, shape.lengths)
    for small, large in zip(found.sizes, found.sizes[1:], strict=False):
        assert large / small == pytest.approx(shape.size_factor, rel=0.5)
    for short, long in zip(found.tokens, found.tokens[1:], strict=False):
        assert long / short == pytest.approx(shape.length_factor, rel=0.05)
    assert found.tokens[-1] == pytest.approx(shape.ratio * found.sizes[-1], rel=0.05)
    runs = [(run.config.model.family, run.axes["size.non_embedding"], run.axes["horizon.tokens"], run.config.train.seed)
            for run in found.planned]  # fmt: skip
    assert sorted(runs) == sorted(
        (family, size, tokens, seed)
        for family in ("lstm", "transformer")
        for size in found.sizes
        for tokens in found.tokens
        for seed in (0, 1)
    )
    for run in found.planned:
        size, tokens = run.axes["size.non_embedding"], run.axes["horizon.tokens"]
        assert abs(matrices(run.config.model) - size) <= 0.1 * size
        assert abs(run.config.train.steps * 64 - tokens) <= 32


FILES = {
    "families": FAMILIES,
    "search": FAMILIES + "search: {rates: [1e-3, 3e-3, 1e-2]}\nhorizon: {tokens: 4e5, warmup_fraction: 0.1}",
    "sizes of its own": FAMILIES + "grid: {size.non_embedding: [1e3, 4e3], train.seed: [0, 1]}\nhorizon: {flops: 1e9}",
    "sizes in a list": "list: [{size.non_embedding: 1e3}, {size: {non_embedding: 4e3}}]",
    "sizes in a zip": "zip: {size.non_embedding: [1e3, 4e3], train.steps: [20, 80], train.seed: [0, 0]}",
    "widths and steps": "list:\n- {model: {family: gru, d_model: 9}, train: {steps: 30}}\n- {model.family: lstm}",
    "a size for all": "size: {non_embedding: 3e4}\ntrain: {steps: 5, seed: 3}\nmodel: {d_hidden: 9, d_model: 3}",
}


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_the_proposal(file_of: Any, tmp_path: Path, name: str) -> None:
    path = file_of(FILES[name])
    found = proposal(read_sweep(path), 900.0)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for output in (tmp_path / "other.yaml", tmp_path / "deep" / "er" / "other.yaml"):
        output.write_text(as_yaml(path, {}, found, ["one line", "and another"], output))
        again = read_sweep(output)
        assert [run.config for run in again.runs()] == [run.config for run in found.planned]
        assert output.read_text().startswith("# one line\n# and another\nbase: ")


def test_options_are_in_the_file(file_of: Any, tmp_path: Path) -> None:
    path, output = file_of(FAMILIES), tmp_path / "other.yaml"
    options = {
        "train.batch_size": "8",
        "optimizer.clip_norm": "0.5",
        "train.steps": "3",
        "horizon.warmup_fraction": "0.1",
    }
    found = proposal(read_sweep(path, options), 900.0)
    output.write_text(as_yaml(path, options, found, [], output))
    again = read_sweep(output).runs()
    assert [run.config for run in again] == [run.config for run in found.planned]
    assert {(run.config.train.batch_size, run.config.optimizer.clip_norm) for run in again} == {(8, 0.5)}


CHOSEN = {
    "one family": ({"only.model.family": "lstm"}, FAMILIES),
    "seeds": ({"grid.train.seed": "[0, 1]"}, FAMILIES + "grid: {train.seed: [3]}"),
    "rates": ({"search.rates": "[1e-3, 3e-3, 1e-2]"}, FAMILIES + "search: {rates: [1e-2, 3e-2, 1e-1], extend: 1}"),
    "bases": ({}, "list: [{base: base.yaml, grid: {model.d_model: [8, 9], train.seed: [0, 1]}}]"),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_points_that_options_choose_are_in_the_file(file_of: Any, tmp_path: Path, name: str) -> None:
    (options, text), output = CHOSEN[name], tmp_path / "deep" / "other.yaml"
    path = file_of(text)
    if name == "bases":
        path.write_text(path.read_text().replace("base: base.yaml\n", "", 1))
    found = proposal(read_sweep(path, options), 900.0)
    output.parent.mkdir()
    output.write_text(as_yaml(path, options, found, [], output))
    again = read_sweep(output)
    assert [run.config for run in again.runs()] == [run.config for run in found.planned]
    assert again.search == read_sweep(path, options).search


def test_too_small_a_budget_is_an_error(file_of: Any) -> None:
    sweep = read_sweep(file_of(FAMILIES))
    with pytest.raises(UserError) as caught:
        proposal(sweep, 7.0)
    message = str(caught.value)
    assert message.startswith("--budget 7s: the smallest grid, 12 runs of sizes ") and "allow more, or ask" in message


def test_what_no_length_suits_is_an_error(file_of: Any) -> None:
    sweep = read_sweep(file_of("optimizer: {warmup_steps: 1000000}"))
    with pytest.raises(
        UserError, match=r"the smallest grid, 6 runs .*; none is smaller: .*s\.yaml:2: .* 1000000 is more"
    ):
        proposal(sweep, 600.0)
    heads = read_sweep(file_of("list: [{model.family: transformer, model.n_layers: 1000, model.n_heads: 64}]"))
    with pytest.raises(UserError, match=r"found no size near .* that all models can have within 10 %"):
        propose(heads, 1e-3, GridShape(sizes=1, lengths=1), TWO_CORES, MadeUp(), bundle=True)


def test_short_runs_are_passed_over_where_they_would_be_one(file_of: Any) -> None:
    """With batches of 8,192 tokens the smallest sizes would train for one step, whatever their tokens."""
    sweep = read_sweep(file_of("train: {batch_size: 64, context_length: 128}\noptimizer: {warmup_steps: 0}"))
    found = proposal(sweep, 7200.0, GridShape(sizes=1, lengths=3))
    assert len({run.config.train.steps for run in found.planned}) == 3


def test_probes_are_small_and_large_of_every_model(file_of: Any) -> None:
    sweep = read_sweep(file_of(FAMILIES + "grid: {size.non_embedding: [1e3, 4e3]}\n"))
    found = probes(sweep, 3600.0, GridShape())
    by_family: dict[str, list[int]] = {}
    for run in found:
        by_family.setdefault(run.config.model.family, []).append(matrices(run.config.model))
    assert by_family.keys() == {"lstm", "transformer"}
    for small, large in by_family.values():
        assert large > 10 * small


def test_the_command_writes_a_sweep_file(
    file_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = file_of(FAMILIES + "search: {rates: [1e-3, 3e-3, 1e-2]}"), tmp_path / "my plan.yaml"
    monkeypatch.setattr("seqjax.sweeps.sweep.measured_speeds", lambda *_: MadeUp())
    words = ["plan", str(path), "--budget", "20m", "--sizes", "2", "--lengths", "1", "--train.batch-size", "8"]
    assert main([*words, "--output", str(output)]) == 0
    assert f"seqjax sweep '{output}' --dry-run" in capsys.readouterr().err
    sweep = read_sweep(output)
    assert len(sweep.runs()) == 2 * 2 * 3 and {run.config.train.batch_size for run in sweep.runs()} == {8}
    assert "12 runs, predicted 1" in output.read_text() and "extend its rates takes longer" in output.read_text()
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[2:] == output.read_text().splitlines()[2:]
    monkeypatch.setattr("seqjax.sweeps.sweep.measured_speeds", lambda *_: pytest.fail("measured first"))
    assert main([*words, "--output", str(tmp_path / "absent" / "mine.yaml")]) == 2
    assert "mine.yaml: cannot be written: there is no folder" in capsys.readouterr().err


MISTAKES = [
    (("--budget", "soon"), "--budget soon: expected a time such as 90s, 20m, 1h30m or 2d"),
    (("--budget", "0"), "--budget 0: expected a time"),
    (("--budget", "1m", "--sizes", "0"), "--sizes 0: must be above 0"),
    (("--budget", "1m", "--ratio", "0"), "--ratio 0.0: must be above 0"),
    (("--budget", "1m", "--workers", "0"), "--workers 0: at least 1 is needed"),
    (("--budget", "1m", "--train.sed", "3"), "command line: train.sed: unknown key"),
]


@pytest.mark.parametrize(("words", "fragment"), MISTAKES, ids=lambda part: part if isinstance(part, str) else None)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: tuple[str, ...], fragment: str, file_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(file_of(FAMILIES)), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and fragment in line


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2d", 172_800), ("1d2h3m4s", 93_784), ("90m30", 5430),
        (" 5m ", 300), ("25h", 90_000),
    ],
)  # fmt: skip
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "soon", "0", "0s", "-5", "1.5h", "30m1h", "2h2h", "1h 30m", "1e3", "m", "5x"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


def test_a_sweep_longer_than_its_budget_is_refused(
    file_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seqjax.sweeps.sweep.measured_speeds", lambda *_: MadeUp())
    words = ["sweep", str(file_of(FAMILIES)), "--runs", str(tmp_path / "runs"), "--dry-run", "--budget"]
    assert main([*words, "10s"]) == 2
    captured = capsys.readouterr()
    assert "--budget 10s: the plan is predicted to take " in captured.err and "predicted time: " in captured.out
    assert main([*words, "10d"]) == 0
    assert not (tmp_path / "runs").exists()


def test_a_smaller_machine_takes_longer(file_of: Any) -> None:
    sweep = read_sweep(file_of(FAMILIES))
    one = propose(sweep, 1800.0, GridShape(), replace(TWO_CORES, cores=(0,)), MadeUp(), bundle=True)
    assert one.sizes[-1] < proposal(sweep, 1800.0).sizes[-1]
