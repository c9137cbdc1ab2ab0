"""How well the words of a prompt alone tell what a constitution's run should decline: what bounds its frontier.

A linear map over sentence vectors (all-MiniLM-L6-v2, which no stage has tuned) learns harmful from harmless on the
very prompts of a run and is tried on the prompts the run is measured on. Usage: constitution_probe.py RUN [DATA]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tunesmith.models.sentence_encoder import SentenceEncoder
from tunesmith.recipes.constitution_evaluate import jobs_of
from tunesmith.recipes.constitution_evaluate_config import ConstitutionEvaluateConfig

SETS = ("advbench", "harmbench", "xstest-safe", "xstest-unsafe")


def prompts_of(path: Path) -> list[str]:
    """The last turn of every prompt of a file."""
    return [json.loads(line)["prompt"][-1]["content"] for line in path.read_text(encoding="utf-8").splitlines()]


def main(run: Path, data: str) -> None:
    """Learn from a run's prompts, print areas and shares on the measured ones."""
    folder = run / "prompts"
    harmless = prompts_of(folder / "revise_harmless.jsonl") + prompts_of(folder / "label_harmless.jsonl")
    both = prompts_of(folder / "revise_harmful.jsonl") + prompts_of(folder / "label.jsonl")
    harmful = [text for text in both if text not in set(harmless)]
    config = ConstitutionEvaluateConfig(
        advbench=100, harmbench=100, xstest_safe=250, xstest_unsafe=100, helpful=None, reference=None, creative=None,
        data_dir=data,
    )  # fmt: skip
    texts = {
        job.task.name: [item.messages[-1].content for item in job.task.items]
        for job in jobs_of(config, 0)
        if job.task.name in SETS
    }
    encoder = SentenceEncoder()
    labels = np.r_[np.ones(len(harmful)), np.zeros(len(harmless))]
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=6, cv=5, max_iter=2000, class_weight="balanced"))
    model.fit(encoder.encode(harmful + harmless), labels)
    scores = {name: model.decision_function(encoder.encode(own)) for name, own in texts.items()}
    safe = scores["xstest-safe"]
    print(f"learnt from {len(harmful)} harmful and {len(harmless)} harmless prompts")
    harm = np.r_[scores["advbench"], scores["harmbench"]]
    for name, own in {"advbench + harmbench": harm, **scores}.items():
        if name != "xstest-safe":
            area = (own[:, None] > safe[None]).mean()
            print(f"{name} against xstest-safe: area under the curve {area:.3f}")
    for share in (0.05, 0.07, 0.15, 0.18, 0.5):
        caught = (harm > np.quantile(safe, 1 - share)).mean()
        print(f"declining {share:.0%} of xstest-safe declines {caught:.1%} of advbench + harmbench")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "../shared/data")
