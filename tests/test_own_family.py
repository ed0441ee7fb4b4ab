"""Families from files outside of the package, as a user brings them: the example of CONTRIBUTING.md and two more."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import brought
import experiment
import numpy as np
import pandas as pd
import pytest
from brought import FAMILIES, LEAKY, MIXER
from quick import quick
from same_run import assert_same_run
from sweeping import write_sweep

from seqjax import runs
from seqjax.cli import main
from seqjax.commands.options import code_again, configs_of_runs
from seqjax.comparison.collect import collect, to_measure
from seqjax.comparison.page import write_report
from seqjax.comparison.training_figures import draw_against_time
from seqjax.config import run_id
from seqjax.errors import UserError
from seqjax.families import family_of, hues_of, in_order, label_of, labels_of
from seqjax.host.disk import write_json
from seqjax.models import count_parameters
from seqjax.runs.config_file import load_config, validate
from seqjax.runs.targets import resolve
from seqjax.runs.tree import options_tree, overlay
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.machine import this_machine
from seqjax.sweeps.sweep import local_launch, run_sweep
from seqjax.sweeps.table import gather, read_table, render
from seqjax.trained.by_position import measure_positions
from seqjax.trained.chains import make_chains
from seqjax.training.loop import train

TINY = {
    "model.d_model": 8,
    "model.n_layers": 1,
    "train.steps": 12,
    "train.batch_size": 4,
    "train.context_length": 8,
    "train.checkpoint_every": 4,
    "evaluation.every": 6,
    "evaluation.windows": 8,
    "evaluation.final_windows": 8,
    "evaluation.batch_size": 8,
}


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def reference(tmp_path: Path) -> Any:
    """``reference("Leaky")``: the words that name the family of a file outside of the package."""
    return partial(brought.family_file, tmp_path)


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``forget()``: from here on this process is another one, which has loaded no family."""

    brought.forget(monkeypatch)
    return partial(brought.forget, monkeypatch)


def config_of(small_text: Path, words: str, **changes: Any) -> Any:
    base = options_tree({"model.family": words, "data.corpus": str(small_text), **TINY})
    return validate(overlay(base, options_tree(changes)))


@pytest.mark.parametrize("name", quick(FAMILIES, "Leaky"))
def test_a_run_is_trained_killed_resumed_and_read(
    name: str, reference: Any, forget: Any, crash_at: Any, small_text: Path, tmp_path: Path, capsys: Any
) -> None:
    words = reference(name)
    config, a, b = config_of(small_text, words), tmp_path / "a", tmp_path / "b"
    result = train(config, a, devices=1, quiet=True)
    assert result["run_id"].startswith(f"{name}-1x8-")
    assert result["parameters"]["non_embedding"] == 2 * 8 * 8
    assert (a / "family.py").read_text() == FAMILIES[name]
    with crash_at(7):
        train(config, b, devices=1, quiet=True)
    forget()
    assert call("train", b, "--no-sample", "--quiet") == 2 and not runs.read_result(b)
    assert "--trust-code" in capsys.readouterr().err
    assert call("train", b, "--no-sample", "--quiet", "--model.family", words) == 0
    assert_same_run(config, a, b)
    assert code_again(config) == f" --model.family {words}"
    forget()
    assert code_again(config) == " --trust-code"
    capsys.readouterr()
    assert call("inspect", a, "--text", "Bene", "--trust-code", "--output", tmp_path / "a.svg") == 0
    if name == "Mixer":
        assert "has neither attention nor gates to be drawn" in capsys.readouterr().out
        assert result["look"] == {"label": "mean mixer", "colour": "#123456"}
        assert call("sample", a, "--tokens", 4, "--model.family", words) == 0
        forget()
        assert call("show", a) == 2 and call("show", a, "--trust-code") == 0
    assert call("eval", a, "--model.family", words) == 0
    assert f"{result['validation']['bits_per_byte']:.4f} bits per byte" in capsys.readouterr().out


def test_the_id_is_of_class_and_text_not_of_the_place(reference: Any, forget: Any, small_text: Path, tmp_path: Path):
    config = config_of(small_text, reference("Leaky"))
    digits = hashlib.sha256(LEAKY.encode()).hexdigest()[:16]
    assert config.model.family == f"Leaky@{digits}"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.py").write_text(LEAKY)
    forget()
    assert run_id(config_of(small_text, f"{tmp_path / 'elsewhere' / 'other.py'}:Leaky")) == run_id(config)
    own_shape = "\n    @property\n    def shape(self):\n        return 'mine'\n"
    changed = config_of(small_text, reference("Leaky", LEAKY + own_shape))
    assert run_id(changed) != run_id(config) and changed.model.family != config.model.family
    assert labels_of([changed.model.family, "lstm", config.model.family])["lstm"] == "LSTM"
    assert len(set(labels_of([changed.model.family, config.model.family]).values())) == 2
    runs.open_run(tmp_path / "run", changed)
    forget()
    assert run_id(runs.read_config(tmp_path / "run")) == run_id(changed)  # without the code


def test_tables_run_no_code(reference: Any, forget: Any, small_text: Path, tmp_path: Path, capsys: Any) -> None:
    words = reference("Leaky")
    folder = tmp_path / "run"
    runs.open_run(folder, config_of(small_text, words, **{"model.rate": 0.5}))
    reference("Leaky", 'raise SystemExit("it was run")')
    (folder / "family.py").write_text('raise SystemExit("it was run")')
    forget()
    assert call("runs", folder) == 0 and call("status", folder) == 0
    table = gather([folder])
    assert table["model.rate"].tolist() == [0.5] and table["status"].tolist() == ["planned"]
    (tmp_path / "t.csv").write_bytes(render(table, "csv"))
    assert read_table(tmp_path / "t.csv")["model.rate"].tolist() == [0.5]
    capsys.readouterr()
    assert call("train", folder, "--trust-code") == 2
    assert "it was changed" in capsys.readouterr().err
    saved = json.loads((folder / "config.json").read_text())
    saved["model"]["family"] = words
    (folder / "config.json").write_text(json.dumps(saved))
    for command in ("runs", "status", "show"):  # config.json of a run names no file, whoever wrote that there
        capsys.readouterr()
        assert call(command, folder) == (0 if command == "status" else 2)
        said = capsys.readouterr()
        assert "was run" not in said.out + said.err
        assert command == "status" or "names a file" in said.out + said.err  # it reads the family's name alone


def test_label_and_colour_come_without_code(reference: Any, forget: Any, small_text: Path, tmp_path: Path) -> None:
    config, folder = config_of(small_text, reference("Mixer")), tmp_path / "run"
    name, package = config.model.family, hues_of([])
    runs.open_run(folder, config)
    assert (label_of(name), hues_of([name, "lstm"])) == ("mean mixer", package | {name: "#123456"})
    forget()
    assert label_of(name) == "Mixer"
    result = {
        "status": "finished",
        "steps": 12,
        "validation": {"loss": 3.0},
        "look": {"label": "mean mixer", "colour": "#123456"},
    }
    write_json(folder / "result.json", result)
    table = gather([folder])
    assert (label_of(name), hues_of([name])[name]) == ("mean mixer", "#123456")
    (tmp_path / "t.csv").write_bytes(render(table, "csv"))
    forget()
    assert read_table(tmp_path / "t.csv")["model.label"].tolist() == ["mean mixer"]
    assert (label_of(name), hues_of([name])[name]) == ("mean mixer", "#123456")
    forget()
    write_json(folder / "result.json", result | {"look": {"label": "a\nb", "colour": "url(x)"}})
    gather([folder])
    assert label_of(name) == "Mixer" and hues_of([name])[name].startswith("#")


def test_another_text_does_not_go_on_with_a_run(reference: Any, forget: Any, small_text: Path, tmp_path: Path) -> None:
    runs.open_run(tmp_path / "run", config_of(small_text, reference("Leaky")))
    forget()
    with pytest.raises(UserError, match=r"the text was changed since.*family.py"):
        configs_of_runs([tmp_path / "run"], ["--model.family", reference("Leaky", LEAKY + "\n")], trust=False)
    with pytest.raises(UserError, match="no run is of it"):
        configs_of_runs([tmp_path / "run"], [f"--model.family={reference('Mixer')}"], trust=True)


MISTAKES = {  # text -> what the message must hold
    "syntax": ("x = 1\nclass Leaky(:\n", "leaky.py:2: SyntaxError: "),
    "import": ("import nothing_of_this_name\n", "leaky.py:1: ModuleNotFoundError: No module named"),
    "failure": ("def f():\n    return 1 / 0\n\nf()\n", "leaky.py:2: ZeroDivisionError: division by zero"),
    "exit": ("raise SystemExit(3)\n", "leaky.py:1: SystemExit: 3"),
    "no class": (LEAKY.replace("Leaky(", "Leaki("), "has no class Leaky; it has Leaki; did you mean 'Leaki'?"),
    "no family": ("class Leaky: pass\n", "leaky.py:1: Leaky is no family"),
    "no dataclass": (LEAKY.replace("@dataclass(frozen=True)\n", ""), "write @dataclass(frozen=True) above it"),
    "not frozen": (LEAKY.replace("(frozen=True)", ""), "TypeError: cannot inherit non-frozen dataclass"),
    "no default": (MIXER.replace("Mixer", "Leaky").replace("n_layers: Literal[1] = 1", "n_layers: Literal[1]")
                   .replace("d_model: int = 8", "d_model: int"), "Leaky.d_model has no default"),
    "no dropout": (MIXER.replace("Mixer", "Leaky").replace("    dropout: float = 0.0\n", ""), "the field dropout"),
    "no colour": (MIXER.replace("#123456", "blue").replace("Mixer", "Leaky"), "Leaky.colour: 'blue' is not six hexa"),
    "no type": (LEAKY.replace("rate: float = 0.0", 'rate: "Nothing" = 0.0'), "a field cannot be read from a config"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_told_in_one_line(name: str, reference: Any, forget: Any, tmp_path: Path) -> None:
    text, fragment = MISTAKES[name]
    (tmp_path / "c.yaml").write_text(f"train: {{steps: 3}}\nmodel:\n  family: {reference('Leaky', text)}\n")
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "c.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'c.yaml'}:3: model.family: ")
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("leaki.py:Leaky", r"leaki.py: no such file, seen from .*; did you mean 'leaky.py'\?"),
        ("leaky:Leaky", r"leaky: no such module; of a file, write leaky.py"),
        ("leaky.py:", r"expected FILE.py:CLASS"),
    ],
)
def test_a_file_that_is_not_there(words: str, fragment: str, reference: Any, tmp_path: Path, monkeypatch: Any) -> None:
    reference("Leaky")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^command line: model.family: .*{fragment}"):
        options_tree({"model.family": words})


def test_its_fields_are_checked_as_all_others_are(reference: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model:\n  family: {reference('Leaky')}\n  rate: 1\n  raet: 2\n")
    with pytest.raises(UserError, match=r"c.yaml:4: model.raet: unknown key; allowed: family, .*; did you mean 'rate'"):
        load_config(path)
    path.write_text("model: {family: lstm, d_model: 12, forget_bias: 2.0}\ntrain: {bptt: 3}")
    config = load_config(path, {"model.family": reference("Leaky"), "model.rate": "1"})
    assert (config.model.d_model, config.model.rate) == (12, 1.0)  # what recurrent families share stays
    with pytest.raises(UserError, match=r"c.yaml:2: train.bptt: the family 'Mixer@.*has no recurrence"):
        load_config(path, {"model.family": reference("Mixer")})


def test_an_importable_module_is_a_file(reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells_of_mine.py").write_text(LEAKY)
    monkeypatch.syspath_prepend(tmp_path)
    assert family_of("cells_of_mine:Leaky") is family_of(reference("Leaky"))


def test_bench_and_a_size_target(reference: Any, small_text: Path, tmp_path: Path, capsys: Any) -> None:
    words = reference("Mixer")
    shape = ("--sizes", 8, "--batch-size", 2, "--context-length", 4, "--repeats", 1)
    assert call("bench", "--families", words, *shape, "--json", tmp_path / "b.json") == 0
    assert "Mixer " in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["family"] == family_of(words).family and row["parameters"] == 256 * 8 * 2 + 128
    tree = options_tree({"model.family": words, "size.non_embedding": 1000, "data.corpus": str(small_text)})
    model = resolve(tree).config.model
    assert model.d_model == 22 and count_parameters(model, 1, 1)["non_embedding"] == 968


@pytest.mark.slow
def test_a_sweep_with_a_search_beside_lstm(
    reference: Any, forget: Any, small_text: Path, tmp_path: Path, capsys: Any
) -> None:
    """Two families of one's own, through the search, the table, figures, the report of Figure 7, and a fit."""
    axes = (
        "model: {family: lstm, n_layers: 1}\n"
        f"list: [{{model.family: lstm}}, {{model.family: transformer, model.n_layers: 1, model.n_heads: 2}},"
        f" {{model.family: '{reference('Leaky')}', model.rate: 0.5}}, {{model.family: '{reference('Mixer')}'}}]\n"
        "size: {non_embedding: 768}\n"
        "search: {rates: [1e-3, 1e-2, 1e-1], extend: 0}\n"
    )
    sweep = write_sweep(tmp_path / "own.yaml", small_text, axes, steps=6, context_length=8, checkpoint_every=6)
    folder, machine = tmp_path / "own", this_machine(1, 1)
    leaky, mixer = (family_of(reference(name)).family for name in ("Leaky", "Mixer"))
    launch = local_launch(folder, machine, "disabled", retries=0)
    outcome = run_sweep(read_sweep(sweep), folder, machine, None, bundle=True, launch=launch)  # measures no speeds
    curves = [(curve.label, len(curve.trials)) for curve in outcome.curves]
    assert curves == [(label, 3) for label in ("lstm-1x10", "transformer-1x8", "Leaky-1x20", "Mixer-1x20")]
    table, chains = gather([folder]), make_chains(8, 1.0, chains=3, windows=2)
    for run in to_measure(table)["run_id"]:
        measure_positions(folder / run, chains)
    forget()
    reference("Leaky", "raise SystemExit")
    reference("Mixer", "raise SystemExit")
    table = gather([folder])
    assert table.groupby("model.family").size().to_dict() == dict.fromkeys((leaky, mixer, "lstm", "transformer"), 3)
    assert set(table["status"]) == {"finished"} and set(table["model.rate"].dropna()) == {0.5}
    assert {(run.parent / "family.py").exists() for run in folder.glob("Leaky-*/config.json")} == {True}
    assert in_order(table["model.family"]) == ["lstm", "transformer", leaky, mixer]
    collect(folder, table, tmp_path / "kept", chains, 1.0, "this test")
    write_report(tmp_path / "kept", tmp_path / "report", "ours beside theirs")
    for figure, least in (("figure7", 2), ("rates", 1), ("curves", 1)):  # figure 7: by size and by position
        drawn = (tmp_path / "report" / f"{figure}.svg").read_text()
        assert drawn.count("mean mixer") >= least and drawn.count("Leaky") >= least, figure
    labels = [text.get_text() for text in draw_against_time(table, "here").axes[0].get_legend().get_texts()]
    assert labels == ["LSTM 1 layer", "Transformer gpt2 1 layer", "Leaky 1 layer", "mean mixer 1 layer"]
    sizes = [n * table["params_non_embedding"] for n in (1, 16, 256, 4096)]
    larger = [table.assign(run_id=table["run_id"] + str(n), params_non_embedding=size) for n, size in enumerate(sizes)]
    table = pd.concat(larger, ignore_index=True)
    table["loss"] = (1e9 / table["params_non_embedding"].astype(float)) ** 0.08  # six steps follow no law
    (tmp_path / "t.csv").write_bytes(render(table, "csv"))
    capsys.readouterr()
    assert call("fit", tmp_path / "t.csv", "--law", "kaplan-n", "--by", "model.family", "--bootstrap", 0) == 0
    assert {leaky, mixer} <= set(capsys.readouterr().out.replace(":", " ").split())
    for run in folder.glob("Leaky-*"):
        assert dataclasses.asdict(runs.read_config(run).model)["rate"] == 0.5


@pytest.mark.slow
def test_the_experiment_on_gradients(reference: Any, small_text: Path, tmp_path: Path, monkeypatch: Any) -> None:
    module, axes = experiment.load("gradients"), f"list: [{{model.family: '{reference('Mixer')}', model.d_model: 8}}]"
    sweep = write_sweep(tmp_path / "own.yaml", small_text, axes, steps=3, context_length=12)
    monkeypatch.setattr(module, "WINDOWS", 4)
    assert experiment.run_here(monkeypatch, module, tmp_path, "--sweep", str(sweep)) == 0
    ((name, found),) = json.loads((tmp_path / "report" / "results.json").read_text())["families"].items()
    assert name == family_of(reference("Mixer")).family and np.shape(found["trained"]["input"]) == (1, 12)
