"""The verifiable constraints of IFEval: each a function of a response and the constraint's arguments.

Written from the descriptions in table 1 of Zhou et al. 2023 (arXiv:2311.07911) and the published prompts. Where a
description leaves a choice, the docstring names the one taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Not re, whose \w leaves out the vowel signs of Hindi, Tamil or Thai and so parts their words.
import regex  # type: ignore[import-untyped]

from tunesmith.errors import MissingExtraError

Check = Callable[..., bool]

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ENDS = regex.compile(r"""[.!?…]+["'”’»)\]*_]*(?=\s|$)|[。！？।۔؟]+""")
# A full stop behind one of the first ends no sentence; behind one of the second not where a small letter follows.
_NEVER_LAST = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "mt", "vs", "e.g", "i.e", "cf", "vol", "fig", "approx"})
_AT_TIMES_LAST = frozenset({"etc", "inc", "ltd", "co", "corp", "dept", "sr", "jr", "a.m", "p.m", "u.s", "u.k"})


def holds(relation: str, count: int, limit: int) -> bool:
    """Whether a count keeps a relation of the published prompts: 'at least' or 'less than'. Raises ValueError."""
    if relation == "at least":
        return count >= limit
    if relation == "less than":
        return count < limit
    raise ValueError(f"relation '{relation}' is neither 'at least' nor 'less than'")


def has_keywords(response: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword stands in the response, letter case aside; also within a longer word."""
    return all(keyword.lower() in response.lower() for keyword in keywords)


def keyword_frequency(response: str, *, relation: str, keyword: str, frequency: int) -> bool:
    """The keyword occurs as often as asked, letter case aside; also within longer words."""
    return holds(relation, response.lower().count(keyword.lower()), frequency)


def no_forbidden_words(response: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words stands in the response as a word of its own, letter case aside."""
    return not any(
        regex.search(rf"(?<!\w){regex.escape(word)}(?!\w)", response, regex.IGNORECASE) for word in forbidden_words
    )


def letter_frequency(response: str, *, let_relation: str, letter: str, let_frequency: int) -> bool:
    """The letter (or mark) occurs as often as asked, letter case aside."""
    return holds(let_relation, response.lower().count(letter.lower()), let_frequency)


def in_language(response: str, *, language: str) -> bool:
    """langdetect finds the language (ISO 639-1) the likeliest; a text without letters is in none."""
    return detect_language(response) == language


def number_words(response: str, *, relation: str, num_words: int) -> bool:
    """As many words as asked; an apostrophe or a hyphen parts two words."""
    return holds(relation, len(regex.findall(r"\w+", response)), num_words)


def sentences(response: str) -> list[str]:
    """A text cut behind . ! ? … and their like, but not behind an abbreviation, an initial or a list number.

    A line break alone ends no sentence, so a poem without full stops is one.
    """
    out, start = [], 0
    for end in _ENDS.finditer(response):
        if end.group() == "." and _goes_on(response[start : end.start()], response[end.end() :].lstrip()[:1]):
            continue
        out.append(response[start : end.end()].strip())
        start = end.end()
    return [piece for piece in (*out, response[start:].strip()) if regex.search(r"\w", piece)]


def _goes_on(before: str, after: str) -> bool:
    line = before.rpartition("\n")[2].split()
    word = line[-1].lstrip("\"'“‘([*_") if line else ""
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    is_list_mark = len(line) == 1 and (len(word) == 1 or (word.isdigit() and len(word) < 4))
    often = word.lower() in _AT_TIMES_LAST and after.islower()
    return word.lower() in _NEVER_LAST or is_initial or is_list_mark or often


def number_sentences(response: str, *, relation: str, num_sentences: int) -> bool:
    """As many sentences as asked."""
    return holds(relation, len(sentences(response)), num_sentences)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between dividers ***; a divider at either end is allowed, an empty one between not."""
    parts = [part.strip() for part in response.split("***")]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def nth_paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs between empty lines, and the nth begins with the word; case and marks aside."""
    parts = [part.strip() for part in response.split("\n\n") if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    word = regex.match(r"[^\w\s]*([\w'’-]*\w)", parts[nth_paragraph - 1])
    return word is not None and word.group(1).lower() == first_word.lower()


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    """At least so many [placeholders] in square brackets, each within a line."""
    return len(regex.findall(r"\[[^\[\]\n]+\]", response)) >= num_placeholders


def has_postscript(response: str, *, postscript_marker: str) -> bool:
    """The marker (P.S. or P.P.S) stands in the response, case and blanks between its letters aside."""
    letters = regex.findall(r"\w", postscript_marker)
    pattern = r"(?<!\w)" + r"\.\s?".join(map(regex.escape, letters))
    pattern += r"\." if postscript_marker.endswith(".") else ""
    return regex.search(pattern, response, regex.IGNORECASE) is not None


def number_bullets(response: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with one * or with -; two of them are bold text or a divider."""
    return len(regex.findall(r"^[ \t]*(?:\*(?!\*)|-(?!-)).+$", response, regex.MULTILINE)) == num_bullets


def has_title(response: str) -> bool:
    """A title in double angular brackets, <<title>>, on one line and not blank."""
    return any(title.strip("<> \t") for title in regex.findall(r"<<([^\n]+?)>>", response))


def constrained_response(response: str) -> bool:
    """One of 'My answer is yes.', 'My answer is no.', 'My answer is maybe.' stands in the response."""
    return any(option in response for option in _OPTIONS)


def number_highlights(response: str, *, num_highlights: int) -> bool:
    """At least so many *highlighted* or **highlighted** pieces, each within a line and not blank."""
    pieces = regex.findall(r"\*\*[^\n*]+\*\*|\*(?=\S)[^\n*]+\*", response)
    return sum(bool(piece.strip("* \t")) for piece in pieces) >= num_highlights


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many places with the mark and a number, such as SECTION 1."""
    return len(regex.findall(rf"{regex.escape(section_spliter)}\s?\d+", response)) >= num_sections


def is_json(response: str) -> bool:
    """The whole response is JSON; a fence of ``` or ```json around it is allowed."""
    inner = regex.sub(r"\A\s*```(?:json)?|```\s*\Z", "", response, flags=regex.IGNORECASE)
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def repeats_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    """The response begins with the request, letter case and outer white space aside."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def two_responses(response: str) -> bool:
    """Two different responses with ****** between them; a divider at either end is allowed."""
    parts = [part.strip() for part in response.split("******")]
    said = [part for part in parts if part]
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def is_english_capital(response: str) -> bool:
    """No small letter, some capital one, and English by langdetect, which sees small letters: it skips capitals."""
    return response.isupper() and detect_language(response.lower()) == "en"


def is_english_lowercase(response: str) -> bool:
    """No capital letter, some small one, and English by langdetect."""
    return response.islower() and detect_language(response) == "en"


def capital_word_frequency(response: str, *, capital_relation: str, capital_frequency: int) -> bool:
    """Words all in capitals, I and A among them, as many as asked; hyphens and apostrophes join a word."""
    words = regex.findall(r"\w+(?:[-'’]\w+)*", response)
    return holds(capital_relation, sum(word.isupper() for word in words), capital_frequency)


def ends_with(response: str, *, end_phrase: str) -> bool:
    """The phrase ends the response; letter case, outer white space and quotation marks around the whole aside."""
    return response.strip().strip('"').strip().lower().endswith(end_phrase.strip().lower())


def is_quoted(response: str) -> bool:
    """The response begins and ends with a double quotation mark."""
    text = response.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def no_comma(response: str) -> bool:
    """No comma: neither , nor its kin of other scripts, ، and ， and 、."""
    return not set(response) & set(",،，、")


CHECKS: Mapping[str, Check] = {
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": is_english_capital,
    "change_case:english_lowercase": is_english_lowercase,
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": two_responses,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:number_bullet_lists": number_bullets,
    "detectable_format:number_highlighted_sections": number_highlights,
    "detectable_format:title": has_title,
    "keywords:existence": has_keywords,
    "keywords:forbidden_words": no_forbidden_words,
    "keywords:frequency": keyword_frequency,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": in_language,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_words": number_words,
    "punctuation:no_comma": no_comma,
    "startend:end_checker": ends_with,
    "startend:quotation": is_quoted,
}


def detect_language(text: str) -> str | None:
    """The likeliest language of a text by langdetect (ISO 639-1, zh-cn, zh-tw), None where it has no letters.

    The library draws random numbers: here they are seeded anew for every text. Raises MissingExtraError.
    """
    try:
        from langdetect import detector_factory
        from langdetect.lang_detect_exception import LangDetectException
    except ImportError:
        raise MissingExtraError(
            "langdetect",
            "the language of a text is asked for, and it is not installed.",
            "pip install 'tunesmith[eval]'",
        ) from None
    detector_factory.init_factory()
    detector: Any = detector_factory._factory.create()
    detector.seed = 0
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return None
