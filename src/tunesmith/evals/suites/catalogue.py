"""Every shipped suite by its name, and the suites a user brings: ``rows:FILE`` or a suite's YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from tunesmith.errors import ConfigError
from tunesmith.evals.suite import Suite

_ALL: tuple[Suite, ...] = ()
SUITES: Mapping[str, Suite] = {suite.name: suite for suite in _ALL}


def find_suite(name: str) -> Suite:
    """A shipped suite, ``rows:FILE`` (one's own rows), or a .yaml file with ``type: rows``.

    Raises ConfigError naming the nearest suite for a name that is none of these.
    """
    if name in SUITES:
        return SUITES[name]
    nearest = difflib.get_close_matches(name, SUITES, n=1)
    hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Known are {', '.join(SUITES)}, rows:FILE and a .yaml file."
    raise ConfigError(f"suite '{name}'", "there is no suite of that name.", hint)
