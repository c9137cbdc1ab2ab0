"""Requests with a memory: what was answered once is never asked, or paid for, again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunesmith.randomness import derive_seed
from tunesmith.records import Message
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer

# Why an answer ended that makes it useless, by its stop reason.
_STOP_FAULTS = {"length": "cut_off", "content_filter": "withheld_by_endpoint"}


class AskConfig(Protocol):
    """What asking needs to be told."""

    @property
    def seed(self) -> int: ...

    @property
    def temperature(self) -> float: ...

    @property
    def top_p(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, the stage it belongs to, and its key in the requests' file; ``fault`` names a useless ending."""

    stage: str
    key: str
    text: str
    fault: str | None


class Asker:
    """Asks a writer through a requests' file; counts what was asked, found there, and generated."""

    def __init__(self, writer: Writer, results: ResultsFile, config: AskConfig) -> None:
        self._writer, self._results, self._config = writer, results, config
        self.identity: Mapping[str, str] = dict(writer.identity)
        self.num_asked: Counter[str] = Counter()
        self.num_found: Counter[str] = Counter()
        self.num_tokens: Counter[str] = Counter()

    def ask(
        self,
        stage: str,
        requests: Sequence[tuple[int, tuple[Message, ...]]],
        max_new_tokens: int,
        *,
        greedy: bool = False,
    ) -> list[Reply]:
        """One reply a request (step, messages), in their order; every new answer is on the disk before the next.

        A key is the digest of the writer's identity, the messages, the sampling and the draw, so a cached answer is
        never taken for another question. Raises what the writer raises; DiskFullError, RunError.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=0.0 if greedy else self._config.temperature,
            top_p=1.0 if greedy else self._config.top_p,
            seed=self._config.seed,
        )
        asked = [
            Asked(messages=messages, row_id=derive_seed(0, f"bootstrap_{stage}", step)) for step, messages in requests
        ]
        keys = [self._key(one, sampling) for one in asked]
        missing = [i for i, key in enumerate(keys) if key not in self._results]
        self.num_found[stage] += len(keys) - len(missing)
        for index, written in self._writer.write([asked[i] for i in missing], sampling) if missing else ():
            step, messages = requests[missing[index]]
            self._results.append(
                [
                    {
                        "key": keys[missing[index]],
                        "answer": written.text,
                        "stop_reason": written.stop_reason,
                        "stage": stage,
                        "step": step,
                        "messages": [[message.role, message.content] for message in messages],
                        "sampling": sampling.model_dump(),
                        **self.identity,
                        "details": dict(written.details),
                    }
                ]
            )
            self.num_asked[stage] += 1
            self.num_tokens.update({k: v for k, v in written.details.items() if type(v) is int})
        return [self._reply(stage, key) for key in keys]

    def _reply(self, stage: str, key: str) -> Reply:
        row = self._results[key]
        return Reply(stage=stage, key=key, text=row["answer"], fault=_STOP_FAULTS.get(row["stop_reason"]))

    def _key(self, asked: Asked, sampling: Sampling) -> str:
        said = [(message.role, message.content) for message in asked.messages]
        settings: dict[str, Any] = {"writer": dict(self.identity), "sampling": sampling.model_dump()}
        text = json.dumps([settings, asked.row_id, said], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
