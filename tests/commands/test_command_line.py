"""The command line itself: a quick help, near names, options in the wrong place, help that fits 80 columns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seqjax.cli import main
from seqjax.commands import COMMANDS

SWEEP = "model: {family: gru, d_model: 8}\ntrain: {steps: 5}\ngrid: {train.seed: [0, 1]}\n"


def test_the_list_of_commands_needs_no_jax() -> None:
    code = (
        "import sys\nfrom seqjax.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(' '.join(name for name in ('jax', 'pydantic', 'pandas', 'matplotlib') if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert all(f"    {name}" in done.stdout for name in COMMANDS)


def test_each_command_has_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (_, summary) in COMMANDS.items():
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0 and summary.split()[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["swep"], "swep: there is no such command; did you mean 'sweep'?"),
        ([], "the following arguments are required: COMMAND"),
        (["show", "c.yaml", "--lr", "1"], "--lr: unknown option; did you mean --optimizer.learning-rate?"),
        (["show", "c.yaml", "--steps", "1"], "--steps: unknown option; did you mean --train.steps?"),
        (["train", "c.yaml", "--resume"], "--resume: unknown option; did you mean seqjax train RUN, which resumes"),
        (["train", "c.yaml", "--tensorboard"], "did you mean seqjax export-tensorboard RUN"),
        (["train", "c.yaml", "train.steps=5"], "did you mean --train.steps 5?"),
        (["train", "c.yaml", "lr=1e-3"], "did you mean --optimizer.learning-rate 1e-3?"),
        (["train", "s.yaml"], "s.yaml: is a sweep file, it has grid: its runs are trained by seqjax sweep s.yaml"),
        (["show", "s.yaml"], "seqjax sweep s.yaml"),
        (["sweep", "s.yaml", "--partition", "gpu"], "--partition: is for Slurm: say --launcher slurm"),
        (["sweep", "s.yaml", "--detach"], "--detach: is for Slurm"),
        (["sweep", "s.yaml", "--sbatch", "exclusive"], "--sbatch: is for Slurm"),
        (["sweep", "s.yaml", "--launcher", "slurm", "--sbatch", "time=3"], "'time' is set by seqjax itself"),
        (["sweep", "s.yaml", "--launcher", "slurm", "--sbatch", "--nice=100"], "equals sign: --sbatch=-VALUE"),
    ],
)
def test_what_is_meant_is_said(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SWEEP)
    (tmp_path / "c.yaml").write_text("model: {family: gru}\n")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "runs").exists()


def test_the_help_of_sweeps_explains_their_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    told = capsys.readouterr().out
    for word in ("grid:", "zip:", "list:", "search:", "horizon:", "size.non_embedding", "base:"):
        assert word in told
    assert max(map(len, told.splitlines())) <= 80


def test_a_dry_run_of_slurm_shows_what_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SWEEP)
    words = ["--launcher", "slurm", "--partition", "gpu", "--time", "2:00:00", "--sbatch", "constraint=a100"]
    assert main(["sweep", "s.yaml", "--dry-run", "--no-bundle", *words]) == 0
    told = capsys.readouterr().out.splitlines()
    for line in ("--partition=gpu", "--time=120", "--constraint=a100", "--array=0-1%2"):
        assert f"#SBATCH {line}" in told
