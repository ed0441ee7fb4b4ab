"""Generation: the experiment at tiny size, its measures by hand, and what is told of it was recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import experiment
import pytest

from seqjax.plots.generation import draw_generation

RECORDED = experiment.RESULTS / "generation"
TINY = Path(__file__).parent / "tiny-generation.yaml"
module = experiment.load("generation")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the experiment writes of two families and a model of lines, after two steps each."""
    place = tmp_path_factory.mktemp("generation")
    lines = place / "tiny-lines.yaml"
    lines.write_text(f"""
base: {experiment.REPOSITORY}/configs/tasks/lines.yaml
model: {{d_model: 8}}
task: {{words: 300, width: 4, held_out: 5}}
train: {{steps: 2, evaluate_every: 2}}
optimizer: {{warmup_steps: 1}}
grid: {{train.seed: [0, 1]}}
""")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TEMPERATURES", (0.0, 1.0)), ("CHARACTERS", 12), ("SAMPLES", 2), ("PER_AUTHOR", 3)):
            patch.setattr(module, name, value)
        patch.setattr(module, "LINES", lines)
        assert experiment.run_here(patch, module, place, "--sweep", str(TINY)) == 0
    assert {path.name for path in (place / "report").iterdir()} == {
        "results.json", "samples.md", "generation.svg", "generation.png"
    }  # fmt: skip
    return json.loads((place / "report" / "results.json").read_text())


@pytest.mark.slow
def test_every_family_and_author_is_sampled_at_every_temperature(record: dict) -> None:
    many, one = record["many to many"], record["one to many"]
    assert set(many["families"]) == {"window", "transformer"}
    for own in many["families"].values():
        assert [row["temperature"] for row in own["by temperature"]] == [0.0, 1.0]
        for row in own["by temperature"]:
            assert row["from prompt"].startswith(module.PROMPT) and row["from first"].startswith(module.FIRST)
            assert len(row["known words"]) == 1
    for row in one["by temperature"]:
        assert {author: len(lines) for author, lines in row["lines"].items()} == dict.fromkeys(
            module.AUTHORS, 3 if row["temperature"] else 1
        )
        assert all(len(seeds) == 2 for seeds in row["right"].values())
    assert 0.9 < many["known words, held out"] < 1.0  # of whole works that were held out
    assert all(own["mean"] > 0.4 for own in one["held out"].values())  # real lines of four words; chance is a third
    table = module.samples_table(record)
    assert table.count("| window |") == 2 and table.count("| kjv |") == 2
    assert "judged by unigrams" in module.summary(record)


def test_known_words() -> None:
    assert module.known_share(["The sea, the sae!", "o'er"], {"the", "sea", "o'er"}) == 4 / 5
    assert module.known_share([""], {"a"}) == 0.0


def test_the_interval_of_a_mean_over_authors() -> None:
    own, counts = {"a": 0.5, "b": 0.8, "mean": 0.65}, {"a": 100, "b": 400}
    want = 1.96 * math.sqrt(0.25 / 100 + 0.16 / 400) / 2
    assert module.half_width(own, counts) == pytest.approx(want)


def test_a_cell_does_not_break_its_table() -> None:
    assert module._cell("a|b\n*c* <d>") == "a\\|b↵\\*c\\* &lt;d>"


def test_the_figure_has_a_curve_for_each_family_and_judge() -> None:
    curve = [(0.0, 0.9, 0.01), (1.0, 0.8, 0.02)]
    made = draw_generation({"lstm": curve, "gru": curve}, 0.97, {"unigrams": curve}, {"unigrams": 0.8})
    left, right = made.axes
    assert len(left.containers) == 2 and len(right.containers) == 1
    assert {text.get_text() for text in left.get_legend().get_texts()} == {"lstm", "gru", "held-out text"}


def test_what_is_told_was_recorded() -> None:
    if not (RECORDED / "results.json").is_file():
        pytest.skip("nothing recorded yet")
    saved = json.loads((RECORDED / "results.json").read_text())
    assert module.summary(saved) in (experiment.REPOSITORY / "experiments" / "README.md").read_text()
    assert module.samples_table(saved) == (RECORDED / "samples.md").read_text()
