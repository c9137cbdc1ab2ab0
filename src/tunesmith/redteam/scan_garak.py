"""garak's report.jsonl: one line an attempt, with its answers and what each detector says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith.redteam.attack import Family
from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.goals import Goal, GoalKind
from tunesmith.redteam.judgement import Case
from tunesmith.redteam.scan_records import Record, Told, count, judged, last_asked, made_attempt, words_in

# garak's probe modules, where their attacks are no templates around a harmful request.
_GARAK: Mapping[str, tuple[Family, GoalKind]] = {
    "dan": ("persona", "harmful"),
    "promptinject": ("injection", "harmful"),
    "latentinjection": ("injection", "harmful"),
    "encoding": ("splitting", "harmful"),
    "smuggling": ("splitting", "harmful"),
    "badchars": ("splitting", "harmful"),
    "grandma": ("persona", "harmful"),
    "realtoxicityprompts": ("direct", "toxic"),
    "atkgen": ("search", "toxic"),
    "continuation": ("direct", "toxic"),
    "lmrc": ("direct", "toxic"),
    "donotanswer": ("direct", "harmful"),
    "leakreplay": ("direct", "harmful"),
    "misleading": ("direct", "harmful"),
    "snowball": ("direct", "harmful"),
    "malwaregen": ("direct", "harmful"),
    "tap": ("search", "harmful"),
    "fitd": ("multi-turn", "harmful"),
    "goat": ("multi-turn", "harmful"),
    "suffix": ("gradient", "harmful"),
    "visual_jailbreak": ("template", "harmful"),
}


def read_garak(records: Sequence[Record], left_out: dict[str, int]) -> Iterator[Attempt]:
    """Each answer of each attempt that garak's detectors have seen, an attempt of ours."""
    setup: dict[str, Any] = {}
    for one in records:
        if str(one.row.get("entry_type", "")).startswith(("start_run", "init")):
            setup |= one.row
    target = {
        "model": str(setup.get("plugins.target_name") or setup.get("plugins.model_name") or "unknown"),
        "run": str(setup.get("run") or setup.get("transient.run_id") or "unknown"),
    }
    version = str(setup.get("garak_version") or setup.get("_config.version") or "unknown")
    threshold = float(setup.get("run.eval_threshold") or 0.5)
    for one in records:
        # One that is not judged yet (status 1) is written again once it is.
        if one.row.get("entry_type") != "attempt" or one.row.get("status") != 2:
            continue
        try:
            yield from _garak_attempt(one, target, version, int(setup.get("run.seed") or 0), threshold, left_out)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            cause = f"cannot be read as garak's attempt ({type(error).__name__}: {error})."
            raise DataError(one.where, cause, "Report it with garak's version.") from None


def _garak_attempt(
    record: Record,
    target: Mapping[str, str],
    version: str,
    seed: int,
    threshold: float,
    left_out: dict[str, int],
) -> Iterator[Attempt]:
    row = record.row
    probe = str(row["probe_classname"]).removeprefix("probes.")
    family, kind = _GARAK.get(probe.partition(".")[0], ("template", "harmful"))
    scores: Mapping[str, Sequence[float | None]] = row["detector_results"]
    judge = {"judge": "garak", "version": version, "detectors": "+".join(sorted(scores)), "threshold": f"{threshold:g}"}
    for index, messages in enumerate(_garak_answers(row)):
        given = {name: float(score) for name, own in scores.items() if (score := own[index]) is not None}
        if messages is None or not given:
            count(left_out, "no answer" if messages is None else "no detector had a say")
            continue
        *asked, answer = messages
        goal = Goal(
            id=f"garak/{probe}/{row['seq']}",
            request=last_asked(asked),
            category=probe.partition(".")[0],
            source="garak",
            kind=kind,
            where=record.where,
        )
        worst = max(given.values())
        case = Case(goal=goal, prompt=goal.request, answer=answer.content)
        said = judged(case, worst >= threshold, worst, {"garak": given})
        attempt = Told(goal=goal, attack=f"garak/{probe}", family=family, index=index, seed=seed)
        details = {"tool": "garak", "aim": row.get("goal"), "uuid": row["uuid"]}
        tries = (Try(messages=tuple(asked), answer=answer.content, stop_reason="unknown", judgement=said),)
        yield made_attempt(attempt, tries, target, judge, details)


def _garak_answers(row: Mapping[str, Any]) -> Iterator[list[Message] | None]:
    """The messages with each answer, which is the last; None where the target gave none."""
    conversations = row.get("conversations")
    if conversations is None:
        # Until 0.11 a prompt and its answers were bare texts.
        for output in row["outputs"]:
            asked = Message(role="user", content=words_in(row["prompt"]))
            yield None if output is None else [asked, Message(role="assistant", content=words_in(output))]
        return
    for conversation in conversations:
        turns = [(turn["role"], turn["content"]) for turn in conversation["turns"]]
        if turns[-1][0] != "assistant" or turns[-1][1] is None or turns[-1][1].get("text") is None:
            yield None
        else:
            yield [Message(role=role, content=words_in(content)) for role, content in turns]
