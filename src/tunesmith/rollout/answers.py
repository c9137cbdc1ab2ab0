"""What an OpenAI-compatible server sent, as an answer or as a reason why it is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tunesmith.data.check import shown
from tunesmith.rollout.writer import WriterStop, Written

# How servers name the end of an answer; some give null.
_STOPS: dict[str | None, WriterStop] = {
    "stop": "end_of_turn",
    "eos": "end_of_turn",
    None: "end_of_turn",
    "length": "length",
    "content_filter": "content_filter",
}


def _as_it_is(text: str) -> str:
    return text


class Unusable(Exception):
    """A body that is no answer; ``may_pass`` says whether asking again can help."""

    def __init__(self, cause: str, fix: str, *, may_pass: bool) -> None:
        super().__init__(cause)
        self.cause, self.fix, self.may_pass = cause, fix, may_pass


def read_answer(body: bytes, content_type: str, hide: Callable[[str], str] = _as_it_is) -> Written:
    """The first choice of a chat completion; ``hide`` takes a secret out of what is quoted. Raises Unusable."""
    tree = _read_json(body, content_type, hide)
    if not isinstance(tree, dict):
        raise _not_a_completion(f"a JSON {type(tree).__name__}")
    if isinstance(tree.get("error"), dict | str):
        raise Unusable(f"answered with an error: {said_by_error(body, hide)}", "Read what it says.", may_pass=False)
    choices = tree.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise _not_a_completion("no choices[0].message")
    reason = choice.get("finish_reason")
    if not (isinstance(reason, str) or reason is None) or reason not in _STOPS:
        raise _not_a_completion(f"the finish reason {shown(hide(str(reason)))}")
    content = message.get("content")
    if content is None and reason in ("content_filter", "length"):
        # Withheld, or a model that thinks had not come to its answer.
        content = ""
    if not isinstance(content, str):
        raise _not_a_completion("no text in choices[0].message.content")
    return Written(text=content, stop_reason=_STOPS[reason], details=_details(tree, hide))


def _read_json(body: bytes, content_type: str, hide: Callable[[str], str]) -> Any:
    start = body[:512].lstrip().lower()
    if content_type == "text/html" or start.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        title = re.search(rb"<title[^>]*>(.*?)</title", body[:65536], re.IGNORECASE | re.DOTALL)
        named = f" titled '{shown(hide(title[1].decode('utf-8', 'replace').strip()))}'" if title else ""
        raise Unusable(
            f"answered with a web page{named}",
            "Name the address of the interface, which mostly ends in /v1; a login page or a proxy may stand before it.",
            may_pass=False,
        )
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        if not body.strip():
            raise Unusable("answered with nothing", "Look at the server's log.", may_pass=True) from None
        begin = shown(hide(body.decode("utf-8", "replace"))[:80])
        raise Unusable(
            f"answered with something that is not JSON or was cut off: '{begin}'",
            "Look at the server's log.",
            may_pass=True,
        ) from None


def _not_a_completion(held: str) -> Unusable:
    return Unusable(
        f"answered with JSON that is no chat completion ({held})",
        "Name a server that speaks OpenAI's chat/completions.",
        may_pass=False,
    )


def _details(tree: dict[str, Any], hide: Callable[[str], str]) -> dict[str, Any]:
    """Tokens and the names by which the server knows its model, where it gives them."""
    usage = tree.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    named = {"prompt_tokens": usage.get("prompt_tokens"), "new_tokens": usage.get("completion_tokens")}
    details: dict[str, Any] = {key: value for key, value in named.items() if type(value) is int}
    for ours, theirs in (("served_model", "model"), ("fingerprint", "system_fingerprint")):
        if isinstance(tree.get(theirs), str):
            details[ours] = hide(tree[theirs])
    return details


def said_by_error(body: bytes, hide: Callable[[str], str] = _as_it_is) -> str:
    """The message inside an error's body in one short line: OpenAI's error.message, FastAPI's detail, else its text.

    A secret is hidden before the line is cut: a part of one would no longer be found.
    """
    text = body.decode("utf-8", "replace")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree = None
    if isinstance(tree, dict):
        error = tree.get("error", tree)
        inner = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        text = inner if isinstance(inner, str) else json.dumps(tree)
    if text.lstrip().startswith("<"):
        return "a web page"
    return shown(" ".join(hide(text).split()), most=200)
