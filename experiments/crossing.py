"""The map of LSTM and Transformer: which leads at each size and number of tokens, and from how many one overtakes.

    python experiments/crossing.py                       # see --dry-run for the time; stop and start it at will
    python experiments/crossing.py --dry-run
    python experiments/crossing.py --record              # and keep the numbers

One sweep with short windows (T = 128, B = 16): an LSTM and both forms of the Transformer, three sizes, seven horizons
of 125 k to 8 M tokens, three seeds. The horizons of a size, rate and seed share one trunk. Rates are searched at 25 k
parameters, as many for each model, and carried to larger sizes by muP. A single-seed pilot at 100 k and one rate put
the crossing of the modern form between 1 and 2 M tokens. The same analysis of any table:
seqjax crossing TABLE --families A B. The report of Figure 7 has a map with windows of 512 tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import run, runs_at_best

from seqjax.comparison.lead_map import as_json, maps
from seqjax.errors import UserError
from seqjax.host.guard import guarded
from seqjax.laws.run_rows import at_best_rates


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The crossings over tokens, FLOPs and seconds, and a map for each form of the Transformer."""
    best = at_best_rates(table)
    made, without = maps(best)
    if not made:
        raise UserError(" ".join(without) or "there is no map: the runs lack the LSTM or the Transformer")
    said = [line for one in made for budget in one.by_law for line in one.sentences(budget)]
    print("\n".join([*said, *without]))
    figures = {one.name: one.drawn() for one in made}
    return {"answer": said + without, "maps": as_json(made), "at_best": runs_at_best(best)}, figures


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("crossing", "crossing", __doc__, analyse)))
