"""``tunesmith redteam report``: one campaign told again, several held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner
from verdict_worlds import attempt, goal
