"""Translation as a task: padding and neighbours change nothing, mistakes are named, BLEU is sacrebleu's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from quick import slow

from seqjax.cli import main
from seqjax.config import to_dict
from seqjax.data.buckets import pair_batch
from seqjax.errors import UserError
from seqjax.families import GRU, Transformer, Window
from seqjax.runs.config_file import load_config
from seqjax.tasks.bleu import bleu
from seqjax.tasks.translation import Config, TranslationTask, load, make_task, tokenized, translate, weighted
from seqjax.training.loop import train

REPOSITORY = Path(__file__).parent.parent.parent

GRU = Config(GRU(d_model=16, n_layers=1), TranslationTask(training_pairs=200))
TRANSFORMER = replace(GRU, model=Transformer(d_model=16, n_layers=1, n_heads=2, d_ff=16))


@pytest.mark.parametrize("run", [GRU, slow(TRANSFORMER)], ids=["gru", "transformer"])
def test_padding_and_neighbours_change_neither_loss_nor_answer(run: Config) -> None:
    translation = load(run)
    task = make_task(run, translation)
    params = jax.tree.map(lambda p: 3 * p, jax.jit(task.objective.init)(jax.random.key(0)))
    pairs = translation.pairs.splits["train"][:3]
    tokens = tokenized(pairs, translation.vocabulary)
    loss = jax.jit(lambda batch: task.objective.loss(params, batch, None, jax.random.key(0))[0])
    alone = [(pair_batch(tokens, [i]), len(tokens.targets[i]) - 1) for i in range(3)]
    wanted = sum(float(loss(weighted(batch))) * count for batch, count in alone) / sum(count for _, count in alone)
    np.testing.assert_allclose(loss(weighted(pair_batch(tokens, [0, 1, 2]))), wanted, rtol=1e-4)
    np.testing.assert_allclose(loss(weighted(pair_batch(tokens, [2, 0, 1], size=5))), wanted, rtol=1e-4)
    sources = [source for source, _ in pairs]
    together = translate(translation, params, sources, beam=3, penalty=0.6)
    assert together == [translate(translation, params, [source], beam=3, penalty=0.6)[0] for source in sources]


def test_an_empty_sentence_and_a_family_that_cannot_write_are_named(tmp_path: Path) -> None:
    translation = load(GRU)
    with pytest.raises(UserError, match="sentence 2: is empty"):
        translate(translation, {}, ["one", " "], beam=1)
    with pytest.raises(UserError, match=r"'window' cannot decode; allowed: lstm, transformer, gru, elman"):
        train(replace(GRU, model=Window()), tmp_path / "run")
    with pytest.raises(UserError, match="no pair has at most 2 tokens"):
        short = replace(GRU, task=replace(GRU.task, max_length=2))
        make_task(short, load(short))


def test_own_files_are_read(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"my.{split}.source").write_text("a b\nb a\n")
        (tmp_path / f"my.{split}.target").write_text("1 2\n2 1\n")
    run = replace(GRU, task=TranslationTask(corpus=str(tmp_path / "my")))
    pairs = load(run).pairs
    assert pairs.splits == dict.fromkeys(("train", "validation"), (("a b", "1 2"), ("b a", "2 1")))
    assert make_task(run, load(run)).final({}) == {"repeats": {"validation": 2}}
    (tmp_path / "my.validation.target").write_text("1 2\n")
    with pytest.raises(UserError, match=r"has 2 lines and .* has 1"):
        load(run)
    with pytest.raises(UserError, match=r"no file .*mine\.train\.source; allowed: numbers, multi30k, or"):
        load(replace(run, task=TranslationTask(corpus=str(tmp_path / "mine"))))


def test_bleu_is_that_of_sacrebleu() -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is an extra: translation")
    references = ["the cat sat on the mat .", "two dogs run through deep snow ."]
    assert bleu([r.upper() for r in references], references, resamples=10)["bleu"] == pytest.approx(100.0)
    half = bleu(["the cat sat on the mat .", "nothing of this is right here"], references, resamples=10)
    assert 0 < half["bleu"] < 70 and half["signature"].startswith("nrefs:1")
    with pytest.raises(UserError, match="1 answers for 2 references"):
        bleu(["a"], references)


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "configs" / "tasks").glob("*30k*.yaml")))
def test_shipped_configs_are_read(name: str) -> None:
    run = load_config(REPOSITORY / "configs" / "tasks" / f"{name}.yaml")
    assert run.task.corpus == "multi30k" and run.task.lowercase


def test_a_wrong_key_of_a_task_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("model:\n  family: gru\ntask:\n  corpus: numbers\n  beams: 3\n")
    with pytest.raises(UserError, match=r"task\.yaml:5: task\.beams: unknown key; .*did you mean 'beam'"):
        load_config(path, {"task.name": "translation"})


@pytest.mark.parametrize(("accumulation", "devices", "allowed"), [
    (4, 1, "allowed: 4"),
    (2, 2, "allowed: 4"),
    (1, 2, None),
    (8, 1, "allowed: none; 1 device and train.accumulation 8 need at least 8"),
])  # fmt: skip
def test_fewer_pairs_than_a_batch_has_rows_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], accumulation: int, devices: int, allowed: str | None
) -> None:
    run = replace(GRU, task=replace(GRU.task, training_pairs=6))
    train_ = {"batch_size": 8, "accumulation": accumulation, "steps": 1, "evaluate_every": 1}
    run = replace(run, train=replace(run.train, **train_))
    (tmp_path / "c.json").write_text(json.dumps(to_dict(run)))
    words = ["train", str(tmp_path / "c.json"), "--runs", str(tmp_path / "runs"), "--devices", str(devices)]
    assert main(words) == (0 if allowed is None else 2)
    if allowed is not None:
        said = capsys.readouterr().err
        assert "train.batch_size: 8 is more than the 6 training pairs" in said and allowed in said
        assert not (tmp_path / "runs").exists()
