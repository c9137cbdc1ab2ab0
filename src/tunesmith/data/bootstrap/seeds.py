"""Seed tasks: instructions with examples of input and output, as Self-Instruct and Alpaca files hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.parse import json_type
from tunesmith.data.read import Rows, open_rows
from tunesmith.errors import DataError
from tunesmith.records import Where


@dataclass(frozen=True, slots=True)
class Instance:
    """One example of a task; an empty input means that the instruction stands alone."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An instruction with its instances; ``is_classification`` None where the file does not say."""

    id: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool | None = None


def read_seeds(source: str) -> tuple[list[Task], str]:
    """Tasks of a file and the SHA-256 of its content.

    Rows are Self-Instruct's (id, instruction, instances, is_classification) or Alpaca's (instruction, input, output).
    Raises DataError with all faults by cause.
    """
    rows = open_rows(source)
    first = _first_row(rows)
    if "instances" in first:
        read = _self_instruct
    elif "instruction" in first and ("output" in first or "response" in first):
        read = _alpaca
    else:
        raise DataError(
            rows.path,
            f"the rows are not seed tasks; the first holds {', '.join(map(shown, sorted(first))) or 'nothing'}.",
            "Write instruction, input and output, or Self-Instruct's id, instruction, instances, is_classification.",
        )
    faults, tasks, lines = FaultLog(), list[Task](), dict[str, Where]()
    for index in range(len(rows)):
        try:
            row, where = rows[index]
            task = read(row, where, index)
            if task.id in lines:
                raise RowError(where.at("id"), "the id is taken.", "Give every seed its own.", detail=task.id)
        except RowError as error:
            faults.add(error.fault)
            continue
        lines[task.id] = where
        tasks.append(task)
    faults.raise_if_any(rows.path, len(rows))
    return tasks, rows.digest()


def _first_row(rows: Rows) -> Mapping[str, Any]:
    for index in range(len(rows)):
        try:
            return rows[index][0]
        except RowError:
            # It is reported with the others, once there is a shape to read them by.
            continue
    raise DataError(rows.path, "no row can be read.", "Check how the file was written.")


def _self_instruct(row: Mapping[str, Any], where: Where, index: int) -> Task:
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances:
        raise RowError(where.at("instances"), "a list of examples is expected.", 'Write [{"input": "", "output": ""}].')
    flag = row.get("is_classification")
    if flag is not None and not isinstance(flag, bool):
        raise RowError(where.at("is_classification"), "true or false is expected.", "Write it without quotes.")
    name = row.get("id")
    return Task(
        id=str(name) if isinstance(name, str | int) and name != "" else f"seed_{index}",
        instruction=_text(row, "instruction", where, "instruction"),
        instances=tuple(_instance(item, where, f"instances[{i}]") for i, item in enumerate(instances)),
        is_classification=flag,
    )


def _alpaca(row: Mapping[str, Any], where: Where, index: int) -> Task:
    given = next((name for name in ("input", "context") if row.get(name) is not None), "input")
    answer = next((name for name in ("output", "response") if name in row), "output")
    return Task(
        id=f"seed_{index}",
        instruction=_text(row, "instruction", where, "instruction"),
        instances=(Instance(_text(row, given, where, given, empty=True), _text(row, answer, where, answer)),),
    )


def _instance(item: Any, where: Where, name: str) -> Instance:
    if not isinstance(item, dict):
        raise RowError(where.at(name), "an example must be an object.", 'Write {"input": "", "output": ""}.')
    return Instance(
        _text(item, "input", where, f"{name}.input", empty=True), _text(item, "output", where, f"{name}.output")
    )


def _text(row: Mapping[str, Any], key: str, where: Where, name: str, *, empty: bool = False) -> str:
    value = row.get(key)
    if empty and value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(where.at(name), "text is expected.", "Write it as a string.", detail=f"it is {json_type(value)}")
    if not empty and not value.strip():
        raise RowError(where.at(name), "the text is empty.", "Fill it in, or remove the row.")
    return value.strip()


def labelled(tasks: Sequence[Task], *, classification: bool) -> list[Task]:
    """The tasks that say to be classification, or say not to be."""
    return [task for task in tasks if task.is_classification is classification]
