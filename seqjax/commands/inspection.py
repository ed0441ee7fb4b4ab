"""`seqjax inspect`: the inside of trained runs on a text."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seqjax
from seqjax.commands import options as shared
from seqjax.config.plain import whole
from seqjax.errors import UserError
from seqjax.host import disk

if TYPE_CHECKING:
    from seqjax.models.inside import Trace
    from seqjax.trained.opened import OpenRun


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "inspect",
        """
        seqjax inspect runs/transformer/transformer-4x128-0123456789 --text "To be, or not to be"
        seqjax inspect TRANSFORMER LSTM --text "To be, or not to be" --output inside.svg --json inside.json
        seqjax inspect RUN --text "To be, or not to be" --layer 1 --units 20 --checkpoint best
        """,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="run folders with the same tokenizer")
    parser.add_argument("--text", required=True, help="the text to read")
    parser.add_argument(
        "--output", type=Path, default=Path("inspection.png"), metavar="FILE",
        help="figure: .png, .svg or .pdf [inspection.png, here]",
    )  # fmt: skip
    parser.add_argument(
        "--layer",
        type=whole(),
        help="draw only this layer, from 1 [the last recurrent layer; every block's attention]",
    )
    parser.add_argument(
        "--units", type=whole(), default=12,
        help="maximal number of units to draw of a layer: those whose output h varies most over the text [12]",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers, of all layers and units")
    shared.add_corpus(parser)
    shared.add_code(parser)
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which parameters [last]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the table of tokens; write the figure and the numbers."""
    if options.units < 1:
        raise UserError(f"command line: --units {options.units} is out of range; at least 1 is needed")
    if not options.text:
        raise UserError("command line: --text '': is empty")
    shared.configs_of_runs(options.folders, rest, options.trust_code)
    runs = [seqjax.open(path, checkpoint=options.checkpoint, corpus=options.corpus) for path in options.folders]
    from seqjax.plots.inspection import draw_inspection
    from seqjax.plots.style import check_name, save

    check_name(options.output)
    if options.json:
        disk.check_place(options.json)
    for run in runs:
        if run.tokenizer.sha256 != runs[0].tokenizer.sha256:
            raise UserError(
                f"{run.folder}: its tokenizer '{run.tokenizer.name}' differs from '{runs[0].tokenizer.name}' of "
                f"{runs[0].folder}; one axis of tokens needs one tokenizer"
            )
    found = [run.trace(options.text) for run in runs]
    for run, one in zip(runs, found, strict=True):
        if options.layer is not None and not 1 <= options.layer <= (layers := _layers(run, one)):
            raise UserError(f"command line: --layer {options.layer}: {run.folder} has layers 1 to {layers}")
    names = _names(runs)
    print(_table(names, runs, found))
    readings = [_reading(*each) for each in zip(names, runs, found, strict=True)]
    for run, reading in zip(runs, readings, strict=True):
        if reading.attention_LxNxTxT is None and not reading.drawn():
            print(f"{run.folder}: has neither attention nor gates to be drawn; its loss alone is shown")
    layer = None if options.layer is None else options.layer - 1
    figure = draw_inspection(_pieces(runs[0], found[0]), readings, layer, options.units)
    save(figure, options.output)
    print(f"figure: {options.output}")
    if options.json:
        records = [_record(run, one) for run, one in zip(runs, found, strict=True)]
        tokens = _pieces(runs[0], found[0])
        with disk.storage_errors(options.json.parent):
            disk.write_json(options.json, {"text": options.text, "tokens": tokens, "runs": records})
        print(f"numbers: {options.json}")
    return 0


def _layers(run: OpenRun, found: Trace) -> int:
    """L; in a hybrid the layers of the rarer kind, since each kind counts its own."""
    inside = found.inside
    shown = [inside.attention_LxNxTxT, *inside.states_LxTxH.values()]
    return min([run.config.model.n_layers, *(len(array) for array in shown if array is not None)])


def _names(runs: list[OpenRun]) -> list[str]:
    """The family and shape of each run; if they are not unique, also the last digits of its folder."""
    short = [f"{run.config.model.family} {run.config.model.n_layers}x{_width(run)}" for run in runs]
    if len(set(short)) == len(short):
        return short
    return [f"{name} {run.folder.resolve().name[-4:]}" for name, run in zip(short, runs, strict=True)]


def _width(run: OpenRun) -> int:
    return getattr(run.config.model, "d_hidden", None) or run.config.model.d_model


def _pieces(run: OpenRun, one: Trace) -> list[str]:
    return [run.tokenizer.decode([token]) for token in one.tokens_T]


def _reading(name: str, run: OpenRun, one: Trace) -> Any:
    from seqjax.plots.inspection import Reading

    return Reading(name, one.loss_T, *one.inside[1:], run.config.model.titles)


def _table(names: list[str], runs: list[OpenRun], found: list[Trace]) -> str:
    """Each token with its loss, and the likeliest token after it."""
    heads = [f"  {name}: loss, likeliest next" for name in names]
    lines = [f"{'token':<12}" + "".join(f"{head:<34}" for head in heads).rstrip()]
    guesses = [one.likeliest() for one in found]
    for place, piece in enumerate(_pieces(runs[0], found[0])):
        line = f"{_shown(piece):<12}"
        for run, one, (token_T, p_T) in zip(runs, found, guesses, strict=True):
            loss = "given" if math.isnan(one.loss_T[place]) else f"{one.loss_T[place]:.4f}"
            guess = _shown(run.tokenizer.decode([token_T[place]]))
            line += f"  {loss:>8}  {guess:<14}{p_T[place]:>6.1%}  "
        lines.append(line.rstrip())
    means = [float(one.loss_T[1:].mean()) for one in found]
    lines.append(f"{'mean':<12}" + "".join(f"  {mean:>8.4f}{'':<24}" for mean in means).rstrip() + " nats per token")
    return "\n".join(lines)


def _shown(piece: str) -> str:
    return repr(piece)


def _record(run: OpenRun, one: Trace) -> dict[str, Any]:
    """The record of a run in the JSON file; missing parts are null or empty."""
    token_T, p_T = one.likeliest()
    inside = one.inside
    return {
        "run": str(run.folder),
        "family": run.config.model.family,
        "step": run.step,
        "loss": [None, *one.loss_T[1:].tolist()],
        "likeliest_next": [run.tokenizer.decode([token]) for token in token_T],
        "likeliest_next_probability": p_T.tolist(),
        "attention_LxNxTxT": None if inside.attention_LxNxTxT is None else inside.attention_LxNxTxT.tolist(),
        "gates_LxTxH": {name: gate.tolist() for name, gate in inside.gates_LxTxH.items()},
        "states_LxTxH": {name: state.tolist() for name, state in inside.states_LxTxH.items()},
    }
