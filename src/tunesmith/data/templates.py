"""Wordings of a task: Jinja templates over a row's fields, run in a sandbox; what they cannot fill is an error.

A template is a pair: the input is what the user says, the target is what the assistant answers. An inverted template
asks for what is otherwise given, for example for a review with the sentiment as its input (FLAN, arXiv:2109.01652).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.check import RowError, shown
from tunesmith.data.parse import json_type
from tunesmith.errors import ConfigError
from tunesmith.records import Where

# Set for the templates of a task with options: the list, and the list with a hyphen and a line each.
OPTION_NAMES = ("options", "option_lines")
# What a template can raise while it runs: its own faults, and those of the filters and methods it calls.
_RUN_ERRORS = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


class TemplateConfig(Config):
    """One wording: Jinja over the row's fields, ``options`` and ``option_lines``; outer white space is taken off."""

    name: str | None = Field(None, min_length=1)
    """What reports call it; empty: its number in the list."""
    input: str = Field(min_length=1)
    """What the user says."""
    target: str = Field(min_length=1)
    """What the assistant answers."""
    inverted: bool = False
    """The template asks for what the others give; its target need not be one of the options."""


class ThoughtConfig(Config):
    """How a chain-of-thought example is made from a template's input and target and the row's rationale."""

    input: str = Field("{{ input }}\nThink step by step before you answer.", min_length=1)
    """What the user says: Jinja over input, target and rationale."""
    target: str = Field("{{ rationale }}\nThe answer is {{ target }}.", min_length=1)
    """What the assistant answers: Jinja over input, target and rationale."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A template filled by one row."""

    input: str
    target: str


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled wording; ``label`` is task.name, ``fields`` are the names it reads."""

    name: str
    label: str
    inverted: bool
    fields: frozenset[str]
    input: jinja2.Template
    target: jinja2.Template

    def fill(self, fields: Mapping[str, Any], where: Where) -> Filled:
        """Both texts for one row. Raises RowError naming template, field and row when one is missing or empty."""
        return Filled(
            self._render(self.input, "input", fields, where), self._render(self.target, "target", fields, where)
        )

    def _render(self, template: jinja2.Template, part: str, fields: Mapping[str, Any], where: Where) -> str:
        name = f"the {part} of template '{self.label}'"
        try:
            text = template.render(fields).strip()
        except jinja2.UndefinedError as error:
            missing = sorted(field for field in self.fields if field not in fields)
            said = [field for field in missing if f"'{field}'" in str(error)] or missing
            if not said:
                cause = f"{name} reads what the row does not have ({shown(str(error))})."
                raise RowError(where, cause, "Correct the template, or the row.") from None
            listed = ", ".join(map(shown, sorted(fields))) or "none"
            raise RowError(
                where.at(shown(said[0])),
                f"{name} reads the field '{shown(said[0])}', which the row does not have.",
                f"Add it, map it with the task's columns, or correct the template; the fields are {listed}.",
            ) from None
        except _RUN_ERRORS as error:
            cause = f"{name} cannot be filled: {shown(str(error).rstrip('.'), most=160)}."
            raise RowError(where, cause, "Correct the template, or the row.") from None
        if not text:
            raise RowError(where, f"{name} is empty for this row.", "Correct the template, or remove the row.")
        return text


def compile_template(config: TemplateConfig | ThoughtConfig, task: str, name: str, place: str) -> Template:
    """Compile a wording. Raises ConfigError at ``place`` for Jinja that cannot be read."""
    texts = {"input": config.input, "target": config.target}
    compiled, fields = {}, set[str]()
    for part, text in texts.items():
        try:
            compiled[part] = _ENVIRONMENT.from_string(text)
            fields |= jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"{place}.{part}",
                f"is not a Jinja template (line {error.lineno}: {str(error.message).rstrip('.')}).",
                "Write fields as {{ field }}.",
            ) from None
    return Template(
        name=name,
        label=f"{task}.{name}",
        inverted=getattr(config, "inverted", False),
        fields=frozenset(fields),
        input=compiled["input"],
        target=compiled["target"],
    )


def with_options(fields: Mapping[str, Any], options: list[str] | str | None, where: Where) -> dict[str, Any]:
    """The row's fields and its options; ``options`` is the task's list, or the column that holds the row's own.

    Raises RowError when the column is missing or no list of different texts, or a field hides what is set here.
    """
    out = dict(fields)
    if options is None:
        return out
    taken = [name for name in OPTION_NAMES if name in out and name != options]
    if taken:
        raise RowError(
            where.at(taken[0]),
            f"the field '{taken[0]}' has the name under which the templates see the task's options.",
            f"Map it to another name with the task's columns, or set options: {taken[0]} if it holds them.",
        )
    values = out.get(options) if isinstance(options, str) else options
    if isinstance(options, str):
        texts = isinstance(values, list) and all(isinstance(value, str) and value.strip() for value in values)
        if not values or not texts or len(set(values)) < len(values):
            detail = "it is missing" if options not in out else f"it is {json_type(values)}"
            fix = 'Write for example ["yes", "no"].'
            raise RowError(where.at(shown(options)), "a list of different texts is expected.", fix, detail=detail)
    out["options"], out["option_lines"] = values, "\n".join(f"- {value}" for value in values or ())
    return out


def _printable(value: Any) -> Any:
    """Refuse what Python would print in its own notation: a null that became the word None teaches the model that."""
    if isinstance(value, jinja2.Undefined | str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"it prints {json_type(value)}; only texts and numbers can be printed")


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, finalize=_printable, autoescape=False, trim_blocks=True, lstrip_blocks=True
)
