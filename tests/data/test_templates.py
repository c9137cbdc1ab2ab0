"""Wordings: what they render, what they refuse, and where they say the fault is."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.data.check import RowError
from tunesmith.data.templates import Template, TemplateConfig, ThoughtConfig, compile_template, with_options
from tunesmith.errors import ConfigError
from tunesmith.records import Where

HERE = Where("rows.jsonl", 7)


def template(asked: str, target: str = "{{ y }}") -> Template:
    return compile_template(TemplateConfig(input=asked, target=target), "task", "first", "mixture.yaml")


def test_fields_are_filled_in_and_outer_white_space_is_taken_off() -> None:
    filled = template("\n Is {{ x }} big?\n{% if y == 'yes' %}Think.{% endif %}\n").fill({"x": 3, "y": "yes"}, HERE)
    assert (filled.input, filled.target) == ("Is 3 big?\nThink.", "yes")
    # A row's own markup is text: it is not run as a template.
    assert template("{{ x }}").fill({"x": "{{ y }} <b>&", "y": "z"}, HERE).input == "{{ y }} <b>&"


def test_a_missing_field_is_named_with_template_and_row() -> None:
    with pytest.raises(RowError) as caught:
        template("{{ x }} {{ colour }}").fill({"x": "a", "y": "b"}, HERE)
    assert str(caught.value.fault.where) == "rows.jsonl:7:colour"
    assert "input of template 'task.first' reads the field 'colour'" in str(caught.value)
    assert "the fields are x, y" in str(caught.value)
    with pytest.raises(RowError, match=r"target of template 'task.first' reads the field 'y'"):
        template("{{ x }}").fill({"x": "a"}, HERE)
    with pytest.raises(RowError, match="reads what the row does not have"):
        template("{{ x.colour }}").fill({"x": {"size": 1}, "y": "b"}, HERE)
    # A template that asks first is not at fault.
    assert template("{{ x }}{% if colour is defined %} {{ colour }}{% endif %}").fill({"x": "a", "y": "b"}, HERE)


@pytest.mark.parametrize("value", [None, True, ["a"], {"a": 1}])
def test_what_python_would_print_is_refused(value: Any) -> None:
    with pytest.raises(RowError, match=r"input of template 'task.first' cannot be filled: it prints"):
        template("{{ x }}").fill({"x": value, "y": "b"}, HERE)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("{{ ' ' }}", "is empty for this row"),
        ("{{ 1 // n }}", "cannot be filled"),
        ("{{ x.__class__.__mro__ }}", "'task.first'"),
        ("{{ x.append(1) }}", "'task.first'"),
        ("{{ x | nofilter }}", "No filter named"),
        ("{% for i in range(999999999) %}{% endfor %}", "cannot be filled"),
    ],
)
def test_faults_of_a_template(asked: str, says: str) -> None:
    with pytest.raises((RowError, ConfigError), match=says):
        template(asked).fill({"x": ["a"], "y": "b", "n": 0}, HERE)


def test_a_broken_template_is_an_error_before_any_row() -> None:
    with pytest.raises(ConfigError, match=r"mixture.yaml.target: is not a Jinja template \(line 1"):
        template("{{ x }}", "{{ y ")


def test_options() -> None:
    fields = with_options({"y": "no"}, ["yes", "no"], HERE)
    assert template("{{ options | join('/') }}\n{{ option_lines }}").fill(fields, HERE).input == "yes/no\n- yes\n- no"
    assert with_options({"c": ["a", "b"]}, "c", HERE)["options"] == ["a", "b"]
    assert with_options({"options": ["a", "b"]}, "options", HERE)["option_lines"] == "- a\n- b"
    for bad in ({"c": "a, b"}, {"c": []}, {"c": ["a", "a"]}, {"c": ["a", 1]}, {}):
        with pytest.raises(RowError, match="a list of different texts is expected"):
            with_options(bad, "c", HERE)
    with pytest.raises(RowError, match="under which the templates see"):
        with_options({"options": "x"}, ["yes", "no"], HERE)


def test_the_thought_stands_before_the_answer() -> None:
    thought = compile_template(ThoughtConfig(), "task", "chain_of_thought", "mixture.yaml")
    filled = thought.fill({"input": "2 + 2?", "target": "4", "rationale": "Two and two."}, HERE)
    assert filled.input == "2 + 2?\nThink step by step before you answer."
    assert filled.target == "Two and two.\nThe answer is 4."
