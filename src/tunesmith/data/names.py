"""Names of people, through spaCy where it and one of its models are installed."""

from __future__ import annotations

import importlib.util

from tunesmith.data.pii import NAME, Found
from tunesmith.data.survey import NameFinder
from tunesmith.errors import MissingExtraError

NAME_MODEL = "en_core_web_sm"


def can_find_names() -> bool:
    """Whether spaCy and its small English model are here."""
    return all(importlib.util.find_spec(name) is not None for name in ("spacy", NAME_MODEL))


def load_name_finder() -> NameFinder:
    """A function that finds names of people in a text. Raises MissingExtraError where the library is absent."""
    if not can_find_names():
        raise MissingExtraError(
            "--names",
            f"spaCy or its model {NAME_MODEL} is not installed.",
            f"pip install 'tunesmith[names]' and python -m spacy download {NAME_MODEL}, or leave --names out.",
        )
    import spacy

    model = spacy.load(NAME_MODEL)

    def find(text: str) -> list[Found]:
        entities = [piece for piece in model(text).ents if piece.label_ == "PERSON"]
        return [Found(NAME, piece.start_char, piece.end_char) for piece in entities]

    return find
