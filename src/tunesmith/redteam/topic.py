"""Whether a message still asks for its goal, told by shared words of matter: no model, no network."""

from __future__ import annotations

from tunesmith.data.ngrams import words_of

# Words that say nothing of what is wanted: function words, and the verbs and nouns in which requests are put.
_EMPTY = (
    "a about after all also am an and any are as at be because been before but by can could did do does doing for "
    "from get give had has have he her him his how i if in into is it its just let like make may me more most my need "
    "no not of on one or our out over own please shall she should show so some someone somebody such tell than that "
    "the their them then there these they this those to too under up us use using very want was way ways we were what "
    "when where which who whom whose why will with without would you your write create develop explain describe "
    "provide list generate design draft compose answer question article blog essay post story letter message script "
    "text tutorial guide instruction instructions step steps detail details detailed example examples method methods "
    "help"
)
_EMPTY_WORDS = frozenset(_EMPTY.split())
# Letters by which words with different endings are taken for one.
_STEM = 5


def matter(text: str) -> frozenset[str]:
    """The words of a text that say what it is about, cut to their first letters."""
    words = (word for word in words_of(text) if word not in _EMPTY_WORDS and (len(word) > 1 or not word.isascii()))
    return frozenset(word[:_STEM] for word in words)


def topic_share(request: str, message: str) -> float:
    """Of a request's words of matter, the share that a message has too; 1 for a request that has none."""
    wanted = matter(request)
    return len(wanted & matter(message)) / len(wanted) if wanted else 1.0
