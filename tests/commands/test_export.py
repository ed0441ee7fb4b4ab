"""Parameters leave as safetensors and as models of `transformers`, and come back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from seqjax import runs
from seqjax.cli import main
from seqjax.config import run_id, to_dict
from seqjax.data import cache_folder, hf_tokenizer, load_corpus, load_tokenizer
from seqjax.data.kept import keep_tokenizer
from seqjax.errors import UserError
from seqjax.families import LSTM, Transformer, family_of
from seqjax.host import disk, safetensors
from seqjax.models.language_model import initial_values
from seqjax.trained.exported import arrays_to, config_to
from seqjax.trained.imported import model_from, params_from
from seqjax.trained.opened import OpenRun, open_run
from seqjax.trained.transformers_form import FORMS, form_of
from seqjax.training.start import encoded, write_start

ROTARY = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu"}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2 plain": {"bias": False, "tied_embeddings": True, "mlp": "relu", "d_ff": 24},
    "llama": ROTARY | {"initial": "fan_in", "base_width": 8},
    "llama wide": ROTARY | {"bias": False, "head_width": 6, "initial": "fan_in"},
    "llama tied": ROTARY | {"bias": False, "initial": "fan_in", "tied_embeddings": True},
    "llama grouped": ROTARY | {"kv_heads": 1, "norm_epsilon": 0.1, "rotary_base": 500.0},
    "qwen3": ROTARY
    | {"bias": False, "qk_norm": True, "base_width": 8, "kv_heads": 1, "head_width": 12, "norm_epsilon": 0.1},
}


def call(*words: object) -> int:
    return main([str(word) for word in words])


def shaken(tree: Any) -> Any:
    """Arrays of these shapes away from their initial values: biases are not 0, gains not 1."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0.3, 0.3, x.shape).astype(np.float32), tree)


def shapes_of(model: Any, vocab_size: int, context: int) -> Any:
    inits = initial_values(model, vocab_size, context)
    return jax.eval_shape(lambda key: {name: init(key) for name, init in inits.items()}, jax.random.key(0))


@pytest.fixture
def made(make_config: Any, tmp_path: Path) -> Any:
    """A run folder with shaken parameters, which has not trained."""

    def make(changes: dict[str, Any], tokenizer: str = "bpe-300", family: str = "transformer") -> Path:
        config = make_config(family, **{f"model.{k}": v for k, v in changes.items()}, **{"data.tokenizer": tokenizer})
        words = load_tokenizer(tokenizer, load_corpus(config.data.corpus), cache_folder())
        params = shaken(shapes_of(config.model, words.vocab_size, config.train.context_length))
        name, content = encoded("shaken", params, {"tokenizer_sha256": words.sha256})
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, start=name))
        folder = tmp_path / run_id(config)
        runs.open_run(folder, config)
        keep_tokenizer(folder, words)
        write_start(folder, content)
        disk.write_json(folder / "result.json", {"status": "imported", "steps": 0})
        return folder

    return make


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama wide", "llama grouped", "qwen3"])
def test_a_form_there_and_back_has_the_same_parameters(kind: str) -> None:
    model = Transformer(d_model=16, n_layers=2, n_heads=2, **{**KINDS[kind], "base_width": None, "initial": "gpt2"})
    params = shaken(shapes_of(model, 40, 12))
    config, arrays = config_to(model, 40, 12, None), arrays_to(model, params)
    assert config["architectures"] == [form_of(model).architecture]
    again, vocab_size, context = model_from(config, "config.json")
    back = params_from(again, arrays, "arrays")
    assert (vocab_size, context) == (40, 12)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    arrays["one.more"] = np.zeros(3)
    with pytest.raises(UserError, match=r"one\.more has no place"):
        params_from(again, arrays, "arrays")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_position": "after"}, "norm_position after"),
        ({"residual": False}, "residual false"),
        ({"positions": "none"}, "positions none"),
        ({"positions": "rotary"}, "rotary, norm layernorm"),
        (ROTARY | {"qk_norm": True}, "--model.bias false"),
        ({"qk_norm": True}, "qk_norm true"),
        ({"mlp": "none"}, "mlp none"),
        ({"head_width": 8}, "head_width 8"),
    ],
)
def test_other_forms_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        form_of(Transformer(**changes))
    with pytest.raises(UserError, match="family 'lstm'"):
        form_of(LSTM())


def test_an_own_family_that_derives_from_the_transformer_has_no_class_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom seqjax.families import Transformer\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(Transformer): ...\n"
    )
    with pytest.raises(UserError, match="no class for the family 'Mine@"):
        form_of(family_of(f"{tmp_path}/mine.py:Mine")())


@pytest.mark.parametrize("change", [{"model_type": "mamba"}, {"hidden_act": "gelu"}, {"use_sliding_window": True}])
def test_published_models_of_other_forms_are_refused(change: dict[str, Any]) -> None:
    config = config_to(Transformer(d_model=16, n_heads=2, **ROTARY), 40, 12, None)
    assert model_from(config, "config.json")
    ((key, value),) = change.items()
    with pytest.raises(UserError, match=rf"config.json: {key} '?{value:}"):
        model_from(config | change, "config.json")


def test_safetensors_of_a_cell_hold_names_and_config(made: Any, tmp_path: Path) -> None:
    folder = made({}, "chars", "lstm")
    assert call("export", folder, "--to", "safetensors", "--output", tmp_path / "lstm.safetensors") == 0
    arrays, metadata = safetensors.read(tmp_path / "lstm.safetensors")
    run = open_run(folder)
    assert json.loads(metadata["config"])["model"]["family"] == "lstm" and metadata["run_id"] == folder.name
    np.testing.assert_array_equal(arrays["embedding"], run.params["embedding"])
    assert len(arrays) == len(jax.tree.leaves(run.params))
    loaded = pytest.importorskip("safetensors.numpy").load_file(tmp_path / "lstm.safetensors")
    assert {name: array.tolist() for name, array in loaded.items()} == {n: a.tolist() for n, a in arrays.items()}
    (tmp_path / "cut").write_bytes((tmp_path / "lstm.safetensors").read_bytes()[:-4])
    with pytest.raises(UserError, match="not a whole file"):
        safetensors.read(tmp_path / "cut")


TEXT = "Bene tore  lupi,\n\n   the 12345 cats' don't\tgo; ħéllo 😀   \n" + " " * 40 + "x\n"


@pytest.mark.parametrize("name", ["bytes", "bpe-300", "chars"])
def test_the_tokenizer_is_that_of_tokenizers(name: str, small_text: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = load_tokenizer(name, load_corpus(str(small_text)), cache_folder())
    saved = hf_tokenizer.to_json(ours)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(saved))
    text = TEXT if name != "chars" else "Bene tore\n"
    assert theirs.encode(text).ids == ours.encode(text.encode()).tolist()
    assert theirs.decode(theirs.encode(text).ids) == text
    if name != "chars":
        back = hf_tokenizer.from_json(saved, "tokenizer.json")
        assert back.encode(TEXT.encode()).tolist() == ours.encode(TEXT.encode()).tolist()


def test_a_tokenizer_with_single_digits_and_special_tokens_first_is_read(small_text: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    saved = hf_tokenizer.to_json(load_tokenizer("bpe-300", load_corpus(str(small_text)), cache_folder()))
    special = [{**saved["added_tokens"][0], "content": text, "id": i} for i, text in enumerate(("<|a|>", "<|b|>"))]
    plain = sorted(saved["model"]["vocab"], key=saved["model"]["vocab"].__getitem__)
    saved["model"]["vocab"] = {text: i for i, text in enumerate(["<|a|>", "<|b|>", *plain])}
    saved["added_tokens"] = special
    digits = {"type": "Digits", "individual_digits": True}
    saved["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, saved["pre_tokenizer"]]}
    ours, theirs = hf_tokenizer.from_json(saved, "tokenizer.json"), tokenizers.Tokenizer.from_str(json.dumps(saved))
    padded = hf_tokenizer.from_json(saved | {"normalizer": {"type": "NFC"}}, "tokenizer.json", vocab_size=320)
    assert padded.vocab_size == 320 > ours.vocab_size and hf_tokenizer.from_json(saved, "", 9).sha256 == ours.sha256
    for text in (TEXT, "in 1999  2000\t3 's  '5's   7a 8", "   9"):
        assert padded.encode(text.encode()).tolist() == ours.encode(text.encode()).tolist()
        assert ours.encode(text.encode()).tolist() == theirs.encode(text).ids
        assert ours.decode(ours.encode(text.encode())) == text


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_the_folder_with_equal_logits(
    kind: str, made: Any, small_text: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the library transformers")
    torch = pytest.importorskip("torch", reason="needs torch")
    folder = made(KINDS[kind])
    run = open_run(folder)
    assert call("export", folder, "--to", "hf", "--output", tmp_path / "hf") == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(model).__name__ in {form.architecture for form in FORMS}
    tokens = run.tokenizer.encode(small_text.read_bytes()[:60])[:16].astype(np.int64)[None]
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(tokens)).logits.numpy()
    ours = np.asarray(run.model.apply({"params": run.params}, tokens)[0])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = small_text.read_text()[:200]
    assert words(text)["input_ids"] == run.tokenizer.encode(text.encode()).tolist()


@pytest.mark.slow
def test_an_import_without_its_text_leaves_nothing_and_spoils_nothing(
    made: Any, small_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("export", made({"n_layers": 1}), "--to", "hf", "--output", tmp_path / "hf") == 0
    text = tmp_path / "text.txt"
    words = ("import", tmp_path / "hf", "--runs", tmp_path / "in", "--windows", 64, "--data.corpus", text)
    assert call(*words) == 2 and not (tmp_path / "in").exists()
    text.write_bytes(small_text.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(OpenRun, "evaluate", refuse)
        assert call(*words) == 2
    (run,) = (tmp_path / "in").iterdir()
    capsys.readouterr()
    assert call("train", run, "--no-sample") == 0
    assert "imported, and not evaluated" in capsys.readouterr().out
    assert call(*words) == 0
    whole = runs.read_result(run)
    with monkeypatch.context() as patch:
        patch.setattr(OpenRun, "evaluate", refuse)
        assert call(*words) == 2
    assert runs.read_result(run)["validation"] == whole["validation"]


def refuse(*_: object) -> None:
    raise UserError("not today")


@pytest.mark.slow
def test_an_imported_model_is_evaluated_by_position_and_fine_tuned(
    made: Any, make_config: Any, small_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", made({"n_layers": 1}), "--to", "hf", "--output", tmp_path / "hf") == 0
    words = ("import", tmp_path / "hf", "--runs", tmp_path / "in", "--windows", 64, "--data.corpus", small_text)
    assert call(*words) == 0
    assert "nats per token" in capsys.readouterr().out
    (run,) = (tmp_path / "in").iterdir()
    result = runs.read_result(run)
    assert result["status"] == "imported" and len(result["validation"]["by_position"]) == 16
    assert call("status", tmp_path / "in") == 0
    assert "imported" in capsys.readouterr().out
    config = tmp_path / "tune.yaml"
    tune = {"train.steps": 2, "evaluation.every": 2, "data.tokenizer": "bpe-300", "optimizer.learning_rate": 1e-9}
    tune["model.n_layers"] = 1
    config.write_text(yaml.safe_dump(to_dict(make_config("transformer", **tune))))
    words = ("train", config, "--from", run, "--runs", tmp_path / "runs", "--devices", 1, "--no-sample", "--quiet")
    assert call(*words) == 0
    (tuned,) = (tmp_path / "runs" / "tune").iterdir()
    assert json.loads((tuned / "config.json").read_text())["train"]["start"].startswith(f"{run.name}@")
    np.testing.assert_allclose(open_run(tuned).params["embedding"], open_run(run).params["embedding"], atol=1e-6)
    assert runs.read_result(tuned)["validation"]["loss"] == pytest.approx(result["validation"]["loss"], abs=1e-5)
    (tuned / "start.safetensors").write_bytes((tuned / "start.safetensors").read_bytes()[:-4] + b"1234")
    with pytest.raises(UserError, match=r"sha256 begins with .* train\.start names"):
        open_run(tuned).initial_params()
    assert call(*words, "--data.tokenizer", "bytes") == 2
    assert call(*words, "--model.d-ff", 40) == 2
    said = capsys.readouterr().err
    assert "its tokenizer is bpe-300" in said and "the parameter layers.mlp.W_gate" not in said
    assert "layers.mlp.W_in is [1, 16, 64] there and [1, 16, 40] here" in said
