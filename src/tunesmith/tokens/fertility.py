"""How finely a tokenizer cuts text: tokens a word, bytes a token, unknowns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tunesmith.tokens.inspect import Inspector


@dataclass(slots=True)
class Fertility:
    """Counts over texts; words are what stands between spaces, bytes are UTF-8."""

    name: str
    family: str
    num_tokens: int = 0
    num_words: int = 0
    num_bytes: int = 0
    num_unknown: int = 0

    @property
    def tokens_a_word(self) -> float:
        """The fertility; 0 where there is no word."""
        return self.num_tokens / self.num_words if self.num_words else 0.0

    @property
    def bytes_a_token(self) -> float:
        """UTF-8 bytes of the text, spaces included, over tokens; 0 where there is no token."""
        return self.num_bytes / self.num_tokens if self.num_tokens else 0.0

    def as_dict(self) -> dict[str, float | int | str]:
        """For --json."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        return {**counts, "tokens_a_word": self.tokens_a_word, "bytes_a_token": self.bytes_a_token}


def measure(inspectors: Iterable[Inspector], texts: Iterable[str]) -> list[Fertility]:
    """One row an inspector over all texts, which are read once."""
    inspectors = list(inspectors)
    rows = [Fertility(inspector.name, inspector.family) for inspector in inspectors]
    for text in texts:
        num_words, num_bytes = len(text.split()), len(text.encode("utf-8", "surrogatepass"))
        for inspector, row in zip(inspectors, rows, strict=True):
            pieces = inspector.pieces(text)
            row.num_tokens += len(pieces)
            row.num_words += num_words
            row.num_bytes += num_bytes
            row.num_unknown += sum(not piece.known for piece in pieces)
    return rows
