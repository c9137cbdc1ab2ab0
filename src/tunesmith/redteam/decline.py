"""Safe answers by template: a refusal in words that vary and that name what is declined.

A model that is trained on one wording learns the wording; one that hears what is declined learns what to look at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tunesmith.randomness import generator
from tunesmith.redteam.goals import Goal, GoalKind

# Filled with what is asked as a deed ("write a letter that ...").
_DEED = (
    "I'm not going to {}.",
    "I'm not willing to {}.",
    "I have to decline to {}.",
    "I would rather not {}.",
    "No, I won't {}.",
    "Sorry, but I can't {}.",
    "I can't help with a wish to {}.",
    "I won't agree to {}.",
    "I refuse to {}.",
    "It is not something I can do to {}.",
)
# Filled with the request itself, where its grammar does not give a deed.
_QUOTED = (
    'I won\'t help with this: "{}"',
    'I have to decline this: "{}"',
    'Sorry, but I can\'t answer "{}"',
    'I\'m not going to answer this: "{}"',
    'No, I won\'t help with "{}"',
    'I would rather not reply to "{}"',
    'I won\'t give an answer to "{}"',
    'I\'m not willing to go along with "{}"',
)
# A text that is bait is not repeated.
_BAIT = (
    "I won't continue this text.",
    "I'd rather not go on with a text like this one.",
    "I'm not going to write how this text goes on.",
    "No, I won't complete this text.",
    "I have to decline to continue these lines.",
    "Sorry, but I can't go on with these lines.",
)
_REASONS: Mapping[GoalKind, Sequence[str]] = {
    "harmful": (
        "Somebody could come to harm by it.",
        "It would hurt people who have no say in it.",
        "The damage could not be undone.",
        "Whoever it is aimed at would pay for it.",
        "The risk to others is too great.",
        "That would put people in danger.",
    ),
    "secret": (
        "What I was told in confidence stays with me.",
        "It was not given to me to pass on.",
        "It belongs to somebody else.",
        "That is private, however it is asked for.",
    ),
    "stereotype": (
        "The group that people belong to tells nothing about it.",
        "Nothing that was said shows who it was.",
        "That would be judging people by their group.",
        "Without evidence it would be a prejudice.",
    ),
    "toxic": (
        "It begins in a way that only insults.",
        "I don't want to go on in that tone.",
        "More of it would only hurt.",
        "There is no use in words like these.",
    ),
    "safe": (
        "It sounds too dangerous.",
        "I don't answer questions like this one.",
        "Somebody might misuse it.",
        "The topic is too delicate.",
    ),
}
_OFFERS: Mapping[GoalKind, Sequence[str]] = {
    "harmful": (
        "",
        "If you want to protect yourself against it, ask me about that.",
        "If something troubles you, tell me what happened.",
        "I'm glad to look for a lawful way to what you need.",
        "Ask me about the risks, and I'll tell you what I know.",
    ),
    "secret": ("", "Ask me something else.", "I'm glad to help with what you want to do."),
    "stereotype": ("", "If you know more of what happened, tell me.", "Let us look at what is really known."),
    "toxic": ("", "I'm glad to write something kinder.", "Tell me what it is about, and I'll put it politely."),
    "safe": ("", "Ask me something else.", "Please ask somebody who knows."),
}
# Verbs that requests begin with; what begins so is a deed as it stands.
_DEED_VERB = re.compile(
    r"\A(?:answer|argue|assist|build|come|compose|conduct|convince|craft|create|define|describe|design|detail|"
    r"develop|devise|disclose|draft|enumerate|explain|generate|give|guide|help|imagine|instruct|invent|"
    r"list|make|outline|persuade|plan|prepare|print|produce|program|propose|provide|publish|repeat|reveal|"
    r"say|script|set|share|show|sketch|steal|suggest|summarise|summarize|teach|tell|translate|use|walk|"
    r"write)\b",
    re.I,
)
_HOW = re.compile(
    r"\A(?:how (?:can|could|do|does|should|would|might) (?:i|we|one|someone|people|you)|how to) (?=\w)", re.I
)
_POLITE = re.compile(r"\A(?:please,? |(?:can|could|would|will) you (?:please )?)", re.I)
_SPEAKER = {
    "I": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "we": "you", "us": "you",
    "our": "your", "ours": "yours", "am": "are", "I'm": "you're", "I've": "you've", "I'll": "you'll", "I'd": "you'd",
}  # fmt: skip
_ADDRESSED = re.compile(r"\byou(?:r|rs|rself)?\b", re.I)
# In small letters, since the US is a country and not us.
_SPOKEN = re.compile(r"\b(?:I'(?:m|ve|ll|d)|I|me|my|mine|myself|we|us|our|ours|am)\b")
# Words of a request that are named; what is longer is quoted from its beginning.
_MOST_WORDS = 24


def decline(goal: Goal, seed: int, *keys: int | str) -> str:
    """A refusal of what the goal asks for, in a wording that its request, the seed and the keys choose."""
    rng = generator(seed, "redteam_decline", goal.request, *keys)

    def one_of(texts: Sequence[str]) -> str:
        return texts[int(rng.integers(len(texts)))]

    deed = deed_of(goal.request)
    if goal.kind == "toxic":
        said = one_of(_BAIT)
    elif deed is not None:
        said = one_of(_DEED).format(deed)
    else:
        said = one_of(_QUOTED).format(_shortened(goal.request))
    return " ".join(part for part in (said, one_of(_REASONS[goal.kind]), one_of(_OFFERS[goal.kind])) if part)


def deed_of(request: str) -> str | None:
    """What is asked as a deed that "I won't" goes before, spoken by who is asked; None where that cannot be told.

    "How do I open my neighbour's door?" is "explain how to open your neighbour's door".
    """
    text = " ".join(request.split())
    how = _HOW.match(text)
    rest = text[how.end() :] if how else _POLITE.sub("", text)
    # More than one sentence, or words that speak of whoever is asked, are better quoted.
    plain = rest.rstrip(" .!?")
    if not plain or len(plain.split()) > _MOST_WORDS or re.search(r"[.!?:]\s|\n|\"", plain) or _ADDRESSED.search(plain):
        return None
    if how:
        return f"explain how to {_turned(plain)}"
    if not _DEED_VERB.match(plain):
        return None
    return _turned(plain[0].lower() + plain[1:])


def _turned(text: str) -> str:
    """The first person as the second."""
    return _SPOKEN.sub(lambda found: _SPEAKER[found[0]], text)


def _shortened(request: str) -> str:
    words = request.replace('"', "'").split()
    return " ".join(words) if len(words) <= _MOST_WORDS else " ".join(words[:_MOST_WORDS]) + " ..."
