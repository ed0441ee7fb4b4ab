"""Held-out examples that are training examples too: counted and reported, never removed.

Examples are equal if their inputs are equal; labels and translations are not compared.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def count_repeats(inputs: Mapping[str, Sequence[Hashable]]) -> dict[str, int]:
    """Held-out split -> number of its examples that are in the split "train" too.

    Args:
        inputs: split -> the input of each example.
    """
    seen = set(inputs["train"])
    return {split: sum(one in seen for one in own) for split, own in inputs.items() if split != "train"}


def repeats_said(inputs: Mapping[str, Sequence[Hashable]]) -> tuple[str, ...]:
    """A line for each held-out split with repeats: "12 of 1,821 test sentences are in the training set too"."""
    return tuple(
        f"{count:,} of {len(inputs[split]):,} {split} sentences {'is' if count == 1 else 'are'} in the training set too"
        for split, count in count_repeats(inputs).items()
        if count
    )
