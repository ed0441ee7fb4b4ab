"""What a place on disk is, in words: for commands that were given something else than they take."""

from __future__ import annotations

import os
from pathlib import Path

from seqjax.host.wording import quoted

OF_A_RUN = ("config.json", "result.json", "plan.json", "metrics.jsonl")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: a file of one is in it, even if others are lost.

    Raises:
        PermissionError: the folder must not be entered.
    """
    return any(_is_there(folder / name) for name in OF_A_RUN)


def _is_there(path: Path) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        raise
    except OSError:
        return False
    return True


def runs_in(place: Path, levels: int) -> list[Path]:
    """The run folders in a folder, up to some levels down, sorted; the folder itself if it is one.

    What is in a run folder is part of that run. A folder that must not be entered or listed counts as a run, so that
    none goes missing without a word.
    """
    try:
        if is_run(place):
            return [place]
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.is_symlink() or entry.is_dir()) if levels else []
    except PermissionError:
        return [place]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [run for name in names for run in runs_in(place / name, levels - 1)]


def other_than_run(place: Path) -> str:
    """What a place without ``config.json`` is, and what is meant, for commands that take a run folder."""
    if _is_sweep(place):
        return f"is a sweep folder, not a run folder; {_its_runs(place)}"
    if place.is_file():
        return "not a run folder but a file; seqjax train makes a run folder of a config"
    if place.is_dir():
        return "not a run folder (it has no config.json)"
    return "not a run folder (there is no such folder)"


def other_than_config(folder: Path) -> str:
    """What a folder is, and what is meant, for commands that take a config file."""
    if _is_sweep(folder):
        return f"is a sweep folder, not a config file; {_its_runs(folder)}; seqjax sweep takes the YAML file it is of"
    if (folder / "config.json").is_file():
        how = f"seqjax train {quoted(folder)}"
        return f"is a run folder, not a config file: that is {folder / 'config.json'}; {how} resumes it"
    return "is a folder, not a config file"


def _is_sweep(place: Path) -> bool:
    return (place / "sweep.json").is_file()


def _its_runs(folder: Path) -> str:
    runs = sorted(path.parent.name for path in folder.glob("*/config.json"))
    return f"its runs are the folders in it, such as {runs[0]}" if runs else "no run is in it yet"
