"""Tone of a plain reply: a brand's rules one by one, and sentiment by a short list of words that is stated here."""

from __future__ import annotations

import re

from tunesmith.errors import DataError
from tunesmith.evals.scorers import ToneRules, num_emojis, tone_faults
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Common English words whose sign hardly depends on what is spoken of. A list finds words, not irony.
POSITIVE = _words(
    """
    amazing awesome beautiful best better brilliant calm charming cheerful clean comfortable congratulations
    delicious delighted delightful easy enjoy enjoyable enjoyed excellent exciting fabulous fantastic fast favourite
    favorite fine fresh friendly fun generous gentle glad gladly good gorgeous grateful great happily happy helpful
    impressive incredible kind like liked love loved lovely lucky marvellous marvelous nice outstanding perfect
    perfectly pleasant pleased pleasure polite pretty proud quick recommend reliable safe satisfied smile smooth
    splendid success successful superb sweet terrific thank thanks thrilled top useful warm welcome well wonderful
    worth wow
    """
)
NEGATIVE = _words(
    """
    angry annoyed annoying appalling ashamed awful bad boring broken careless cheap cold complain complaint
    confusing damaged dangerous dead delay delayed difficult dirty disappointed disappointing disappointment
    disaster disgusting dreadful dull expensive fail failed failure fake faulty frustrated frustrating gloomy greedy
    hard hate hated horrible hurt ignored impossible inedible junk lazy late lie lost mediocre mess miserable
    missing mistake nasty noisy overpriced pain pathetic poor poorly problem problems refund regret rude sad scam
    shame sick slow sorry stupid terrible tired tragic ugly unacceptable unfortunately unhappy unhelpful unpleasant
    upset useless waste weak worse worst worthless wrong
    """
)
NEGATIONS = frozenset({"not", "no", "never", "hardly", "without", "cannot", "nobody", "nothing", "neither", "nor"})
_WORDS_A_NEGATION_REACHES = 3


def sentiment(text: str) -> float:
    """(positive - negative) / (positive + negative) words, from -1 to 1; 0 where there are none.

    A word counts with the other sign when not, no, never, … or a word on n't stands among the three before it in its
    sentence. English only.
    """
    balance = count = 0
    for sentence in re.split(r"[.!?;\n]+", text.lower().replace("’", "'")):
        words = re.findall(r"[\w']+", sentence)
        for i, word in enumerate(words):
            sign = (word in POSITIVE) - (word in NEGATIVE)
            before = words[max(0, i - _WORDS_A_NEGATION_REACHES) : i]
            flipped = sum(other in NEGATIONS or other.endswith("n't") for other in before) % 2
            balance += -sign if flipped else sign
            count += abs(sign)
    return balance / count if count else 0.0


def tone(rules: ToneRules) -> Scorer:
    """Whether a reply keeps a tone's rules.

    Values: tone (1 where every rule is kept), length (at most so many words, at least one), emojis (exactly so many),
    words (a cheerful one and no gloomy one), sentiment (from 0, all negative, to 1; 0.5 is neutral).
    """

    def score(item: Item, reply: Reply) -> Verdict:
        faults = tone_faults(reply.text, rules)
        emojis = num_emojis(reply.text) == rules.num_emojis
        length = not any(fault.endswith(" at most") or fault == "says nothing" for fault in faults)
        words = not any(fault == "no cheerful word" or fault.startswith("gloomy") for fault in faults)
        kept = {"tone": not faults, "length": length, "emojis": emojis, "words": words}
        values = {name: float(ok) for name, ok in kept.items()} | {"sentiment": (1 + sentiment(reply.text)) / 2}
        return Verdict(values=values, explanation="; ".join(faults))

    return score


def has_sentiment(item: Item, reply: Reply) -> Verdict:
    """Whether a reply's sentiment is the target's: positive, negative or neutral.

    Values (0 or 1): sentiment. Raises DataError for another target.
    """
    wanted = item.target.strip().lower()
    if wanted not in ("positive", "negative", "neutral"):
        raise DataError(f"item {item.id}", f"the target '{item.target}' is no sentiment.", "Say positive or negative.")
    value = sentiment(reply.text)
    found = "positive" if value > 0 else "negative" if value < 0 else "neutral"
    explanation = "" if found == wanted else f"{found} instead of {wanted}"
    return Verdict(values={"sentiment": float(found == wanted)}, explanation=explanation)
