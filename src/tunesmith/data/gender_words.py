"""Words that mark gender, and occupations that people tend to give one; English, ours, for counting only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tunesmith.stats import Interval, score_interval

MALE = ("he", "him", "his", "himself")
FEMALE = ("she", "her", "hers", "herself")
OCCUPATIONS = (
    "accountant", "baker", "carpenter", "cashier", "cleaner", "cook", "doctor", "driver", "engineer", "farmer",
    "guard", "hairdresser", "lawyer", "librarian", "manager", "mechanic", "nurse", "pilot", "plumber", "professor",
    "receptionist", "scientist", "secretary", "soldier", "teacher", "writer",
)  # fmt: skip
_SENTENCE = re.compile(r"[.!?\n]+")
_WORD = re.compile(r"[a-z]+")
_GENDER = {**dict.fromkeys(MALE, 0), **dict.fromkeys(FEMALE, 1)}
_OCCUPATION = {**{word: word for word in OCCUPATIONS}, **{f"{word}s": word for word in OCCUPATIONS}}


@dataclass(slots=True)
class PronounCount:
    """Pronouns of the texts that were added, in memory that does not grow with them.

    near: occupation -> (male, female) pronouns in a sentence that names it or in the one behind.
    """

    num_texts: int = 0
    num_marked: int = 0
    """Texts with at least one gendered pronoun."""
    male: int = 0
    total: int = 0
    near: dict[str, tuple[int, int]] = field(default_factory=dict)
    _squares: tuple[int, int, int] = (0, 0, 0)

    def add(self, text: str) -> None:
        """Count one text."""
        self.num_texts += 1
        counts, named = [0, 0], set[str]()
        for sentence in _SENTENCE.split(text.lower()):
            words = _WORD.findall(sentence)
            here = {_OCCUPATION[word] for word in words if word in _OCCUPATION}
            found = [_GENDER[word] for word in words if word in _GENDER]
            for gender in found:
                counts[gender] += 1
            for occupation in named | here:
                male, female = self.near.get(occupation, (0, 0))
                self.near[occupation] = (male + found.count(0), female + found.count(1))
            named = here
        male, total = counts[0], sum(counts)
        if total:
            self.num_marked += 1
            self.male, self.total = self.male + male, self.total + total
            mm, mn, nn = self._squares
            self._squares = (mm + male * male, mn + male * total, nn + total * total)

    def share(self) -> Interval | None:
        """Male among gendered pronouns, each text being a cluster as in stats.clustered_proportion; None without any.

        Where nothing varies, the number of texts with pronouns is the number of trials.
        """
        if not self.total:
            return None
        p, clusters, (mm, mn, nn) = self.male / self.total, self.num_marked, self._squares
        variance = max(0.0, mm - 2 * p * mn + p * p * nn) / self.total**2 * clusters / max(1, clusters - 1)
        effective = p * (1 - p) / variance if variance > 1e-15 else float(clusters)
        return score_interval(p, min(float(self.total), effective) if clusters > 1 else 1.0)
