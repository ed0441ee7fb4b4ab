"""Figure 7 of Kaplan et al. 2020: LSTMs against Transformers by size and by position, with a verdict on every claim.

    make figure7                                                       # set up, run the laptop preset, write the report
    python experiments/rnn_vs_transformer.py                           # the same in an environment that is there
    python experiments/rnn_vs_transformer.py --preset workstation      # stop it, kill it, start it again
    python experiments/rnn_vs_transformer.py --preset gpu --dry-run    # plan, FLOPs and predicted time
    python experiments/rnn_vs_transformer.py --from experiments/results/figure7/laptop     # the report once more

| preset      | for                  | time                              |
|-------------|----------------------|-----------------------------------|
| laptop      | two cores            | at most 20 minutes with its setup |
| workstation | two cores            | hours; windows of 1,408 tokens    |
| h100        | one H100             | minutes, with `--workers 12`      |
| gpu         | one accelerator      | planned only: see --dry-run       |
| pod         | the paper's sizes    | planned only: see --dry-run       |

LSTMs and two forms of the Transformer at equal non-embedding parameters, `gpt2` as in the paper and `modern` (rotary
positions, RMSNorm, SwiGLU, QK norm); beyond the laptop several depths, a GRU and an Elman RNN too. All have the same
text, tokens, windows, order and budget, and as many learning rates tried. Rates are searched at the smallest size and
carried to the others by muP. Every horizon is a run of its own, which shares its first steps with the longest. Windows
begin with zero state, and gradients go back through the whole window. Runs that have ended are not repeated.

Writes REPORT/index.html: the figure, the map of where each leads over size and tokens, verdicts on the paper's claims
for each form, fits and the run table. Results: experiments/results/figure7.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd
from common import sweep_table, writable

from seqjax.cli import main as seqjax
from seqjax.commands.options import config_options
from seqjax.commands.words import split_config_options
from seqjax.comparison.collect import collect, to_measure
from seqjax.comparison.measuring import chains_for, characters_per_token, measure_all
from seqjax.comparison.page import write_report
from seqjax.comparison.verdicts import claims_markdown, summary
from seqjax.config import Config
from seqjax.config.plain import whole
from seqjax.errors import UserError, did_you_mean
from seqjax.families import label_of
from seqjax.host.disk import read_json, write_atomically
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.host.stopping import exit_code
from seqjax.host.wording import duration
from seqjax.sweeps.grid import Sweep, read_sweep
from seqjax.sweeps.machine import Machine, this_machine
from seqjax.sweeps.printed import describe_plan, flops_of
from seqjax.sweeps.programs import form_units
from seqjax.sweeps.search import foreseen
from seqjax.trained.chains import Chains
from seqjax.training.hardware import PEAK_BFLOAT16

ROOT = Path(__file__).resolve().parent.parent
CONFIGS, RESULTS = ROOT / "configs" / "figure7", ROOT / "experiments" / "results" / "figure7"
PRESETS = ("laptop", "workstation", "h100", "gpu", "pod")
ASSUMED = {"h100": 1, "gpu": 1, "pod": 256}  # devices of the presets that are not for two cores
ASSUMED_SHARES = {"transformer": 0.35, "recurrent": 0.05}  # of the peak that training reaches
TITLE = "LSTMs against Transformers: Figure 7 of Kaplan et al. 2020"
WINDOWS = 16  # of a chain, for the loss by position
CHAINS = {
    "laptop": 28,
    "workstation": 28,
    "h100": 100,
    "gpu": 200,
    "pod": 400,
}  # 28: 230,000 predictions
KEPT = (
    "runs.csv", "search.json", "curves.json", "positions.npz", "where.json",
    "fits.json", "claims.json", "claims.md", "figure7.svg", "figure7.png", "map.json",
    "families.md", "families.svg", "families.png",
)  # fmt: skip


@pinned()
def main() -> int:
    """Sweep, measure by position, collect, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="laptop", help=f"{', '.join(PRESETS)}, or a sweep file [laptop]")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with FLOPs and predicted time, and stop")
    parser.add_argument("--workers", type=whole(1), help="number of workers, as for seqjax sweep")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="parent of the sweep folder [runs]")
    parser.add_argument("--report", type=Path, default=ROOT / "report", help="where the report goes [report]")
    parser.add_argument("--record", action="store_true", help=f"keep results in {RESULTS.relative_to(ROOT)}/PRESET")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="report on collected results alone")
    options, rest = parser.parse_known_args()
    if options.source is not None:
        if rest or options.record or options.dry_run:
            raise UserError("--from makes a report of what was collected, and takes no other option than --report")
        return report(options.source, options.report)
    rest += ["--workers", str(options.workers)] if options.workers else []
    sweep_file = find_preset(options.preset)
    sweep = read_sweep(sweep_file, config_options(split_config_options(rest)[1]))
    if options.dry_run:
        if options.preset in ASSUMED and not this_machine().gpus:
            return plan_elsewhere(sweep)
        return seqjax(["sweep", str(sweep_file), "--runs", str(options.runs), "--dry-run", *rest])
    if options.record and split_config_options(rest)[1]:
        raise UserError("--record keeps what a preset gives, without changes to it")
    for target in [options.report, *([RESULTS / sweep_file.stem] if options.record else [])]:
        writable(target)
    config = max((run.config for run in sweep.runs()), key=lambda config: config.train.context_length)
    chains = chains_for(config, CHAINS.get(options.preset, CHAINS["laptop"]), WINDOWS)  # before all the training
    code, table = sweep_table(sweep_file, options.runs, rest)
    if table is None:
        return code
    table = table.sort_values("run_id", ignore_index=True)  # as the recorded ones are
    folder = options.runs / sweep_file.stem
    if stopped := measure(folder, table, chains, this_machine(options.workers)):
        return stopped
    words = ["--preset", options.preset, *rest]
    command = f"python experiments/rnn_vs_transformer.py {' '.join(words)}"
    collect(folder, table, folder / "collected", chains, characters_per_token(config), command)
    report(folder / "collected", options.report)
    if options.record:
        record(folder / "collected", options.report, RESULTS / sweep_file.stem)
    return code


def find_preset(name: str) -> Path:
    """The sweep file of a preset.

    Raises:
        UserError: neither a preset nor a file.
    """
    if name in PRESETS:
        return CONFIGS / f"{name}.yaml"
    if not Path(name).is_file():
        raise UserError(f"--preset {name}: expected {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}, or a sweep file")
    return Path(name)


def plan_elsewhere(sweep: Sweep) -> int:
    """Print the plan of a preset for accelerators that this machine has not, and the time under `ASSUMED`."""
    planned, devices = foreseen(sweep, lambda _: None), ASSUMED[sweep.name]
    machine = Machine(cores=(0,), gpus=tuple(map(str, range(devices))), memory=100e9, kind="H200")
    units = form_units(planned, machine, None, bundle=True)
    print(describe_plan(sweep, planned, 0, units, machine, None))
    own = {run.run_id: flops_of(run) * (1 - run.shared / run.config.train.steps) for run in planned}
    seconds = sum(own[run.run_id] / (PEAK_BFLOAT16["H200"] * _share(run.config)) for run in planned)
    shares = ", ".join(f"{share:.0%} for {family}" for family, share in ASSUMED_SHARES.items())
    print(
        f"predicted time: {duration(seconds / devices)} on {devices} x H200, without further rates, if its "
        f"peak of {PEAK_BFLOAT16['H200']:.3g} FLOP/s is used to {shares}: an assumption, not a measurement. A plan on "
        "a machine with an accelerator measures its own steps."
    )
    return 0


def _share(config: Config) -> float:
    return ASSUMED_SHARES.get(config.model.family, ASSUMED_SHARES["recurrent"])


def measure(folder: Path, table: pd.DataFrame, chains: Chains, machine: Machine) -> int:
    """Loss by position of all runs at their best rates; 0, or an exit code when it was stopped."""
    places = [folder / run_id for run_id in to_measure(table)["run_id"]]
    signal_number = measure_all(places, chains, machine, lambda text: print(text, file=sys.stderr, flush=True))
    if signal_number is None:
        return 0
    print("stopped; the same command resumes from here", file=sys.stderr)
    return exit_code(signal_number)


def report(data: Path, target: Path) -> int:
    """Write the report and say what it says."""
    print("fitting and drawing", file=sys.stderr, flush=True)
    judged = write_report(data, target, TITLE)
    write_atomically(target / "claims.md", claims_markdown(judged))
    for kind, rows in judged.items():
        print(f"\n{label_of(kind)}: {summary(rows)}")
        for row in rows:
            print(f"  {row.verdict:<27}{row.claim.says}")
    print("", *read_json(target / "map.json")["answer"], f"report: {target / 'index.html'}", sep="\n")
    return 0


def record(data: Path, target: Path, kept: Path) -> None:
    """Copy what is small enough to keep: tables, curves, verdicts, the figure."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in (*KEPT, *sorted(path.name for path in target.glob("map-*"))):
        source = data / name if (data / name).is_file() else target / name
        if source.is_file():  # with fewer than three sizes there are no fits
            shutil.copyfile(source, kept / name)
    print(f"recorded in {kept}")


if __name__ == "__main__":
    sys.exit(guarded(main))
