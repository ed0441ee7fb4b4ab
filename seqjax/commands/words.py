"""The words of a command line: options of the config are split off before argparse reads the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def split_config_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off the options that override a config (``--train.steps 500``): they have a dot in the name.

    argparse does not know them and would take their values for its own arguments. Returns the other words first.
    """
    rest, taken = split(words, lambda name: name.startswith("--") and "." in name)
    return rest, [word for option in taken for word in option]


def split(words: Sequence[str], wanted: Callable[[str], bool]) -> tuple[list[str], list[list[str]]]:
    """The words without the wanted options; and these options, each with its value if it has one."""
    rest: list[str] = []
    taken: list[list[str]] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, _ = word.partition("=")
        if not wanted(name):
            rest.append(word)
            continue
        taken.append([word])
        if not equals and waiting and not waiting[0].startswith("--"):
            taken[-1].append(waiting.pop(0))
    return rest, taken
