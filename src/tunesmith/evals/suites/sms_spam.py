"""SMS spam: is a text message spam (Almeida et al. 2011, UCI SMS Spam Collection)?"""

from __future__ import annotations

from tunesmith.errors import DataError
from tunesmith.evals.asking import balanced, divide, question, read_table, suite_task
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Task

_TARGETS = {"spam": "yes", "ham": "no"}


def _build(config: SuiteConfig) -> Task:
    items = []
    for row, where in read_table(data_file(config, "sms_spam/sms.jsonl", SMS_SPAM.source), ("label", "text")):
        if row["label"] not in _TARGETS:
            raise DataError(where.at("label"), "spam or ham is expected.", "Correct the row.")
        prompt = f"Is this text message spam? Answer yes or no.\nMessage: {row['text']}"
        items.append(question("sms_spam", prompt, _TARGETS[row["label"]], ("yes", "no")))
    parts = divide("sms_spam", balanced("sms_spam", items), num_examples=40)
    return suite_task(SMS_SPAM, config, parts, choice_scorer(), CHOICE_METRICS, chance=choice_chance)


SMS_SPAM = Suite(
    name="sms_spam",
    version=1,
    source="archive.ics.uci.edu/dataset/228/sms+spam+collection",
    licence="CC BY 4.0",
    about="Spam or not, on as many messages of each kind: in the whole set, 88 % of which is no spam, always saying no "
    "would look good.",
    answers="choice",
    headline="acc",
    build=_build,
)
