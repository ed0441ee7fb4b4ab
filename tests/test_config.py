"""Configs: files, overlays, ids, and one clear line for every mistake."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from seqjax.config import Config, TrainConfig, canonical_json, program_key, run_id, to_dict
from seqjax.config.fields import leaves
from seqjax.config.identity import PLACED
from seqjax.errors import UserError
from seqjax.families import GRU, LSTM, RGLRU, Elman, Transformer
from seqjax.runs.config_file import load_config, with_options
from seqjax.runs.tree import dropped_fields, read_tree
from seqjax.tasks import abilities

REPOSITORY = Path(__file__).parent.parent


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


MISTAKES = {  # (file, what the message must hold)
    "unknown key": (
        "model: {family: lstm, d_modell: 3}",
        ["c.yaml:1: model.d_modell: unknown key", "did you mean 'd_model'"],
    ),
    "unknown section": (
        "model: {family: lstm}\ntrian: {steps: 3}",
        ["c.yaml:2: trian: unknown key", "did you mean 'train'"],
    ),
    "key of another family": (
        "model: {family: lstm, n_heads: 3}",
        ["model.n_heads: unknown key", "allowed: family, d_model"],
    ),
    "unknown family": (
        "model: {family: lstmm}",
        ["model.family: 'lstmm'", "allowed: lstm, transformer", "did you mean 'lstm'"],
    ),
    "no family": ("model: {d_model: 3}", ["model.family: missing", "allowed: lstm"]),
    "no model": ("train: {steps: 3}", ["model: missing"]),
    "bad choice": (
        "model: {family: lstm}\noptimizer:\n  schedule: cosin",
        ["c.yaml:3: optimizer.schedule: 'cosin'", "did you mean 'cosine'"],
    ),
    "text for number": (
        "model: {family: lstm}\ntrain: {steps: many}",
        ["c.yaml:2: train.steps", "valid integer", "'many'"],
    ),
    "truth for number": ("model: {family: lstm}\ntrain: {steps: true}", ["train.steps", "valid integer"]),
    "fraction for whole number": ("model: {family: lstm}\ntrain: {steps: 1.5}", ["train.steps", "integer"]),
    "too small": ("model: {family: lstm}\ntrain: {steps: 0}", ["train.steps", "greater than 0"]),
    "not a number": ("model: {family: lstm, dropout: .nan}", ["model.dropout", "finite"]),
    "value for section": ("model: {family: lstm}\ntrain: 3", ["c.yaml:2: train"]),
    "written twice": (
        "model: {family: lstm}\ntrain:\n  steps: 3\n  steps: 4",
        ["c.yaml:4: train.steps: written twice", "c.yaml:3"],
    ),
    "not YAML": ("model: {family: lstm", ["c.yaml:", "not valid YAML"]),
    "a list": ("- 1", ["expected keys and values"]),
    "heads do not divide": (
        "model: {family: transformer, d_model: 100, n_heads: 8}",
        ["model.n_heads: 8 heads do not divide d_model 100", "1, 2, 4, 5"],
    ),
    "odd rotary width": (
        "model: {family: transformer, d_model: 6, n_heads: 2, positions: rotary}",
        ["model.n_heads", "even"],
    ),
    "tied, other width": (
        "model: {family: gru, d_hidden: 7, tied_embeddings: true}",
        ["model.tied_embeddings", "7", "128"],
    ),
    "accumulation": (
        "model: {family: lstm}\ntrain: {batch_size: 6, accumulation: 4}",
        ["c.yaml:2: train.accumulation: 4", "1, 2, 3, 6"],
    ),
    "warmup too long": (
        "model: {family: lstm}\ntrain: {steps: 6}\noptimizer: {warmup_steps: 7}",
        ["optimizer.warmup_steps: 7"],
    ),
    "streams without state": (
        "model: {family: window}\ndata: {batching: streams}",
        ["data.batching", "allowed: windows"],
    ),
    "truncation without recurrence": (
        "model: {family: transformer}\ntrain: {bptt: 16}",
        ["c.yaml:2: train.bptt", "'transformer' has no recurrence", "allowed: null"],
    ),
    "truncation beyond the context": (
        "model: {family: lstm}\ntrain: {context_length: 32, bptt: 33}",
        ["c.yaml:2: train.bptt: 33 steps", "at most 32"],
    ),
    "no steps at all": ("model: {family: lstm}\ntrain: {bptt: 0}", ["train.bptt", "greater than 0"]),
    "forget bias of a GRU": ("model: {family: gru, forget_bias: 2.0}", ["model.forget_bias", "lstm has it"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    text, fragments = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path / "c.yaml", text))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "english.yaml", "model: {family: lstm}")
    with pytest.raises(UserError, match=r"no such config file; did you mean 'english.yaml'"):
        load_config(tmp_path / "englsh.yaml")


def test_a_mistake_on_the_command_line_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "model: {family: transformer}")
    with pytest.raises(UserError, match=r"^command line: model.n_heads: 3 heads do not divide d_model 128"):
        load_config(path, {"model.n_heads": "3"})


def test_numbers_may_be_written_as_people_write_them(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "model: {family: lstm}\noptimizer: {learning_rate: 3e-4, clip_norm: 1}")
    config = load_config(path, {"optimizer.beta2": "9.5E-1", "data.corpus": "123"})
    assert (config.optimizer.learning_rate, config.optimizer.clip_norm, config.optimizer.beta2) == (3e-4, 1.0, 0.95)
    assert config.data.corpus == "123"


def test_one_level_of_base(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "model: {family: lstm, d_model: 32}\ntrain: {steps: 7, batch_size: 4}")
    child = write(tmp_path / "child.yaml", "base: base.yaml\ntrain: {steps: 9}")
    config = load_config(child, {"train.context_length": "5"})
    assert (config.model.d_model, config.train.steps, config.train.batch_size, config.train.context_length) == (
        32,
        9,
        4,
        5,
    )
    grandchild = write(tmp_path / "grandchild.yaml", "base: child.yaml")
    with pytest.raises(UserError, match=r"child.yaml:1: base: a base file cannot have a base of its own"):
        load_config(grandchild)


def test_another_kind_of_family_drops_the_model_below(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "model: {family: lstm, d_model: 32, forget_bias: 2.0}")
    assert load_config(path, {"model.family": "transformer"}).model == Transformer()
    path = write(tmp_path / "d.yaml", "model: {family: lstm, d_model: 32}")
    assert load_config(path, {"model.family": "gru"}).model == GRU(d_model=32)


SWEEPS = [*REPOSITORY.glob("configs/sweeps/*.yaml"), *REPOSITORY.glob("configs/figure7/[!b]*.yaml")]  # not base.yaml
TASKS = [*REPOSITORY.glob("configs/tasks/*.yaml")]  # of other dataclasses, see seqjax.tasks
CONFIGS = sorted(set(REPOSITORY.glob("configs/**/*.yaml")) - {*SWEEPS, *TASKS})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_saves_and_loads_again(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(to_dict(config)))
    assert load_config(saved) == config
    assert canonical_json(load_config(saved)) == canonical_json(config)


def other(value: Any, schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return next(choice for choice in schema["enum"] if choice != value)
    if isinstance(value, bool):
        return not value
    if value is None:
        return 16
    return f"{value}x" if isinstance(value, str) else value * 0.5 if isinstance(value, float) and value else 3


def test_every_field_changes_the_run_id() -> None:
    for config in (Config(GRU()), Config(Transformer())):
        seen = {run_id(config)}
        fields = [
            (key, schema)
            for key, schema in leaves()
            if config.model.family in schema["families"] and not key.startswith(("horizon.", "size.", *PLACED))
        ]
        for key, schema in fields:
            section, _, name = key.rpartition(".")
            owner = getattr(config, section) if section else config
            if key == "model.family":
                changed = Elman()
            else:
                changed = dataclasses.replace(owner, **{name: other(getattr(owner, name), schema)})
            seen.add(run_id(dataclasses.replace(config, **{section: changed}) if section else changed))
        assert len(seen) == 1 + len(fields)


def test_every_field_is_documented() -> None:
    assert [key for key, schema in leaves() if not schema.get("description") and key != "model"] == []


def test_later_keys_leave_old_ids_alone() -> None:
    """At its default a key that came later is no part of the id; at another value it is."""
    changes = {"recurrence": "scan", "attention_kernel": "fused"}
    for model, key in ((LSTM(), "recurrence"), (Transformer(), "attention_kernel"), (RGLRU(), "attention_kernel")):
        config = Config(model)
        assert key not in canonical_json(config)
        other = Config(dataclasses.replace(model, **{key: changes[key]}))
        assert key in canonical_json(other) and run_id(other) != run_id(config)
    whole, cut = (Config(LSTM(), train=TrainConfig(bptt=bptt)) for bptt in (None, 128))
    assert "bptt" not in canonical_json(whole) and run_id(cut) != run_id(whole)
    assert program_key(cut) != program_key(whole)  # another gradient is another program
    assert run_id(Config(LSTM())) == "lstm-2x128-fd1a4dc055"
    texts = [canonical_json(abilities.Config(model)) for model in (Transformer(), RGLRU(), LSTM())]
    assert ["attention_kernel" in text for text in texts] == [True, False, False]  # as in the first runs of tasks
    assert "recurrence" in texts[2]


def test_fields_that_another_family_drops_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lstm.yaml"
    path.write_text("model: {family: lstm, d_model: 8, n_layers: 1, forget_bias: 2.0}\n")
    below = read_tree(path)
    told = dropped_fields(below, with_options(below, {"model.family": "transformer", "model.n_layers": "3"}))
    assert f"transformer in place of lstm ({path}:1): dropped d_model 8, forget_bias 2.0; kept nothing" in told
    told = dropped_fields(below, with_options(below, {"model.family": "gru"}))
    assert "dropped forget_bias 2.0; kept d_model, n_layers of" in told
    assert dropped_fields(below, with_options(below, {"model.d_model": "16"})) == ""
