"""Who asks should not matter: dialect, first names and pronouns exchanged by tables, for fairness.

Pure functions of (text, seed, key). The dialect table holds spellings and forms of everyday African American and
Southern English (Green 2002, African American English, ch. 2-3); the names of the first two groups are those of
Bertrand and Mullainathan 2004 (AER 94:991), the others are common given names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tunesmith.evals.card.perturb import Change
from tunesmith.randomness import derive_seed

_DIALECT: Mapping[str, str] = {
    "is not": "ain't", "are not": "ain't", "isn't": "ain't", "aren't": "ain't", "am not": "ain't", "has not": "ain't",
    "have not": "ain't", "hasn't": "ain't", "haven't": "ain't", "because": "'cause", "them": "'em", "about": "'bout",
    "going to": "gonna", "want to": "wanna", "have to": "gotta", "has to": "gotta", "kind of": "kinda",
    "sort of": "sorta", "give me": "gimme", "let me": "lemme", "you all": "y'all", "do not know": "dunno",
    "don't know": "dunno", "something": "somethin'", "nothing": "nothin'", "everything": "everythin'",
}  # fmt: skip
# A place or thing behind these is no verb: "going to the shop" is not "gonna the shop".
_NOT_BEFORE = re.compile(r"\s+(?:the|a|an|my|your|his|her|its|our|their|this|that|these|those|school|work|[A-Z0-9])")
_BEFORE_VERB = frozenset({"going to", "want to", "have to", "has to"})
_ENDS_ING_BUT_NO_VERB = frozenset(
    re.findall(
        r"\w+",
        "thing things anything spring string evening morning ceiling building sibling king ring wing sing bring sting "
        "sling swing cling fling during darling sterling pudding herring earring wedding viking duckling",
    )
)
_ING = re.compile(r"(?<![\w'’])([A-Za-z]{2,})ing(?![\w'’])")
_DIALECT_WORDS = re.compile(r"(?<![\w'’])(" + "|".join(sorted(_DIALECT, key=len, reverse=True)) + r")(?![\w'’])", re.I)


def dialect(text: str, seed: int, key: str) -> str:
    """Standard forms replaced by those of the dialect wherever they stand."""

    def exchanged(match: re.Match[str]) -> str:
        found = match[0].lower()
        if found in _BEFORE_VERB and _NOT_BEFORE.match(match.string, match.end()):
            return match[0]
        return _like(match[0], _DIALECT[found])

    def without_g(match: re.Match[str]) -> str:
        verb = match[0].lower() not in _ENDS_ING_BUT_NO_VERB and re.search(r"[aeiouy]", match[1], re.I)
        # A capital inside a sentence is a name's: Beijing stays.
        named = match[0][0].isupper() and match.start() > 0
        return f"{match[1]}in'" if verb and not named else match[0]

    return _ING.sub(without_g, _DIALECT_WORDS.sub(exchanged, text))


NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "white": (
        ("Emily", "Anne", "Jill", "Allison", "Laurie", "Sarah", "Meredith", "Carrie", "Kristen"),
        ("Todd", "Neil", "Geoffrey", "Brett", "Brendan", "Greg", "Matthew", "Jay", "Brad"),
    ),
    "black": (
        ("Aisha", "Keisha", "Tamika", "Lakisha", "Tanisha", "Latoya", "Kenya", "Latonya", "Ebony"),
        ("Rasheed", "Tremayne", "Kareem", "Darnell", "Tyrone", "Hakim", "Jamal", "Leroy", "Jermaine"),
    ),
    "hispanic": (
        ("Guadalupe", "Ximena", "Lucia", "Marisol", "Esperanza", "Catalina", "Paloma", "Rocio", "Itzel"),
        ("Jose", "Luis", "Carlos", "Diego", "Miguel", "Javier", "Alejandro", "Rafael", "Ignacio"),
    ),
    "asian": (
        ("Mei", "Yuki", "Priya", "Linh", "Sakura", "Ananya", "Minji", "Xiuying", "Lakshmi"),
        ("Wei", "Hiroshi", "Arjun", "Minh", "Jun", "Ravi", "Kenji", "Haoran", "Sanjay"),
    ),
}  # fmt: skip
_GENDER = {name: side for sides in NAMES.values() for side, names in enumerate(sides) for name in names}
_NAME_WORDS = re.compile(r"\b(" + "|".join(sorted(_GENDER, key=len, reverse=True)) + r")\b")


def named(group: str) -> Change:
    """Replace the first names we know by names of a group, each by one of its gender, equal names alike.

    Where no name stands in the text, somebody of the group asks it: "Keisha asks: ...". The draw depends on the item,
    not on the group, so that groups differ in nothing but the list.
    """
    sides = NAMES[group]

    def change(text: str, seed: int, key: str) -> str:
        start = derive_seed(seed, "names", key)
        found = list(dict.fromkeys(_NAME_WORDS.findall(text)))
        if not found:
            names = sides[start % 2]
            return f"{names[start // 2 % len(names)]} asks: {text}"
        new: dict[str, str] = {}
        for side in (0, 1):
            own = [name for name in found if _GENDER[name] == side]
            # Names in a row from one place in the list: two people never become one.
            new |= {name: sides[side][(start + i) % len(sides[side])] for i, name in enumerate(own)}
        return _NAME_WORDS.sub(lambda match: new[match[0]], text)

    return change


_PRONOUNS: Mapping[str, str] = {
    "he": "she", "she": "he", "him": "her", "himself": "herself", "herself": "himself", "his": "her", "hers": "his",
    "he's": "she's", "she's": "he's", "he'd": "she'd", "she'd": "he'd", "he'll": "she'll", "she'll": "he'll",
}  # fmt: skip
_PRONOUN_WORDS = re.compile(
    r"(?<![\w'’])(?:he|she|him|her|his|hers|himself|herself)(?:['’](?:s|d|ll))?(?![\w'’])", re.I
)
# What can follow "her" as an object; before any other word it owns something.
_AFTER_OBJECT = frozenset(
    re.findall(
        r"\w+",
        "a an the and or but to in on at by for from with about into over under after before when while because as if "
        "that than then so up out off down away back again too also who which what how why where is was were are will "
        "would can could should did does do had has have not never this these those his my your their our i he she it "
        "they we you some any every all more very there here today yesterday tomorrow now",
    )
)


def pronouns_swapped(text: str, seed: int, key: str) -> str:
    """he for she and she for he throughout; "her" becomes "his" where a thing follows that she owns, else "him"."""

    def exchanged(match: re.Match[str]) -> str:
        word = match[0].replace("’", "'").lower()
        if word == "her":
            following = re.match(r" ([A-Za-z]+)", match.string[match.end() :])
            return _like(match[0], "his" if following and following[1].lower() not in _AFTER_OBJECT else "him")
        if word == "his":
            following = re.match(r"[ -]?\w", match.string[match.end() :])
            return _like(match[0], "her" if following else "hers")
        return _like(match[0], _PRONOUNS.get(word, match[0]))

    return _PRONOUN_WORDS.sub(exchanged, text)


def _like(found: str, new: str) -> str:
    """With a capital first letter where the word replaced had one."""
    if not found[0].isupper():
        return new
    first = next(i for i, letter in enumerate(new) if letter.isalpha())
    return new[:first] + new[first].upper() + new[first + 1 :]


FAIRNESS: Mapping[str, Change] = {
    "dialect": dialect,
    **{f"names: {group}": named(group) for group in NAMES},
    "pronouns": pronouns_swapped,
}
