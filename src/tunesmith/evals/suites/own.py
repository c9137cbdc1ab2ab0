"""The shipped example tasks as suites: the demo's tickets and a hospital's abbreviations."""

from __future__ import annotations

from tunesmith.data.examples import jargon, support_desk
from tunesmith.evals.asking import Parts, suite_task
from tunesmith.evals.scorers import exact_text, json_ticket
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.suites.jargon import METRICS as JARGON_METRICS
from tunesmith.evals.suites.support_desk import METRICS as TICKET_METRICS
from tunesmith.evals.suites.support_desk import TONE
from tunesmith.evals.task import Task, items_from_rows


def _build_support_desk(config: SuiteConfig) -> Task:
    read = support_desk.read_rows
    parts = Parts(
        examples=tuple(items_from_rows(read("train"), "train")),
        validation=tuple(items_from_rows(read("valid"), "valid")),
        test=tuple(items_from_rows(read("test"), "test")),
    )
    return suite_task(SUPPORT_DESK, config, parts, json_ticket(support_desk.FIELDS, "reply", TONE), TICKET_METRICS)


def _build_jargon(config: SuiteConfig) -> Task:
    read = jargon.read_rows
    parts = Parts(
        examples=tuple(items_from_rows(read("train"), "train")),
        validation=tuple(items_from_rows(read("valid"), "valid")),
        test=tuple(items_from_rows(read("test"), "test")),
    )
    return suite_task(JARGON, config, parts, exact_text, JARGON_METRICS)


SUPPORT_DESK = Suite(
    name="support_desk",
    version=1,
    source="shipped with tunesmith",
    licence="Apache-2.0",
    about="The demo's task: a customer's message into a ticket, as JSON with a reply in the brand's tone.",
    answers="text",
    headline="all_fields",
    max_new_tokens=160,
    build=_build_support_desk,
)
JARGON = Suite(
    name="jargon",
    version=1,
    source="shipped with tunesmith",
    licence="Apache-2.0",
    about="What a hospital's abbreviations stand for, in wordings that the training rows do not have.",
    answers="text",
    headline="exact",
    max_new_tokens=32,
    build=_build_jargon,
)
