"""The measures on the real model: it knows famous quotes better than rewordings of them, and answers our questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data


@pytest.mark.slow
def test_the_real_model_knows_what_it_has_read_and_answers_above_chance(tmp_path: Path) -> None:
    from tunesmith.evals.after.gap import auc_interval
    from tunesmith.evals.after.retained import BITS, CHANCE, all_questions, compare_retained, measure_retained
    from tunesmith.evals.after.scores import score_rows
    from tunesmith.evals.subject import local_subject
    from tunesmith.models.load import ModelConfig, load_base
    from tunesmith.records import Where
    from tunesmith.rollout.generate import LocalGenerator
    from tunesmith.tokens.continuation import text_examples

    folder = shared_data("memorisation")
    base = load_base(ModelConfig())
    rates: dict[str, list[float]] = {}
    for name in ("popular_quotes", "unseen_quotes"):
        texts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))[:36]
        rows = [text_examples(t, base.tokenizer, max_tokens=512, where=Where(name, i))[0] for i, t in enumerate(texts)]
        scores = score_rows(base, None, rows)
        rates[name] = [score.nats / len(text.encode()) for score, text in zip(scores, texts, strict=True)]
    known, new = (np.array(rates[name]) for name in rates)
    auc = auc_interval(float((known[:, None] < new[None]).mean()), len(known), len(new))
    # Measured: 0.82 [0.70, 0.90], and 1.03 against 1.28 nats a byte.
    assert auc.low > 0.6 and known.mean() < 0.85 * new.mean()

    subject = local_subject(base, LocalGenerator(base), None, "base", chat_template=False)
    result = measure_retained(subject, all_questions()[::2], tmp_path / "answers.jsonl")
    assert result["retained"].interval("right").low > CHANCE + 0.1
    # The base against itself has lost nothing, and its text costs what a model of English pays.
    same = compare_retained(result, result, 0)
    assert {ability.verdict for ability in same} == {"no change seen"} and same[-1].unit == BITS
    assert 0.5 < same[-1].base.value < 1.5
