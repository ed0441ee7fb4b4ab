"""Figure 7 of Kaplan et al. 2020: LSTMs against Transformers by size and by position, with a verdict on every claim.

    make figure7                                                       # set up, run the laptop preset, write the report
    python experiments/rnn_vs_transformer.py                           # the same in an environment that is there
    python experiments/rnn_vs_transformer.py --preset workstation      # stop it, kill it, start it again
    python experiments/rnn_vs_transformer.py --preset gpu --dry-run    # plan, FLOPs and predicted time
    python experiments/rnn_vs_transformer.py --from experiments/results/figure7/laptop     # the report once more

| preset      | for                  | time                              |
|-------------|----------------------|-----------------------------------|
| laptop      | two cores            | at most 20 minutes with its setup |
| workstation | two cores            | a few hours                       |
| gpu         | one accelerator      | half an hour                      |
| pod         | the paper's sizes    | planned only: see --dry-run       |

LSTMs with 1, 2 and 4 layers and Transformers with 2, 4 and 6, a GRU and an Elman RNN, at equal non-embedding
parameters: the same text, tokens, windows, order and budget, and as many learning rates tried for each. Windows begin
with zero state, and gradients go back through the whole window. Runs that have ended are not repeated.

Writes REPORT/index.html with figures, fits.json, claims.json and the run table. What to expect of each preset is in
experiments/results/figure7/.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from seqjax.cli import main as seqjax
from seqjax.config import Config
from seqjax.errors import UserError
from seqjax.report.page import claims_markdown, summary, write_report
from seqjax.runs import write_atomically
from seqjax.stopping import STOPPED
from seqjax.sweeps.collect import collect, to_measure
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.machine import this_machine
from seqjax.sweeps.positions import chains_for, measure_all
from seqjax.sweeps.table import gather
from seqjax.training.setup import load_text

ROOT = Path(__file__).resolve().parent.parent
CONFIGS, RESULTS = ROOT / "configs" / "figure7", ROOT / "experiments" / "results" / "figure7"
PRESETS = ("laptop", "workstation", "gpu", "pod")
CHAINS, WINDOWS = 28, 16  # of held-out windows for the loss by position: 230,000 predictions of 50,000 tokens
KEPT = ("runs.csv", "search.json", "curves.json", "positions.npz", "where.json", "claims.json", "claims.md",
        "figure7.svg", "figure7.png")  # fmt: skip


def main() -> int:
    """Sweep, measure by position, collect, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="laptop", help="which grid [laptop]")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with FLOPs and predicted time, and stop")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="parent of the sweep folder [runs]")
    parser.add_argument("--report", type=Path, default=ROOT / "report", help="where the report goes [report]")
    parser.add_argument("--record", action="store_true", help=f"keep results in {RESULTS.relative_to(ROOT)}/PRESET")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="report on collected results alone")
    options, rest = parser.parse_known_args()
    title = f"LSTMs against Transformers: Figure 7 of Kaplan et al. 2020, preset {options.preset}"
    command = f"python experiments/rnn_vs_transformer.py --preset {options.preset}"
    if options.source is not None:
        return report(options.source, options.report, title, command)
    sweep_file = CONFIGS / f"{options.preset}.yaml"
    if options.dry_run:
        return seqjax(["sweep", str(sweep_file), "--runs", str(options.runs), "--dry-run", *rest])
    if code := seqjax(["sweep", str(sweep_file), "--runs", str(options.runs), *rest]):
        return code
    folder = options.runs / options.preset
    data = folder / "collected"
    if code := measure(folder, sweep_file, data):
        return code
    code = report(data, options.report, title, command)
    if options.record:
        record(data, options.report, RESULTS / options.preset)
    return code


def measure(folder: Path, sweep_file: Path, data: Path) -> int:
    """Loss by position of all runs at their best rates, then everything that the report needs in one folder."""
    config = read_sweep(sweep_file).runs()[0].config
    chains = chains_for(config, CHAINS, WINDOWS)
    chosen = to_measure(gather([folder]))
    places = [folder / run_id for run_id in chosen["run_id"]]
    if measure_all(places, chains, this_machine(), lambda text: print(text, file=sys.stderr, flush=True)) is not None:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return STOPPED
    collect(folder, data, chains, characters_per_token(config))
    return 0


def characters_per_token(config: Config) -> float:
    """Of the validation split; the corpora are ASCII but for a few letters, so bytes count as characters."""
    shard = load_text(config).shard("validation")
    return shard.n_bytes / len(shard.tokens)


def report(data: Path, target: Path, title: str, command: str) -> int:
    """Write the report and say what it says."""
    print("fitting and drawing", file=sys.stderr, flush=True)
    judged = write_report(data, target, title, command)
    write_atomically(target / "claims.md", claims_markdown(judged))
    for row in judged:
        print(f"{row.verdict:<27}{row.claim.says}")
    print(f"\n{summary(judged)}\nreport: {target / 'index.html'}")
    return 0


def record(data: Path, target: Path, kept: Path) -> None:
    """Copy what is small enough to keep: tables, curves, verdicts, the figure."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        source = data / name if (data / name).is_file() else target / name
        shutil.copyfile(source, kept / name)
    print(f"recorded in {kept}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
