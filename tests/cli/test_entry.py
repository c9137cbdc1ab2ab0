"""``python -m tunesmith`` is the command."""

from __future__ import annotations

import runpy
import sys

import pytest


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tunesmith", "feedback", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("tunesmith", run_name="__main__")
    assert ended.value.code == 0 and "label" in capsys.readouterr().out
