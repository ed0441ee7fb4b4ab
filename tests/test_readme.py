"""What the README and the pages of docs/ claim is what was recorded, and meets the marks set beforehand."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from experiment import load

from seqjax.config import run_id
from seqjax.runs.config_file import load_config

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "experiments" / "results" / "baselines"
ROWS = json.loads((RESULTS / "results.json").read_text())


def page(name: str) -> str:
    return (REPOSITORY / name).read_text()


def test_the_page_of_experiments_shows_the_recorded_table() -> None:
    readme = page("experiments/README.md")
    for line in (RESULTS / "table.md").read_text().splitlines():
        if line.startswith("|"):
            assert line in readme


@pytest.mark.parametrize("name", ROWS)
def test_recorded_runs_are_of_the_shipped_configs(name: str) -> None:
    assert ROWS[name]["run_id"] == run_id(load_config(REPOSITORY / "configs" / f"{name}.yaml"))
    assert ROWS[name]["status"] == "finished"


def test_nanogpt_reaches_its_published_loss() -> None:
    assert ROWS["published/nanogpt-cpu"]["validation"]["loss"] <= 1.88


@pytest.mark.parametrize("name", ["english/lstm", "english/transformer", "published/wikitext2-lstm"])
def test_models_beat_the_compressor(name: str) -> None:
    assert ROWS[name]["validation"]["bits_per_byte"] < ROWS[name]["bz2_bits_per_byte"]


PAGES = ("guide", "laws", "performance", "code", "clusters", "devices", "preflight")


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{page}.md" for page in PAGES)])
def test_every_path_in_a_page_exists(name: str) -> None:
    words = page(name).replace("`", " ").replace("(", " ").replace(")", " ").split()
    for word in words:
        if word.startswith(("configs/", "experiments/", "seqjax/", "tests/", "docs/", "../")):
            place = REPOSITORY / name if word.startswith("../") else REPOSITORY / "README.md"
            assert (place.parent / word.rstrip(".,;:").partition("#")[0]).exists(), word


QUOTED = (("GPT-2 124M", "h100"), ("GPT-2 350M", "h100"), ("LSTM 300M", "h100"), ("GPT-2 1.3B, fsdp 16", "256xh100"),
          ("GPT-2 1.3B, fsdp 16", "v5e-256"))  # fmt: skip


def test_what_is_quoted_of_the_preflight_is_recorded() -> None:
    rows = {(row["name"], row["target"]): row for row in recorded("preflight")["rows"]}
    quoted = (
        plain("docs/preflight.md")
        .partition("In bfloat16 with T 1,024, ")[2]
        .partition("results/preflight/table.txt")[0]
    )
    in_order = re.findall(r"([\d.]+)(?: of the [\d.]+)? GiB", quoted)
    assert in_order == [f"{rows[place]['GiB']:.1f}" for place in QUOTED]
    assert f"at least {rows[QUOTED[0]]['bound_ms']:.0f} ms a step" in quoted
    assert f"(B 256: {in_order[-2]} GiB of an H100)" in " ".join(page("docs/preflight.md").split())


BUNDLES = json.loads((REPOSITORY / "experiments" / "results" / "bundles" / "results.json").read_text())


def recorded(name: str) -> dict[str, Any]:
    return json.loads((REPOSITORY / "experiments" / "results" / name / "results.json").read_text())


def test_the_recorded_benchmark_of_bundles_is_shown() -> None:
    assert load("bundles").as_text(BUNDLES) in page("docs/performance.md")


def test_what_fits_were_measured_to_do_is_shown() -> None:
    readme = page("docs/laws.md")
    assert load("coverage").sentence(recorded("coverage")) in readme
    assert load("chinchilla").as_text(recorded("chinchilla")) in readme


def plain(name: str) -> str:
    return " ".join(page(name).split())


def bracket(found: dict[str, float], digits: int = 3) -> str:
    return "{} ({} to {})".format(*(f"{found[key]:.{digits}f}" for key in ("value", "low", "high")))


def test_scaling_curves_and_leads_are_as_recorded() -> None:
    readme = plain("experiments/README.md")
    for kind, name in (("lstm", "LSTM, "), ("transformer modern", "Transformer modern, ")):
        law = recorded("size_data_compute")["L(C)"][kind]
        low, high = law["intervals"]["alpha_C"]
        assert f"C^-{law['params']['alpha_C']:.3f} ({name}{low:.3f} to {high:.3f})" in readme
        size = recorded("isoflop")[kind]
        low, high = size["interval"]
        assert f"C^{size['a']:.2f} ({low:.2f} to {high:.2f}) for the {name.split()[0].strip(',')}" in readme
    for form, name in (("today", "modern"), ("GPT-2", "gpt2")):
        (row,) = (row for key, row in recorded("lead")["forms"].items() if f", {form}'s" in key)
        words = bracket(row["lead_over_lstm"])
        assert any(f"{words}{unit} for `{name}`" in readme for unit in ("", " nats per token"))


def test_transferred_rates_are_as_recorded() -> None:
    readme, found = plain("experiments/README.md"), recorded("transfer")["found"]
    assert (REPOSITORY / "experiments" / "results" / "transfer" / "transfer.md").read_text().strip() in page(
        "experiments/README.md"
    )

    def best(rule: str, place: int) -> float:
        """The lowest loss of the width at a place. Under muP its rate is that of the smallest width."""
        return min(list(found[rule]["curves"].values())[place]["loss"])

    there, own = best("Transformer, muP", 3), best("Transformer, standard", 3)
    assert f"it ends at {there:.3f} nats per token, and at {own:.3f} with a rate searched there" in readme
    four, eight = ((best("LSTM, muP", place), best("LSTM, standard", place)) for place in (2, 3))
    assert f"it ends at {four[0]:.3f}, where a rate of its own gives {four[1]:.3f}" in readme
    assert f"eight times as wide at {eight[0]:.3f} and {eight[1]:.3f}" in readme
    free = [best("LSTM, muP, no alignment", place) for place in (2, 3)]
    assert f"the LSTM ends at {free[0]:.3f} and {free[1]:.3f}" in readme


def test_intervals_hold_the_truth_in_90_to_99_percent() -> None:
    """Means over the constants of each law, as recorded."""
    for row in recorded("coverage")["rows"]:
        mean = sum(row["coverage"].values()) / len(row["coverage"])
        assert 0.90 <= mean <= 0.99, row


def test_bundles_in_the_pool_beat_torch_at_the_smallest_size() -> None:
    rows = [row for row in BUNDLES["rows"] if row.get("torch")]
    smallest = min(rows, key=lambda row: (row["width"], row["a"]))
    assert smallest["torch"] > smallest["d"] < smallest["a"]


BENCHMARKS = REPOSITORY / "experiments" / "results" / "benchmarks"
SPEED = json.loads((BENCHMARKS / "train_step.json").read_text())


def ratios(other: str, *families: str) -> list[float]:
    """Tokens per second of seqjax over those of another system, as recorded, row by row."""
    rows = [row["systems"] for row in SPEED["rows"] if row["family"] in families]
    return [row["seqjax"]["tokens_per_second"] / row[other]["tokens_per_second"] for row in rows]


def test_the_recorded_speed_is_shown() -> None:
    assert load("benchmarks/train_step").summary(SPEED) in page("docs/performance.md")


def test_the_train_step_meets_its_marks() -> None:
    """On a CPU: the marks were set before any of it was written."""
    assert len(SPEED["rows"]) == 22 and SPEED["repeats"] >= 5
    lstm = ratios("flax", "lstm")
    assert statistics.geometric_mean(lstm) >= 2.0 and min(lstm) >= 1.3
    recurrent = ratios("torch", "lstm", "gru", "elman")
    assert min(recurrent) >= 1.0 and statistics.geometric_mean(recurrent) >= 1.3
    for other in ("torch", "compiled"):
        assert min(ratios(other, "transformer")) >= 1.0


def test_compiling_takes_no_longer_than_flax() -> None:
    for row in (row["systems"] for row in SPEED["rows"] if row["family"] != "transformer"):
        assert row["seqjax"]["compile_seconds"] <= row["flax"]["compile_seconds"]


def test_lean_recurrences_need_a_quarter_of_the_memory() -> None:
    rows = json.loads((BENCHMARKS / "recurrence_memory.json").read_text())["rows"]
    for row in (row for row in rows if row["context"] == 1024):
        assert row["lean"] <= row["scan"] / 4, row
