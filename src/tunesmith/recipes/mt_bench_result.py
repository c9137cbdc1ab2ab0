"""What came of MT-Bench, as JSON, files, a page and lines for a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.evals.contests import Decision, Talk, prefers_longer
from tunesmith.evals.judge import Ruling
from tunesmith.evals.judge_stats import judge_statistics, limits
from tunesmith.evals.mt_bench import (
    Question,
    decided,
    difference_mean,
    grade_differences,
    grade_mean,
    graded,
    graded_turns,
    table,
)
from tunesmith.randomness import permutation
from tunesmith.recipes.judge import describe_manners
from tunesmith.reports.mt_bench import mean_text, write_mt_bench_report
from tunesmith.runs import atomic_write_text
from tunesmith.stats import clustered_proportion

GRADES_FILE, PAIRS_FILE, RESULT_FILE, REPORT_FILE = "grades.jsonl", "pairs.jsonl", "mt_bench.json", "mt_bench.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """Conversations and verdicts of one or two models on the same questions.

    grades: a ruling an answer, by model; decisions: a contest a turn, from the first model's view; either may be empty.
    """

    questions: Sequence[Question]
    labels: Sequence[str]
    talks: Sequence[Sequence[Talk]]
    num_cut: Mapping[str, int]
    grades: Sequence[Sequence[Ruling]]
    decisions: Sequence[Decision]

    def facts(self, seed: int, num_examples: int) -> dict[str, Any]:
        """What was measured, for JSON; the seed picks the examples."""
        out: dict[str, Any] = {
            "models": list(self.labels),
            "num_questions": len(self.questions),
            "answers": {label: self._answers(model) for model, label in enumerate(self.labels)},
        }
        if self.grades:
            placed = [
                graded(graded_turns(self.questions, own), rulings)
                for own, rulings in zip(self.talks, self.grades, strict=True)
            ]
            tables = [table(rows, grade_mean) for rows in placed]
            out["grades"] = dict(zip(self.labels, tables, strict=True))
            if len(placed) == 2:
                out["grade_difference"] = table(grade_differences(placed[1], placed[0]), difference_mean)
        if self.decisions:
            out["pairs"] = self._pairs()
        chosen = sorted(permutation(len(self.questions), seed, "mt_bench_examples")[:num_examples])
        out["examples"] = [self._example(i) for i in chosen]
        return out

    def _answers(self, model: int) -> dict[str, Any]:
        lengths = [len(turn.content) for talk in self.talks[model] for turn in talk if turn.role == "assistant"]
        cut = self.num_cut[self.labels[model]]
        return {"num": len(lengths), "mean_characters": sum(lengths) / len(lengths), "cut_off": cut}

    def _pairs(self) -> dict[str, Any]:
        longer, asked = prefers_longer(self.decisions)
        number = {question.id: i for i, question in enumerate(self.questions)}
        values = [one.told.value for one in self.decisions]
        verdicts = [verdict for one in self.decisions for verdict in one.verdicts]
        return {
            "win_rate": table(decided(self.questions, self.decisions)),
            "won": sum(value is not None and value > 0.5 for value in values),
            "lost": sum(value is not None and value < 0.5 for value in values),
            "tied": values.count(0.5),
            "same_answers": sum(not one.verdicts for one in self.decisions),
            "manners": judge_statistics(verdicts).as_dict() if verdicts else None,
            "prefers_longer": limits(clustered_proportion(longer, [number[q] for q in asked])) if longer else None,
        }

    def _place(self, question: int, turn: int) -> int:
        return sum(len(q.turns) for q in self.questions[:question]) + turn

    def _example(self, number: int) -> dict[str, Any]:
        question = self.questions[number]
        turns = []
        for turn, asked in enumerate(question.turns):
            place = self._place(number, turn)
            one: dict[str, Any] = {
                "user": asked,
                "answers": {
                    label: own[number][2 * turn + 1].content for label, own in zip(self.labels, self.talks, strict=True)
                },
            }
            if self.grades:
                rulings = {label: own[place] for label, own in zip(self.labels, self.grades, strict=True)}
                one["grades"] = {label: ruling.value for label, ruling in rulings.items()}
                one["said"] = {label: ruling.said.text or ruling.said.reason for label, ruling in rulings.items()}
            if self.decisions:
                decision = self.decisions[place].as_row()
                one |= {"preference": decision["preference"], "pair_said": decision["said"]}
            turns.append(one)
        return {"question": question.id, "category": question.category, "turns": turns}

    def grade_rows(self) -> list[dict[str, Any]]:
        """For grades.jsonl: one line an answer."""
        return [
            {
                "question": question.id,
                "category": question.category,
                "turn": turn,
                "model": label,
                "grade": ruling.value,
                "said": ruling.said.text or ruling.said.reason,
            }
            for label, own, rulings in zip(self.labels, self.talks, self.grades, strict=True)
            for (question, turn, _), ruling in zip(graded_turns(self.questions, own), rulings, strict=True)
        ]


def write_result(folder: Path, played: Played, facts: Mapping[str, Any]) -> None:
    """Write the result, its rows and the page; what the mode left out is not written. Raises DiskFullError."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {GRADES_FILE: played.grade_rows() if played.grades else []}
    rows[PAIRS_FILE] = [one.as_row() for one in played.decisions]
    for name, own in rows.items():
        if own:
            lines = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in own)
            atomic_write_text(folder / name, lines)
    atomic_write_text(folder / RESULT_FILE, json.dumps(facts, indent=2, ensure_ascii=True) + "\n")
    write_mt_bench_report(folder / REPORT_FILE, facts)


def describe_mt_bench(facts: Mapping[str, Any], output_dir: str) -> list[str]:
    """What a terminal shows at the end; every score stands beside the judge's agreement with people."""
    judge, lines = facts["judge"], list(facts["notes"])
    if "grades" in facts:
        lines.append(f"grades from 1 to 10 by {judge['name']} ({judge['agreement']['grade']}):")
        for label, own in facts["grades"].items():
            turns = ", ".join(f"turn {turn} {mean_text(one)}" for turn, one in own["turns"].items())
            lines.append(f"  {label}: {mean_text(own['all'])}; {turns}")
        if "grade_difference" in facts:
            difference = mean_text(facts["grade_difference"]["all"])
            lines.append(f"  {facts['models'][0]} minus {facts['models'][1]}, on the same questions: {difference}")
    if "pairs" in facts:
        pairs = facts["pairs"]
        lines.append(f"compared in pairs by {judge['name']} ({judge['agreement']['pair']}):")
        rate = mean_text(pairs["win_rate"]["all"], percent=True)
        lines.append(
            f"  {facts['models'][0]} against {facts['models'][1]}: win rate {rate}, a tie one half "
            f"({pairs['won']} : {pairs['tied']} : {pairs['lost']})"
        )
        if pairs["manners"]:
            lines += describe_manners(pairs["manners"])
        if pairs["prefers_longer"]:
            one = pairs["prefers_longer"]
            share = f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
            lines.append(f"  prefers the longer answer: {share} of the decided")
    cut = ", ".join(f"{label} {own['cut_off']} of {own['num']}" for label, own in facts["answers"].items())
    folder = Path(output_dir)
    lines.append(f"answers cut off at {facts['settings']['max_new_tokens']} tokens: {cut}")
    lines.append(f"wrote {folder / REPORT_FILE}, {folder / RESULT_FILE} in {facts['seconds']} s")
    if "pairs" in facts:
        return [*lines, f"next:  tunesmith judge stats {shlex.quote(str(folder / PAIRS_FILE))}"]
    return lines
