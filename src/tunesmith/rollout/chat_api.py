"""What an OpenAI-compatible chat/completions server is asked and answers, as plain values: no socket, no model.

Of OpenAI's fields those that change an answer are obeyed or refused; nothing that would is passed over in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.config import Config, build_config
from tunesmith.errors import ConfigError, TunesmithError
from tunesmith.records import Message

# Fields that say nothing about the answer.
_IDLE = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
# Fields we have no use for, and the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
# OpenAI's names of what an answer ended by.
Finish = Literal["stop", "length"]


class RequestError(TunesmithError):
    """A request that gets no answer: HTTP status, OpenAI's kind and code, and the seconds after which to ask again."""

    def __init__(
        self, status: int, cause: str, fix: str, *, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__("request", cause, fix)
        self.status, self.code, self.retry_after = status, code, retry_after


class Part(Config):
    """A piece of a message's content; only text is read."""

    type: Literal["text"]
    """Kind of the piece."""
    text: str
    """Its words."""


class ChatMessage(Config):
    """One turn as a client sends it."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; a developer is the system."""
    content: str | list[Part]
    """The words, in one or in pieces that are put together."""
    name: str | None = None
    """Of the speaker; templates have no place for it, so it changes nothing."""


class StreamOptions(Config):
    """What a stream brings besides the answer."""

    include_usage: bool = False
    """A last event with the tokens."""
    include_obfuscation: bool = False
    """Of OpenAI's servers; nothing is padded here."""


class ChatRequest(Config):
    """A request for an answer, with OpenAI's names and defaults."""

    messages: list[ChatMessage] = Field(min_length=1)
    """The conversation so far."""
    model: str = ""
    """Which of the served models answers; empty: the first."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of an answer; empty: the server's own limit, or what the context leaves."""
    max_completion_tokens: int | None = Field(None, ge=1)
    """OpenAI's newer name of max_tokens."""
    temperature: float = Field(1.0, ge=0, le=10)
    """Divides the logits; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Smallest set of tokens whose probability reaches this."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens; 0 means all. Not OpenAI's, as the next two; other local servers call them so."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Only tokens of at least this share of the likeliest one's probability."""
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    """Above 1 lowers the logits of tokens that stand in the messages or the answer."""
    n: int = Field(1, ge=1, le=16)
    """Answers to draw."""
    stop: str | list[str] | None = None
    """Texts before which an answer ends."""
    seed: int | None = None
    """Equal requests with equal seeds have equal answers; empty: the server draws one."""
    stream: bool = False
    """Whether the answer comes in pieces (server-sent events)."""
    stream_options: StreamOptions = StreamOptions()
    """What a stream brings besides the answer."""

    @field_validator("stop")
    @classmethod
    def _has_texts(cls, stop: str | list[str] | None) -> str | list[str] | None:
        texts = [stop] if isinstance(stop, str) else stop or []
        if len(texts) > 16 or not all(texts):
            raise ValueError("at most 16 texts, none of them empty")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer, if the client says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def conversation(self) -> tuple[Message, ...]:
        """The messages in our words. Raises RequestError where there is nothing to answer."""
        messages: list[Message] = []
        for one in self.messages:
            text = one.content if isinstance(one.content, str) else "".join(part.text for part in one.content)
            if not _is_unicode(text):
                fix = "Send whole characters: a pair of surrogates, or UTF-8."
                raise RequestError(400, f"messages.{len(messages)}.content: holds half a character.", fix)
            messages.append(Message(role="system" if one.role == "developer" else one.role, content=text))
        if messages[-1].role == "assistant":
            raise RequestError(400, "the last message is the assistant's own.", "End with a user's message.")
        return tuple(messages)


def _is_unicode(text: str) -> bool:
    """Whether a text can be encoded; JSON's escapes can spell halves of characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises RequestError that names the field and what to do."""
    try:
        tree = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise RequestError(400, "the body is not UTF-8.", "Send JSON in UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON ({error}).", "Send one JSON object.") from None
    if not isinstance(tree, dict):
        raise RequestError(400, f"the body is a JSON {type(tree).__name__}.", "Send one JSON object.")
    asked = {}
    for key, value in tree.items():
        if value is None or key in _IDLE:
            continue
        if key in _NEUTRAL:
            if not any((value == one and type(value) is not bool) or value is one for one in _NEUTRAL[key]):
                raise RequestError(
                    400, f"'{key}' is not supported here.", "Leave it out.", code="unsupported_parameter"
                )
            continue
        asked[key] = value
    try:
        return build_config(ChatRequest, asked, place="request")
    except ConfigError as error:
        fix = error.fix.replace("See docs/recipe.md for the keys.", "Leave it out.")
        raise RequestError(400, f"{error.place.removeprefix('request:')}: {error.cause}", fix) from None


def error_body(error: RequestError) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": f"{error.cause} {error.fix}", "type": kind, "param": None, "code": error.code}}


def usage(num_prompt: int, num_answered: int) -> dict[str, int]:
    """Tokens read and answered."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_answered,
        "total_tokens": num_prompt + num_answered,
    }


def answer_body(
    head: Mapping[str, Any], answers: Sequence[tuple[str, Finish]], used: Mapping[str, int]
) -> dict[str, Any]:
    """A whole answer; head: id, time, model and fingerprint."""
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": finish,
        }
        for i, (text, finish) in enumerate(answers)
    ]
    return {**head, "object": "chat.completion", "choices": choices, "usage": dict(used)}


def chunk_body(head: Mapping[str, Any], choice: int, delta: Mapping[str, str], finish: Finish | None) -> dict[str, Any]:
    """One event of a stream."""
    one = {"index": choice, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk", "choices": [one]}


def usage_chunk(head: Mapping[str, Any], used: Mapping[str, int]) -> dict[str, Any]:
    """The last event of a stream whose client asked for the tokens."""
    return {**head, "object": "chat.completion.chunk", "choices": [], "usage": dict(used)}


def models_body(names: Sequence[str], created: int) -> dict[str, Any]:
    """The list of what is served."""
    rows = [{"id": name, "object": "model", "created": created, "owned_by": "tunesmith"} for name in names]
    return {"object": "list", "data": rows}
