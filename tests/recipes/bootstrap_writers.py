"""Writers for the tests: one that answers from a script, one that makes up endless tasks; neither needs torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunesmith.randomness import derive_seed, generator
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, WriterStop, Written

STAGES = ("instruction", "classification", "instance", "answer")
REQUESTS = {derive_seed(0, f"bootstrap_{stage}", step): (stage, step) for stage in STAGES for step in range(400)}
Answer = str | tuple[str, WriterStop]


class ScriptedWriter:
    """Gives the answer written for (stage, step); what is not in the script is a failure of the test."""

    def __init__(self, script: Mapping[tuple[str, int], Answer]) -> None:
        self.script = script
        self.asked: list[tuple[str, int]] = []
        self.seen: list[Asked] = []

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": "script", "model_digest": "0", "adapter_digest": "none"}

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for index, one in enumerate(asked):
            name = REQUESTS[one.row_id]
            self.asked.append(name)
            self.seen.append(one)
            yield index, self.answer(one, name)

    def answer(self, one: Asked, name: tuple[str, int]) -> Written:
        given = self.script[name]
        text, stop = given if isinstance(given, tuple) else (given, "end_of_turn")
        return Written(text=text, stop_reason=stop, details={"new_tokens": len(text.split())})


class EndlessWriter(ScriptedWriter):
    """Makes up answers by the request's draw and by what it is shown, good and bad ones; stops hard where told to."""

    VERBS = ("sort", "name", "compare", "explain", "translate", "shorten", "rate", "describe")
    THINGS = ("rivers", "poems", "prices", "letters", "birds", "rules", "cities", "recipes", "images", "dreams")

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__({})
        self.fail_after = fail_after

    def fail(self) -> None:
        raise KeyboardInterrupt

    def answer(self, one: Asked, name: tuple[str, int]) -> Written:
        if self.fail_after is not None and len(self.asked) > self.fail_after:
            self.fail()
        # What was said before is part of the draw: another history would give other rows.
        rng = generator(0, "endless", one.row_id, json.dumps([m.content for m in one.messages]))
        words = [str(rng.choice(self.THINGS)) for _ in range(3)]
        stage = name[0]
        if stage == "instruction":
            text = f"{rng.choice(self.VERBS)} {words[0]} by {words[1]} and {words[2]} of kind {rng.integers(9)}"
        elif stage == "classification":
            text = str(rng.choice(["Yes", "No", "Perhaps"]))
        elif "Label" in one.messages[-2].content:
            text = f"Label: {words[0]}\nInput: {words[1]} {words[2]}"
        else:
            text = str(
                rng.choice([f"Input: none\nOutput: {words[0]}", f"Input: {words[1]}\nOutput: {words[2]} x", "?"])
            )
        return Written(text=text, stop_reason="length" if rng.random() < 0.05 else "end_of_turn")


def write_seeds(folder: Path) -> str:
    """Four seeds of either kind."""
    tasks = [
        ("Name a river in the given country.", "Germany", "The Elbe.", False),
        ("Write a greeting.", "", "Good morning!", False),
        ("Sort the words by the alphabet.", "pear fig", "fig pear", False),
        ("Say whether the sentence is a question.", "Who is there?", "question", True),
    ]
    path = folder / "seeds.jsonl"
    rows = [
        {"id": f"s{i}", "instruction": a, "instances": [{"input": b, "output": c}], "is_classification": d}
        for i, (a, b, c, d) in enumerate(tasks)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
