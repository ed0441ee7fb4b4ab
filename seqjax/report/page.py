"""The report of a comparison of families: one HTML file that holds everything, made of the files of
:mod:`seqjax.sweeps.collect` alone, and its figures as SVG and PNG beside it.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from seqjax import runs
from seqjax.errors import UserError
from seqjax.report import families as draw
from seqjax.report.figures import draw_fits
from seqjax.report.style import save
from seqjax.scaling import claims, comparison
from seqjax.scaling.families import crossing, frontier
from seqjax.scaling.files import write_fits
from seqjax.scaling.fits import fit
from seqjax.scaling.fitting import Fit
from seqjax.scaling.points import at_best_rates, read_points
from seqjax.scaling.summary import describe
from seqjax.units import duration, si

MAIN = ("lstm", "transformer")


@dataclass(frozen=True)
class Material:
    """The files of one comparison, read."""

    table: pd.DataFrame
    chosen: pd.DataFrame
    comparison: comparison.Comparison
    curves: dict[str, Any]
    search: list[dict[str, Any]]
    where: dict[str, Any]


def read_material(folder: Path, draws: int = 2000) -> Material:
    """Read what :func:`seqjax.sweeps.collect.collect` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    from seqjax.sweeps.table import read_table

    try:
        curves, search, where = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("curves.json", "search.json", "where.json")
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: is not a folder of collected results: {error}") from None
    table = read_table(folder / "runs.csv")
    of_runs, chains, characters = comparison.load(folder / "positions.npz")
    found = comparison.compare(of_runs, chains, characters, draws)
    chosen = at_best_rates(table)
    main = (chosen["train.context_length"] == chains.context) & (chosen["data.batching"] == "windows")
    return Material(table, chosen[main].reset_index(drop=True), found, curves, search, where)


def write_report(folder: Path, target: Path, title: str, command: str) -> list[claims.Judged]:
    """Judge, fit and draw what lies in ``folder``, and write ``index.html``, figures, fits and verdicts to ``target``.

    Raises:
        UserError: a file is missing or damaged, or a place cannot be written.
    """
    material = read_material(folder)
    judged = claims.judge(material.comparison)
    fits, crossings = _fits(material)
    figures = _figures(material, fits)
    with runs.storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name, (made, _, _) in figures.items():
            for kind in ("svg", "png"):
                save(made, target / f"{name}.{kind}")
        if fits:
            write_fits(target / "fits.json", fits)
        runs.write_json(target / "claims.json", claims_json(judged, material))
        runs.write_bytes_atomically(target / "runs.csv", (folder / "runs.csv").read_bytes())
        context = _context(material, judged, fits, crossings, figures, target)
        page = _template().render(title=title, command=command, **context)
        runs.write_atomically(target / "index.html", page)
    return judged


def _template() -> jinja2.Template:
    text = resources.files("seqjax.report").joinpath("templates/comparison.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)


def _fits(m: Material) -> tuple[dict[str, Fit], list[str]]:
    """L(N) of each family at the best depth of each size, and how the families cross in N and in C, in words."""
    fits, on_frontier, said = {}, {}, []
    for family in [f for f in draw.FAMILIES if f in set(m.chosen["model.family"])]:
        rows = m.chosen[m.chosen["model.family"] == family]
        best = [m.comparison.models[m.comparison.best(family, size)] for size in m.comparison.sizes(family)]
        at_best_depth = rows[rows["run_id"].isin([run_id for model in best for run_id in model.run_ids])]
        try:
            points = read_points(at_best_depth, {"params": "non-embedding"}, unique=False)
            fits[family] = fit(points, "kaplan-n", bootstrap=1000)
            points = frontier(read_points(rows, {"flops": "exact"}, unique=False))
            on_frontier[family] = fit(points, "kaplan-c", bootstrap=1000, diagnose=False)
        except UserError as error:
            said.append(f"{draw.FAMILIES[family]}: {error}")
    for name, found in (("parameters", fits), ("training compute", on_frontier)):
        if all(family in found for family in MAIN):
            names = tuple(draw.FAMILIES[family] for family in MAIN)
            said.append(f"Laws over {name}: {crossing(found[MAIN[0]], found[MAIN[1]], names).verdict}.")
    return fits, said


def _figures(m: Material, fits: Mapping[str, Fit]) -> dict[str, tuple[Figure, str, bool]]:
    """name -> figure, caption, whether it is a small one."""
    c = m.comparison
    spans = ""
    if c.chains.early:
        spans = (
            f" Grey: the same tokens, read with context of {c.chains.early[0]} to {c.chains.early[1]} tokens "
            f"(100 to 128 of the paper's) and of {c.chains.late[0]} to {c.chains.late[1]}."
        )
    note = f"{_corpus(m)}; {_where(m)}"
    sizes = dict(zip(m.table["run_id"], m.table["params_non_embedding"].astype(float), strict=True))
    main = [
        curve
        for curve in m.search
        if sizes.get(curve["trials"][0]["runs"][0]) == sizes.get(curve["trials"][0]["runs"][0])
    ]
    usual = [curve for curve in main if _context_of(m, curve) == c.chains.context]
    made = {
        "figure7": (
            draw.draw_figure7(m.chosen, c, note),
            "Left: held-out loss against non-embedding parameters, best learning rate of each model. Right: held-out "
            "loss per token against its position in the context." + spans,
            False,
        ),
        "lead": (
            draw.draw_lead(c),
            "The LSTM's loss minus that of the Transformer of the same size, on the same tokens, by position.",
            True,
        ),
        "compute": (
            draw.draw_against_compute(m.chosen, m.curves),
            "Held-out loss against training compute.",
            False,
        ),
        "time": (
            draw.draw_against_time(m.chosen, _machine(m)),
            "The same runs over the time that training took.",
            True,
        ),
        "curves": (
            draw.draw_learning_curves(m.chosen, m.curves),
            "Held-out loss along training, best learning rate of each model; markers tell depths apart.",
            False,
        ),
        "rates": (
            draw.draw_rates(usual, sizes),
            "Final held-out loss by learning rate; stars: chosen; crosses at the top: diverged.",
            False,
        ),
    }
    if fits:
        named = {draw.FAMILIES[family]: found for family, found in fits.items()}
        made["fits"] = (
            draw_fits(named),
            "L(N) at the best depth of each size; the runs are far from convergence, so the exponents are of this "
            "budget, not of the paper's.",
            True,
        )
    return made


def _context_of(m: Material, curve: Mapping[str, Any]) -> int:
    row = m.table[m.table["run_id"] == curve["trials"][0]["runs"][0]]
    return int(row["train.context_length"].iloc[0]) if len(row) else -1


def _context(
    m: Material, judged: Sequence[claims.Judged], fits: Mapping[str, Fit], crossings: Sequence[str],
    figures: Mapping[str, tuple[Figure, str, bool]], target: Path,
) -> dict[str, Any]:  # fmt: skip
    states = Counter(m.table["status"])
    edges = [curve for curve in m.search if curve["edge"]]
    return {
        "summary": summary(judged),
        "where": f"{_corpus(m)}. {_where(m)}.",
        "characters_per_token": m.comparison.characters_per_token,
        "draws": len(m.comparison.loss_SxMxP) - 1,
        "seeds": m.comparison.seeds,
        "figures": {
            name: {
                "file": name,
                "alt": caption,
                "caption": caption,
                "small": small,
                "data": _inline(target / f"{name}.svg"),
            }
            for name, (_, caption, small) in figures.items()
        },
        "claims": [claim_row(row) for row in judged],
        "fits": [(draw.FAMILIES[family], describe(found)) for family, found in fits.items()],
        "crossings": crossings,
        "rates": ", ".join(f"{rate:g}" for rate in (m.where["sweep"]["search"] or {}).get("rates", [])),
        "edges": f"For {len(edges)} of {len(m.search)} models it lies at an edge of what was tried."
        if edges
        else "For no model does it lie at an edge of what was tried.",
        "runs_summary": ", ".join(f"{count} {state}" for state, count in states.most_common()) + ".",
        "columns": [name for name, _ in COLUMNS],
        "rows": [[show(row) for _, show in COLUMNS] for _, row in _sorted(m.table).iterrows()],
        "how": _how(m),
    }


def summary(judged: Sequence[claims.Judged]) -> str:
    """How many claims have which verdict, in a sentence."""
    counts = Counter(row.verdict for row in judged)
    parts = [f"{counts[v]} {v}" for v in (claims.REPRODUCED, claims.NOT_REPRODUCED, claims.NOT_RESOLVED) if counts[v]]
    return f"Of {len(judged)} claims of Kaplan et al. 2020 about LSTMs and Transformers: {', '.join(parts)}."


def claim_row(row: claims.Judged) -> dict[str, str]:
    """One claim as text."""
    known = math.isfinite(row.low) or math.isfinite(row.high)
    return {
        "name": row.claim.name,
        "says": row.claim.says,
        "tests": row.claim.tests,
        "source": row.claim.source,
        "unit": row.claim.unit,
        "value": _number(row.value),
        "interval": f"{_number(row.low)} to {_number(row.high)}" if known else "-",
        "verdict": row.verdict,
        "css": {claims.REPRODUCED: "reproduced", claims.NOT_REPRODUCED: "not-reproduced"}.get(
            row.verdict, "not-resolved"
        ),
        "why": row.why,
    }


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.3f}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")


def claims_json(judged: Sequence[claims.Judged], m: Material) -> dict[str, Any]:
    """The verdicts with their numbers; what is not finite becomes null."""
    finite = lambda x: x if math.isfinite(x) else None  # noqa: E731
    return {
        "claims": [
            {
                "name": row.claim.name,
                "says": row.claim.says,
                "tests": row.claim.tests,
                "unit": row.claim.unit,
                "region": [finite(end) for end in row.claim.region],
                "value": finite(row.value),
                "interval": [finite(row.low), finite(row.high)],
                "verdict": row.verdict,
                "why": row.why,
            }
            for row in judged
        ],
        "hardware": m.where["hardware"],
        "versions": m.where["versions"],
        "ended": m.where["ended"],
    }


def claims_markdown(judged: Sequence[claims.Judged]) -> str:
    """The claims as a table in Markdown."""
    lines = ["| claim | test | measured (95 %) | verdict |", "|---|---|---|---|"]
    for row in map(claim_row, judged):
        measured = f"{row['value']} ({row['interval']})" if row["interval"] != "-" else row["value"]
        why = f": {row['why']}" if row["why"] else ""
        lines.append(f"| {row['says']} | {row['tests']} | {measured} | **{row['verdict']}**{why} |")
    return "\n".join(lines) + "\n"


def _corpus(m: Material) -> str:
    first = m.chosen.iloc[0]
    budgets = sorted(set(m.chosen["tokens"].astype(float)))
    spent = " and ".join(si(budget).strip() for budget in budgets)
    return (
        f"corpus '{first['data.corpus']}', tokenizer {first['data.tokenizer']} "
        f"({m.comparison.characters_per_token:.2f} characters a token), context {m.comparison.chains.context} tokens, "
        f"{spent} training tokens a run, zero state in every window"
    )


def _machine(m: Material) -> str:
    hardware = m.where["hardware"]
    on = "" if hardware["platform"] == "cpu" else f"{hardware['devices']} x {hardware['device']}, "
    return f"{on}{hardware['processor']}, {m.where['cores']} cores"


def _where(m: Material) -> str:
    versions = m.where["versions"]
    return f"{_machine(m)}; jax {versions['jax']}, seqjax {versions['seqjax']}; {m.where['ended'][:10]}"


def _how(m: Material) -> str:
    chains = m.comparison.chains
    return (
        f"{len(m.table)} runs took {duration(m.where['run_seconds'])} of workers' time in all. Loss by position: "
        f"{chains.chains} chains of {chains.windows} windows of the validation split, {chains.stride} tokens apart."
    )


def _inline(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["model.family", "params_non_embedding", "model.n_layers", "optimizer.learning_rate", "train.seed"]
    return table.sort_values(keys)


def _cell(row: pd.Series, name: str, form: str) -> str:
    value = row[name]
    return "-" if pd.isna(value) else format(value, form)


COLUMNS = (
    ("model", lambda r: r["run_id"].rpartition("-")[0]),
    ("N", lambda r: _cell(r, "params_non_embedding", ",.0f")),
    ("all parameters", lambda r: _cell(r, "params_total", ",.0f")),
    ("context", lambda r: _cell(r, "train.context_length", "d")),
    ("tokens", lambda r: _cell(r, "tokens", ",.0f")),
    ("FLOP", lambda r: _cell(r, "flops_exact", ".2e")),
    ("rate", lambda r: _cell(r, "optimizer.learning_rate", "g")),
    ("seed", lambda r: _cell(r, "train.seed", "d")),
    ("nats/token", lambda r: _cell(r, "loss", ".4f")),
    ("±", lambda r: _cell(r, "loss_se", ".4f")),
    ("bits/byte", lambda r: _cell(r, "bits_per_byte", ".3f")),
    ("tokens/s", lambda r: _cell(r, "tokens_per_second", ",.0f")),
    ("status", lambda r: str(r["status"])),
)
