"""A writer on our own base: chat template, then the token-level generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.records import Message, Where
from tunesmith.rollout.generate import Generator, Prompt
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written
from tunesmith.tokens.continuation import raw_context
from tunesmith.tokens.render import render_prompt
from tunesmith.tokens.template import encode

# Answers are given in portions of this size, unless told otherwise.
_PORTION = 8


class LocalWriter:
    """Answers with a generator of ours; name and digests say which base it runs on and how requests are rendered.

    portion: answers made and given together; a job that is stopped loses at most so many. chat_template: whether
    messages are put into it, or asked as bare text.
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: Any,
        *,
        name: str,
        digests: Mapping[str, str],
        adapter: str | None = None,
        portion: int = _PORTION,
        chat_template: bool = True,
    ) -> None:
        self.chat_template = chat_template
        self.generator, self.tokenizer, self.adapter, self.portion = generator, tokenizer, adapter, portion
        self._identity = {"model": name, **digests, "adapter_digest": generator.sync(adapter)}

    @property
    def identity(self) -> Mapping[str, str]:
        """The base's name, the digests given, and the digest of the adapter it answers with."""
        return self._identity

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        """One answer a request, in order, given by portions. Raises DataError for a request beyond the context."""
        prompts = [Prompt(ids=self.render(one.messages), row_id=one.row_id) for one in asked]
        for first in range(0, len(prompts), self.portion):
            rollouts = self.generator.generate(prompts[first : first + self.portion], sampling, self.adapter)
            for index, rollout in enumerate(rollouts, first):
                if rollout.adapter_digest != self._identity["adapter_digest"]:
                    raise ValueError(f"the weights of adapter {self.adapter!r} changed since this writer was made")
                details = {"prompt_tokens": len(rollout.prompt_ids), "new_tokens": len(rollout.ids)}
                yield index, Written(text=rollout.text, stop_reason=rollout.stop_reason, details=details)

    def render(self, messages: Sequence[Message]) -> NDArray[np.int64]:
        """The tokens (T,) that are read before the answer. Raises DataError for messages a template refuses."""
        if self.chat_template:
            return render_prompt(messages, self.tokenizer)
        where = Where("prompt")
        return np.array(encode(raw_context(messages, self.tokenizer, where), self.tokenizer, where), np.int64)
