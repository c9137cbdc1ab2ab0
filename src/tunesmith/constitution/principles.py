"""A constitution: written principles by which answers are criticised, revised and compared.

It is a YAML file, so that the people who answer for it can read and change it. Source of the method: Bai et al. 2022,
"Constitutional AI: Harmlessness from AI Feedback", arXiv:2212.08073.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from tunesmith.config import Config, load_config
from tunesmith.data.patterns import compile_pattern
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Message

# What a request may name, between braces; the words of the conversation take its place.
PLACEHOLDERS = ("prompt", "answer", "critique", "principle")
# The name of the constitution that comes with tunesmith.
OURS = "ours"
_PLACEHOLDER = re.compile(r"\{([^{}\s]*)\}")


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


# A text that says something: blanks alone do not.
Text = Annotated[str, AfterValidator(_said)]


class Demonstration(Config):
    """A prompt with an answer, what is wrong with it by one principle, and the answer put right."""

    prompt: Text
    """What the user asked."""
    answer: Text
    """An answer to it."""
    critique: Text
    """What the principle finds in the answer; where ``fault`` is false, why it finds nothing."""
    revision: str = ""
    """The answer put right; empty exactly where there is no fault."""
    fault: bool = True
    """Whether the principle finds something."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.fault != bool(self.revision.strip()):
            raise ValueError("a demonstration with a fault has a revision, one without has none")
        return self


class Applies(Config):
    """When a principle is sampled: always, unless a pattern or examples of prompts narrow it down; both: by both."""

    pattern: str | None = None
    """Regular expression that is searched in the user's turns, whatever the case."""
    like: tuple[str, ...] = ()
    """Prompts it is for: a classifier over sentence vectors tells which prompts are nearer to these ..."""
    unlike: tuple[str, ...] = ()
    """... than to these."""

    @field_validator("like", "unlike", mode="before")
    @classmethod
    def _flat(cls, prompts: Any) -> Any:
        """A list inside the list is laid flat: so a YAML anchor shares prompts between principles."""
        if not isinstance(prompts, list | tuple):
            return prompts
        return [one for item in prompts for one in (item if isinstance(item, list | tuple) else (item,))]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                compile_pattern(pattern, "pattern")
            except DataError as error:
                raise ValueError(error.cause) from None
        return pattern

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.like) != bool(self.unlike):
            raise ValueError("a classifier needs prompts of both kinds: like and unlike")
        return self


class Principle(Config):
    """One rule."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Names it in every record."""
    text: Text
    """The rule itself, one or two sentences; the judge of the AI-feedback phase reads it."""
    category: Text
    """Reports group by it."""
    critique_request: Text
    """What the critic is asked of an answer; may name {prompt}, {answer}, {principle}."""
    revision_request: Text
    """What the reviser is asked; may name {critique} too."""
    weight: float = Field(1.0, ge=0)
    """How often it is sampled beside the others that apply; 0: never."""
    applies: Applies = Applies()
    """When."""
    examples: tuple[Demonstration, ...] = ()
    """Shown to the critic and the reviser before they are asked."""

    @field_validator("critique_request", "revision_request")
    @classmethod
    def _known_placeholders(cls, text: str, info: ValidationInfo) -> str:
        known = PLACEHOLDERS if info.field_name == "revision_request" else ("prompt", "answer", "principle")
        if bad := [found for found in _PLACEHOLDER.findall(text) if found not in known]:
            raise ValueError(f"names {{{bad[0]}}}; known are {', '.join(f'{{{one}}}' for one in known)}")
        return text


class Constitution(Config):
    """The principles in force."""

    name: Text
    """Outputs carry it."""
    version: Text
    """Outputs carry it, beside the digest of what the file says."""
    principles: tuple[Principle, ...]
    """The rules."""

    @field_validator("principles")
    @classmethod
    def _some_and_distinct(cls, principles: tuple[Principle, ...]) -> tuple[Principle, ...]:
        if not principles:
            raise ValueError("holds no principle")
        ids = [one.id for one in principles]
        if twice := [name for place, name in enumerate(ids) if name in ids[:place]]:
            raise ValueError(f"two principles have the id '{twice[0]}'")
        return principles

    @property
    def digest(self) -> str:
        """SHA-256 of what it says, in hexadecimal: comments and layout do not change it."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def __getitem__(self, principle_id: str) -> Principle:
        return next(one for one in self.principles if one.id == principle_id)


def filled(request: str, **words: str) -> str:
    """A request with the words in place of its placeholders; braces inside the words stay as they are."""
    return _PLACEHOLDER.sub(lambda found: words.get(found[1], found[0]), request)


def find_constitution(name_or_path: str | Path) -> Path:
    """The file of a constitution: ``ours`` is the one that comes with tunesmith. Raises ConfigError."""
    if str(name_or_path) == OURS:
        return Path(__file__).with_name(f"{OURS}.yaml")
    if not Path(name_or_path).is_file():
        fix = f"Name a .yaml file, or '{OURS}' for the one that comes with tunesmith."
        raise ConfigError(str(name_or_path), "is no file of a constitution.", fix)
    return Path(name_or_path)


def load_constitution(name_or_path: str | Path) -> Constitution:
    """Read and check a file, or ``ours``. Raises ConfigError naming file:line:key."""
    return load_config(Constitution, find_constitution(name_or_path))[0]


def user_text(messages: Sequence[Message]) -> str:
    """What the user said, all turns: patterns and classifiers read this."""
    return "\n".join(turn.content for turn in messages if turn.role == "user")
