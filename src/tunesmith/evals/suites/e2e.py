"""E2E: a restaurant's facts into a sentence, against several human ones (Novikova et al. 2017, arXiv:1706.09254)."""

from __future__ import annotations

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.overlap import OVERLAP_METRICS, overlap
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Task


def _build(config: SuiteConfig) -> Task:
    items = []
    path = data_file(config, "e2e_nlg/valid.jsonl", E2E.source)
    for row, where in read_table(path, ("meaning",), ("references",)):
        references = row["references"]
        if not references or not all(isinstance(text, str) and text.strip() for text in references):
            raise DataError(where.at("references"), "a list of human sentences is expected.", "Correct the row.")
        prompt = f"Describe this restaurant in one or two sentences, using only these facts.\n{row['meaning']}"
        items.append(question("e2e", prompt, references[0], references=tuple(references)))
    return suite_task(E2E, config, divide("e2e", items, num_examples=8), overlap(), OVERLAP_METRICS)


E2E = Suite(
    name="e2e",
    version=1,
    source="github.com/tuetschek/e2e-dataset",
    licence="CC BY-SA 4.0",
    about="A restaurant's facts as a sentence, compared with several human ones. Means of sentence values: the BLEU of "
    "papers is a corpus's.",
    answers="text",
    headline="rougeL",
    shots=3,
    max_new_tokens=96,
    build=_build,
)
