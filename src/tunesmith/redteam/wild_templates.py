"""Templates from files: those that users passed around in the public sets, and one's own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from tunesmith.data.prompts import load_prompts
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.asking import read_table
from tunesmith.evals.suite import SuiteConfig, data_file
from tunesmith.redteam.attack import Attack
from tunesmith.redteam.attacks_single import SLOT, in_template

WILD_FILE = "jailbreak_templates/inthewild.jsonl"
WILD_SOURCE = "github.com/verazuo/jailbreak_llms"
# How users mark where the request goes.
_MARK = re.compile(
    r"\\?[\[{(](?:insert|enter|your)[ _](?:your[ _])?(?:prompt|question|request)[ _]?(?:here)?\\?[\]})]"
    r"|\[PROMPT\]|\*\*REPLACE WITH YOUR REQUEST\*{0,2}",
    re.IGNORECASE,
)
# How a text ends that a request is to follow.
_CUE = re.compile(r"(?:prompt|question|request|query)(?: is)?\s*:\s*$", re.IGNORECASE)


def with_slot(text: str) -> str | None:
    """The template with its mark made our slot; None for a text that has none, or marks of several kinds."""
    if SLOT in text:
        return text
    if len(marks := set(_MARK.findall(text))) == 1:
        return text.replace(marks.pop(), SLOT)
    return f"{text} {SLOT}" if not marks and _CUE.search(text) else None


def in_the_wild(argument: str, data_dir: str | None) -> Attack:
    """The public set's texts that say where a request goes. Raises DataError where the file is not there."""
    if argument:
        raise ConfigError("attacks", "in-the-wild takes no file.", f"Write templates:{argument} for your own.")
    path = data_file(SuiteConfig(data_dir=data_dir), WILD_FILE, WILD_SOURCE)
    rows = read_table(path, ("prompt",))
    texts = [text for row, _ in rows if (text := with_slot(row["prompt"])) is not None]
    about = f"The {len(texts)} of {len(rows)} texts that users passed around which say where the request goes."
    return _attack("in-the-wild", about, texts, path)


def own_templates(argument: str, data_dir: str | None) -> Attack:
    """A user's templates: a file of prompts, each with {request} in it. Raises DataError for one that has none."""
    if not argument:
        raise ConfigError("attacks", "templates needs a file.", "Write templates:FILE.")
    texts = []
    for row in load_prompts(argument):
        text = row.messages[-1].content
        if SLOT not in text:
            raise DataError(row.where, "the template has no place for the request.", f"Write {SLOT} where it goes.")
        texts.append(text)
    return _attack(f"templates:{Path(argument).name}", f"{len(texts)} templates of one's own.", texts, Path(argument))


def _attack(name: str, about: str, texts: Sequence[str], path: Path) -> Attack:
    if not texts:
        raise DataError(path, "holds no template with a place for the request.", f"Write {SLOT} where it goes.")
    return Attack(
        name=name,
        family="template",
        about=about,
        source=WILD_SOURCE if name == "in-the-wild" else str(path),
        run=in_template(texts),
        data=hashlib.sha256("\x1f".join(texts).encode()).hexdigest(),
    )
