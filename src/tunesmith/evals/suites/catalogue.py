"""Every shipped suite by its name, and the suites a user brings: ``rows:FILE`` or a suite's YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from tunesmith.errors import ConfigError
from tunesmith.evals.suite import Suite
from tunesmith.evals.suites.banking77 import BANKING77
from tunesmith.evals.suites.bbh import BBH, BBH_CHOICE
from tunesmith.evals.suites.e2e import E2E
from tunesmith.evals.suites.fewglue import BOOLQ, COPA
from tunesmith.evals.suites.gsm8k import GSM8K
from tunesmith.evals.suites.ifeval import IFEVAL
from tunesmith.evals.suites.legalbench import LEGALBENCH
from tunesmith.evals.suites.own import JARGON, SUPPORT_DESK
from tunesmith.evals.suites.pubmedqa import PUBMEDQA
from tunesmith.evals.suites.rows import rows_suite, yaml_suite
from tunesmith.evals.suites.safety import SAFETY_SUITES
from tunesmith.evals.suites.sms_spam import SMS_SPAM
from tunesmith.evals.suites.texts import BOTCHAN, OASST, TINY_SHAKESPEARE
from tunesmith.evals.suites.true_false_facts import TRUE_FALSE_FACTS
from tunesmith.evals.suites.truthfulqa import TRUTHFULQA

_ALL = (
    GSM8K, TRUTHFULQA, BBH, BBH_CHOICE, IFEVAL, BOOLQ, COPA, PUBMEDQA, LEGALBENCH, BANKING77, SMS_SPAM,
    TRUE_FALSE_FACTS, E2E, OASST, TINY_SHAKESPEARE, BOTCHAN, SUPPORT_DESK, JARGON,
    *SAFETY_SUITES,
)  # fmt: skip
SUITES: Mapping[str, Suite] = {suite.name: suite for suite in _ALL}
ROWS_PREFIX = "rows:"


def find_suite(name: str) -> Suite:
    """A shipped suite, ``rows:FILE`` (one's own rows), or a .yaml file with ``type: rows``.

    Raises ConfigError naming the nearest suite for a name that is none of these, and for a YAML file at fault.
    """
    if name in SUITES:
        return SUITES[name]
    if name.startswith(ROWS_PREFIX):
        return rows_suite(name.removeprefix(ROWS_PREFIX))
    if Path(name).suffix in (".yaml", ".yml"):
        return yaml_suite(Path(name))
    nearest = difflib.get_close_matches(name, SUITES, n=1)
    hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Take {', '.join(SUITES)}, rows:FILE or a .yaml file."
    raise ConfigError(f"suite '{name}'", "there is no suite of that name.", hint)
