"""Compiling the C++ functions: never required, never in the way."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import pytest

from seqjax.layers import native


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing compiled yet, an empty cache."""
    monkeypatch.setenv("SEQJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "compiled", functools.cache(native.compiled.__wrapped__))
    return tmp_path


def test_with_a_compiler_it_compiles():
    """Were broken C++ only skipped over, all tests of it would pass."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name):
        pytest.skip("no C++ compiler here")
    assert native.compiled()


def test_without_a_compiler_xla_does_it(fresh, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    assert not native.compiled()
    assert capsys.readouterr().err == ""


def test_a_compiler_that_fails_is_noted_once(fresh, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "false")
    assert not native.compiled() and not native.compiled()
    assert capsys.readouterr().err.count("note: recurrences and attention run without their C++ form") == 1
    assert not list(Path(fresh).rglob("*.so"))


def test_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("SEQJAX_NATIVE", "0")
    assert not native.compiled()
