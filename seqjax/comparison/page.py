"""The report of a comparison of families: one self-contained HTML file, and its figures as SVG and PNG beside it.

It is made only from the files of :mod:`seqjax.comparison.collect`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from seqjax.comparison import figures as draw
from seqjax.comparison import judging
from seqjax.comparison import training_figures as along
from seqjax.comparison.by_way import are_many, as_markdown, draw_families, table_of_families
from seqjax.comparison.claims import CLAIMS
from seqjax.comparison.collect import longest
from seqjax.comparison.lead_map import Map, as_json, maps, times_in_doubt
from seqjax.comparison.material import Material, corpus_of, machine_of, made_how, made_where, read_material
from seqjax.comparison.verdicts import claim_row, claims_json, leads, summary
from seqjax.errors import UserError
from seqjax.families import in_order, kind_of, label_of, labels_of
from seqjax.host import disk
from seqjax.host.wording import si, with_and
from seqjax.laws.files import write_fits
from seqjax.laws.fits import fit
from seqjax.laws.fitting import Fit
from seqjax.laws.points import read_points
from seqjax.laws.ratios import crossing, frontier
from seqjax.laws.summary import describe
from seqjax.plots.fits import draw_fits
from seqjax.plots.page import inlined, rendered
from seqjax.plots.style import as_bytes, save


def write_report(folder: Path, target: Path, title: str) -> dict[str, list[judging.Judged]]:
    """Judge, fit and draw the results in ``folder``; write ``index.html``, figures, fits and verdicts to ``target``.

    Raises:
        UserError: a file is missing or damaged, or ``target`` cannot be written.
    """
    material = read_material(folder)
    judged = judging.judge_forms(material.comparison, CLAIMS)
    fits, crossings = _fits(material)
    found, without = maps(material.horizons)
    answer = [*leads(material.comparison), *(line for one in found for line in one.sentences()), *without]
    figures = _figures(material, fits) | {
        one.name: (
            one.drawn(),
            f"Which has the lower loss, LSTM or {label_of(one.form)}, at each size and budget, each horizon with its "
            "own decay of the learning rate.",
            False,
        )
        for one in found
    }
    with disk.storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name, (made, _, _) in figures.items():
            for kind in ("svg", "png"):
                save(made, target / f"{name}.{kind}")
        if fits:
            write_fits(target / "fits.json", fits)
        disk.write_json(target / "claims.json", claims_json(judged, material.where))
        disk.write_json(target / "map.json", {"answer": answer, "maps": as_json(found)})
        disk.write_bytes_atomically(target / "runs.csv", (folder / "runs.csv").read_bytes())
        narrow = _narrow(material, found)
        context = _context(material, judged, answer, fits, crossings, figures, narrow, target)
        if context["families"]:
            disk.write_atomically(target / "families.md", as_markdown(*context["families"]))
        template = resources.files("seqjax.comparison").joinpath("templates/comparison.html")
        page = rendered(template.read_text(encoding="utf-8"), title=title, **context)
        disk.write_atomically(target / "index.html", page)
    return judged


def _fits(m: Material) -> tuple[dict[str, Fit], list[str]]:
    """L(N) of each family at the best depth of each size, and lines on the crossings of families in N and in C."""
    fits, on_frontier, said = {}, {}, []
    families = in_order(m.chosen["kind"])
    for seed, family in enumerate(families):  # families are resampled independently
        rows = m.chosen[m.chosen["kind"] == family]
        best = [m.comparison.models[m.comparison.best(family, size)] for size in m.comparison.sizes(family)]
        at_best_depth = rows[rows["run_id"].isin([run_id for model in best for run_id in model.run_ids])]
        try:
            points = read_points(at_best_depth, {"params": "non-embedding"}, unique=False)
            fits[family] = fit(points, "kaplan-n", bootstrap=1000, seed=seed)
            points = frontier(read_points(rows, {"flops": "exact"}, unique=False))
            on_frontier[family] = fit(points, "kaplan-c", bootstrap=1000, seed=seed, diagnose=False)
        except UserError as error:
            said.append(f"{label_of(family)}: {error}")
    for name, found in (("parameters", fits), ("training compute", on_frontier)):
        for form in m.comparison.kinds(judging.TRANSFORMER):
            if judging.LSTM in found and form in found:
                names = label_of(judging.LSTM), label_of(form)
                verdict = crossing(found[judging.LSTM], found[form], names).verdict
                said.append(f"Laws over {name}, {names[0]} and {names[1]}: {verdict}.")
    return fits, said


def _figures(m: Material, fits: Mapping[str, Fit]) -> dict[str, tuple[Figure, str, bool]]:
    """name -> figure, caption, whether it is small."""
    c = m.comparison
    spans = ""
    if c.chains.early:
        spans = (
            f" Grey: the same tokens, read with context of {c.chains.early[0]} to {c.chains.early[1]} tokens "
            f"(100 to 128 of the paper's) and of {c.chains.late[0]} to {c.chains.late[1]}."
        )
    note = f"{corpus_of(m)}; {made_where(m)}"
    usual = [curve for curve in m.search if _is_usual(m, curve)]
    made = {
        "figure7": (
            draw.draw_figure7(m.chosen, c, note),
            "Held-out loss against non-embedding parameters, best learning rate of each model; and held-out loss per "
            "token against its position in the context." + spans,
            False,
        ),
        "lead": (
            draw.draw_lead(c),
            "The LSTM's loss minus that of the Transformer of the same size, on the same tokens, by position.",
            True,
        ),
        "compute": (along.draw_against_compute(m.chosen, m.curves), "Held-out loss against training compute.", False),
        "curves": (
            along.draw_learning_curves(m.chosen, m.curves),
            "Held-out loss along training, best learning rate of each model; markers tell depths apart.",
            False,
        ),
    }
    if not times_in_doubt(m.chosen):
        caption = "The same runs over the time that training took."
        made["time"] = (along.draw_against_time(m.chosen, machine_of(m)), caption, True)
    if are_many(m.chosen["kind"]) and c.sizes(*dict.fromkeys(m.chosen["kind"])):
        made["families"] = (
            draw_families(c),
            "The families by their way through time, in grey those of the other ways. Above: loss against parameters. "
            "Below: loss by position at the largest size.",
            False,
        )
    if usual:
        made["rates"] = (
            along.draw_rates(usual, m.table),
            "Final held-out loss by learning rate; stars: chosen; crosses at the top: diverged.",
            False,
        )
    if fits:
        named = {name: fits[family] for family, name in labels_of(fits).items()}
        made["fits"] = (
            draw_fits(named),
            "L(N) at the best depth of each size; the runs are far from convergence, so the exponents are of this "
            "budget, not of the paper's.",
            True,
        )
    return made


def _is_usual(m: Material, curve: Mapping[str, Any]) -> bool:
    """Whether a curve is a search of a model that is compared by size: longest training, whole context, known size."""
    row = longest(m.table)[longest(m.table)["run_id"] == curve["trials"][0]["runs"][0]]
    known = len(row) > 0 and len(curve["trials"]) > 1 and bool(row["params_non_embedding"].notna().iloc[0])
    return known and int(row["train.context_length"].iloc[0]) == m.comparison.chains.context


def _context(
    m: Material, judged: Mapping[str, Sequence[judging.Judged]], answer: Sequence[str], fits: Mapping[str, Fit],
    crossings: Sequence[str], figures: Mapping[str, tuple[Figure, str, bool]], narrow: Mapping[str, str], target: Path,
) -> dict[str, Any]:  # fmt: skip
    states = Counter(m.table["status"])
    edges = [curve for curve in m.search if curve["edge"]]
    return {
        "answer": answer,
        "summary": [f"{label_of(kind)}: {summary(rows)}" for kind, rows in judged.items()],
        "where": f"{corpus_of(m)}. {made_where(m)}.",
        "characters_per_token": m.comparison.characters_per_token,
        "draws": len(m.comparison.loss_SxMxP) - 1,
        "seeds": m.comparison.seeds,
        "figures": {
            name: {
                "file": name,
                "alt": caption,
                "caption": caption,
                "small": small,
                "data": inlined((target / f"{name}.svg").read_bytes()),
                "narrow": narrow.get(name, ""),
            }
            for name, (_, caption, small) in figures.items()
        },
        "families": table_of_families(m.comparison, m.chosen) if "families" in figures else None,
        "claims": {label_of(kind): [claim_row(row) for row in rows] for kind, rows in judged.items()},
        "maps": [name for name in figures if name.startswith("map-")],
        "fits": [(label_of(family), describe(found)) for family, found in fits.items()],
        "crossings": crossings,
        "search": m.where["sweep"]["search"],
        "edges": _edges(edges),
        "runs_summary": ", ".join(f"{count} {state}" for state, count in states.most_common()) + ".",
        "columns": [name for name, _ in COLUMNS],
        "rows": [[show(row) for _, show in COLUMNS] for _, row in _sorted(m.table).iterrows()],
        "how": made_how(m),
        "command": m.where["command"],
    }


def _narrow(m: Material, found: Sequence[Map]) -> dict[str, str]:
    """The figures for a narrow page, panels stacked: maps, and figure 7 of a few kinds (many need the width)."""
    made = {one.name: one.drawn(stacked=True) for one in found}
    if not are_many(m.chosen["kind"]):
        made["figure7"] = draw.draw_figure7(m.chosen, m.comparison, f"{corpus_of(m)}; {made_where(m)}", stacked=True)
    return {name: inlined(as_bytes(figure, "svg", dpi=72)) for name, figure in made.items()}


def _edges(edges: Sequence[Mapping[str, Any]]) -> str:
    if not edges:
        return "For no model does the best rate lie at an edge of what was tried."
    tokens: dict[str, list[float]] = {}
    for curve in edges:
        at = curve["axes"].get("horizon.tokens")
        tokens.setdefault(_searched(curve), []).extend([] if at is None else [at])
    named = "; ".join(
        f"{name} (at {with_and([si(at).strip() for at in sorted(found)])} tokens)" if found else name
        for name, found in sorted(tokens.items())
    )
    return (
        f"For {named} the best rate lies at an edge of what was tried, so that their losses are bounds from above, and "
        "verdicts that rest on them count with that."
    )


def _searched(curve: Mapping[str, Any]) -> str:
    """The model of a search: kind, shape, and its windows where they are an axis."""
    axes = curve["axes"]
    model = {key.partition(".")[2]: value for key, value in axes.items() if key.startswith("model.")}
    name = label_of(kind_of(model["family"], model)) if "family" in model else ""
    windows = f" with windows of {axes['train.context_length']}" if "train.context_length" in axes else ""
    return f"{name} {curve['label'].rpartition('-')[2]}{windows}".strip()


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["kind", "params_non_embedding", "model.n_layers", "optimizer.learning_rate", "train.seed"]
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
