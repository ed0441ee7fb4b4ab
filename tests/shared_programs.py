"""One compiled program for all runs of a test process that need the same: tracing a tiny program takes a second."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from seqjax.config import Config, dotted, lane_keys, to_dict
from seqjax.host.numerics import pinned
from seqjax.host.own_code import is_own

KEPT = 16
OF_THE_HOST = ("evaluation.", "train.steps", "train.log_every", "train.checkpoint_every", "data.corpus")


class Shelf:
    """The last `KEPT` results of a function, by what they depend on."""

    def __init__(self) -> None:
        self._found: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = make()
        self._found.move_to_end(key)
        while len(self._found) > KEPT:
            self._found.popitem(last=False)
        return self._found[key]


def _key(config: Config, without: tuple[str, ...]) -> str:
    tree = {key: value for key, value in dotted(to_dict(config)) if not key.startswith(without)}
    return json.dumps(tree, sort_keys=True)


def share(patch: pytest.MonkeyPatch) -> None:
    """Runs with equal models, batches and optimizers get the same objective (on text) and the same program.

    What reaches a program as an argument may differ: seeds, rates, weight decay, numbers of steps, the text.
    """
    from seqjax.tasks import text
    from seqjax.training import bundle, lanes

    objectives, programs = Shelf(), Shelf()
    make_objective, make_bundle = text.make_objective, lanes.make_bundle

    def objective_of(config: Config, vocab_size: int) -> Any:
        if is_own(config.model.family):
            return make_objective(config, vocab_size)
        key = _key(config, (*OF_THE_HOST, *lane_keys(config), "optimizer.")), vocab_size
        return objectives.get(key, lambda: make_objective(config, vocab_size))

    def bundle_of(configs: Any, objective: Any, devices: Any = None) -> Any:
        def make() -> Any:
            return make_bundle(configs, objective, devices)

        if is_own(configs[0].model.family):
            return make()
        of_lanes = tuple(_key(config, (*OF_THE_HOST, *lane_keys(config))) for config in configs)
        program = programs.get((objective, of_lanes, devices), make)
        seeds = np.array([config.train.seed for config in configs], np.int32)
        scales = np.array([config.train.init_scale for config in configs], np.float32)
        return replace(program, init=pinned()(partial(program.init.__wrapped__.func, seeds, scales)))

    patch.setattr(text, "make_objective", objective_of)
    patch.setattr(bundle, "make_bundle", bundle_of)
