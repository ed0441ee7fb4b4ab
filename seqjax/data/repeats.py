"""Held-out examples that are training examples too: counted and said, never removed.

Equal means equal inputs, whatever the label or the translation: the model has seen them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def count_repeats(inputs: Mapping[str, Sequence[Hashable]]) -> dict[str, int]:
    """Held-out split -> how many of its examples stand in the split "train" too.

    Args:
        inputs: split -> what a model is given of each example.
    """
    seen = set(inputs["train"])
    return {split: sum(one in seen for one in own) for split, own in inputs.items() if split != "train"}


def repeats_said(inputs: Mapping[str, Sequence[Hashable]]) -> tuple[str, ...]:
    """A line for each held-out split with repeats: "12 of 1,821 test sentences stand in the training set too"."""
    return tuple(
        f"{count:,} of {len(inputs[split]):,} {split} sentences {'stands' if count == 1 else 'stand'} in the training "
        "set too"
        for split, count in count_repeats(inputs).items()
        if count
    )
