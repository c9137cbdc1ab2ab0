"""Personal data in text: what has a form of its own is found by that form and, where there is one, by its checksum.

Names have no form; they are looked for in ``data/names.py`` if a library for that is installed. What is found here are
candidates for a reader: a form is neither proof that something is personal, nor is its absence proof that nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

EMAIL, PHONE, CARD, IBAN, ID, RECORD, DATE, ADDRESS, NAME = KINDS = (
    "email", "phone", "card", "iban", "id", "record", "date", "address", "name",
)  # fmt: skip
# A date alone tells of nobody; it is counted and redacted, but warns of nothing.
WARNING_KINDS = frozenset(KINDS) - {DATE}
# Texts longer than this are looked at around their digits only.
_LONG_CHARACTERS = 2000
_REACH_CHARACTERS = 64

_MONTH = (
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    "|Nov(?:ember)?|Dec(?:ember)?)"
)
_STREET = (
    "(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Square|Terrace|Crescent|Parkway"
    "|Pkwy|Highway|Hwy|Way|Close)"
)
_STATE = (
    "(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]"
    "|W[AIVY])"
)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\d.-])(?<!\d )[2-6]\d{3}(?:[ -]?\d){9,15}(?![\d-])")
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_NINO = re.compile(r"(?<![A-Za-z0-9])[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D](?![A-Za-z0-9])")
_RECORD = re.compile(
    r"\b(?:(?:MRN|NHS|SSN)\b[ \t]*(?:ID|no\.?|num(?:ber)?)?"
    r"|(?:medical[ \t]+record|patient|record|case|chart|hospital|account|acct|policy|insurance|member|passport"
    r"|licen[cs]e|ID)[ \t]*(?:ID\b|no\b\.?|nr\b\.?|number\b|(?=[:#])))"
    r"[ \t]*(?:is[ \t]+)?[:#=]*[ \t]*#?[ \t]*(?P<value>[A-Z]{0,4}[-/ ]?\d[\dA-Z/-]{2,20}(?: \d{3,4}){0,3})",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?<![\d./-])(?:(?:19|20)\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?P<a>\d{1,2})(?P<sep>[./-])(?P<b>\d{1,2})(?P=sep)(?:(?:19|20)\d{2}|\d{2})(?![\d./-]*\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?[ ]+(?:of[ ]+)?{_MONTH}\.?,?[ ]+(?:19|20)\d{{2}}\b)"
)
_MONTH_FIRST = re.compile(rf"\b{_MONTH}\.?[ ]+\d{{1,2}}(?:st|nd|rd|th)?,?[ ]+(?:19|20)\d{{2}}\b")
_PHONE = re.compile(
    r"(?<![\w.+#-])(?<!\d )(?:\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"
    r"|(?:1[ .-])?(?:\(\d{3}\)[ ]?|\d{3}[ .-])\d{3}[ .-]\d{4}"
    r"|\(?0\d{2,5}\)?(?:[ ./-]?\d{2,7}){1,4})(?![\w-]|[.,]\d)"
)
_STREET_LINE = re.compile(rf"(?<!\w)\d{{1,5}}[A-Za-z]?,? (?:[NSEW]\.? )?(?:[A-Z][\w'.-]{{1,24}} ){{1,3}}{_STREET}\b")
_ZIP = re.compile(rf"\b{_STATE} \d{{5}}(?:-\d{{4}})?\b")
_OTHER_ADDRESS = re.compile(
    r"\b[A-ZÄÖÜ][a-zäöüß]{2,24}(?:straße|strasse|gasse|weg|platz|allee) \d{1,4}[a-z]?\b|\bP\.? ?O\.? Box \d{1,6}\b"
)
_DIGITS = re.compile(r"\d+")
_HAS_DIGIT_OR_AT = re.compile(r"[\d@]")
# A column called so holds nothing else; its whole value counts, also where it is a number.
_COLUMNS = {
    EMAIL: {"email", "e_mail", "mail", "email_address"},
    PHONE: {"phone", "telephone", "phone_number", "mobile", "fax"},
    CARD: {"card_number", "credit_card"},
    IBAN: {"iban"},
    ID: {"ssn", "social_security_number", "national_id", "passport", "passport_number"},
    RECORD: {"mrn", "patient_id", "medical_record_number", "record_number", "nhs_number", "account_number"},
    DATE: {"dob", "date_of_birth", "birthdate", "birth_date"},
    ADDRESS: {"address", "street", "street_address", "home_address"},
    NAME: {"patient_name", "first_name", "last_name", "full_name", "surname", "firstname", "lastname"},
}
_KIND_OF_COLUMN = {column: kind for kind, columns in _COLUMNS.items() for column in columns}


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of a text, by characters, and what it seems to be."""

    kind: str
    begin: int
    end: int


def kind_of_column(name: str) -> str | None:
    """What a column holds by its name, e.g. record for ``patient_id``; None for most."""
    return _KIND_OF_COLUMN.get(name.lower().replace("-", "_").replace(" ", "_"))


def find_pii(text: str) -> list[Found]:
    """Personal data in a text in its order; where two forms overlap, the one with the stricter rule stands."""
    if not _HAS_DIGIT_OR_AT.search(text):
        return []
    found: list[Found] = []
    # A mark for each character that is taken: to compare with all that was found takes a square of time.
    taken = bytearray(len(text))
    for kind, begin, end in _candidates(text):
        if taken.find(1, begin, end) < 0:
            taken[begin:end] = b"\1" * (end - begin)
            found.append(Found(kind, begin, end))
    return sorted(found, key=lambda piece: piece.begin)


def _candidates(text: str) -> Iterator[tuple[str, int, int]]:
    """What has the form of something, from the strictest form to the loosest."""
    if "@" in text:
        yield from ((EMAIL, *match.span()) for match in _EMAIL.finditer(text))
    starts = [match.start() for match in _DIGITS.finditer(text)]
    if not starts:
        return
    lower = text.lower()
    windows: list[tuple[int, int]] | None = None
    for form in _FORMS:
        if form.words and not any(word in lower for word in form.words):
            continue
        if form.before is not None:
            # The form begins at most so many characters before a run of digits: nothing else is looked at.
            matches = [form.pattern.match(text, max(0, at - form.before(text, at))) for at in starts]
        else:
            windows = _windows(text, starts) if windows is None else windows
            matches = [match for begin, end in windows for match in form.pattern.finditer(text, begin, end)]
        for match in matches:
            if match is not None and form.accept(match):
                yield form.kind, *match.span("value" if form.kind == RECORD else 0)


def _windows(text: str, starts: list[int]) -> list[tuple[int, int]]:
    """Where digits stand, with the words around them; the whole text where it is short."""
    if len(text) <= _LONG_CHARACTERS:
        return [(0, len(text))]
    windows: list[tuple[int, int]] = []
    for at in starts:
        if windows and at < windows[-1][1] - _REACH_CHARACTERS // 2:
            continue
        begin = max(0, at - _REACH_CHARACTERS)
        # A window ends in a gap between words, so that it cuts nothing in two.
        gap = text.find(" ", at + _REACH_CHARACTERS)
        end = len(text) if gap < 0 else gap
        if windows and begin <= windows[-1][1]:
            windows[-1] = (windows[-1][0], end)
        else:
            windows.append((begin, end))
    return windows


def _is_iban(match: re.Match[str]) -> bool:
    """ISO 13616: the first four characters behind the rest, letters as 10 to 35, leave 1 when divided by 97."""
    text = match[0].replace(" ", "")
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    """ISO/IEC 7812: 13 to 19 digits whose last one is Luhn's check digit; one digit repeated is none."""
    digits = [int(c) for c in match[0] if c.isdigit()]
    doubled = [2 * d - 9 * (d > 4) for d in digits[-2::-2]]
    checks = (sum(digits[::-2]) + sum(doubled)) % 10 == 0
    return checks and 13 <= len(digits) <= 19 and len(set(digits)) > 1


def _is_record(match: re.Match[str]) -> bool:
    """Digits alone may be a year, so they must be five; behind letters three will do."""
    value = str(match["value"])
    return sum(c.isdigit() for c in value) >= (5 if value[:1].isdigit() else 3)


def _is_date(match: re.Match[str]) -> bool:
    if match.re is not _DATE or match["a"] is None:
        return True
    a, b = int(match["a"]), int(match["b"])
    return 1 <= min(a, b) <= 12 and 1 <= max(a, b) <= 31


def _is_phone(match: re.Match[str]) -> bool:
    count = sum(c.isdigit() for c in match[0])
    return 8 <= count <= 15 if match[0].startswith("+") else 9 <= count <= 12


def _always(_: re.Match[str]) -> bool:
    return True


def _at_digit(text: str, at: int) -> int:
    return 0


def _two_before(text: str, at: int) -> int:
    return 2


def _letters_before(text: str, at: int) -> int:
    return 3 if at > 0 and text[at - 1] == " " else 2


def _three_before(text: str, at: int) -> int:
    return 3


def _at_sign(text: str, at: int) -> int:
    return int(at > 0 and text[at - 1] in "+(")


@dataclass(frozen=True, slots=True)
class _Form:
    """A form: where it may begin before a run of digits (None: anywhere), and words of which a text must hold one."""

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], bool] = _always
    before: Callable[[str, int], int] | None = _at_digit
    words: tuple[str, ...] = ()


_FORMS = (
    _Form(IBAN, _IBAN, _is_iban, _two_before),
    _Form(CARD, _CARD, _is_card),
    _Form(ID, _SSN),
    _Form(ID, _NINO, before=_letters_before),
    _Form(DATE, _DATE, _is_date),
    _Form(
        DATE,
        _MONTH_FIRST,
        before=None,
        words=("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    ),
    _Form(
        RECORD,
        _RECORD,
        _is_record,
        before=None,
        words=(
            "mrn", "nhs", "ssn", "record", "patient", "case", "chart", "hospital", "account", "acct", "policy",
            "insurance", "member", "passport", "licen", "id ", "id:", "id#",
        ),
    ),
    _Form(PHONE, _PHONE, _is_phone, _at_sign),
    _Form(
        ADDRESS,
        _STREET_LINE,
        words=(
            " st", " av", " road", " rd", " lane", " ln", " dr", " bou", " blvd", " co", " ct", " pl", " sq", " te",
            " cr", " pa", " pk", " hi", " hw", " way", " cl",
        ),
    ),
    _Form(ADDRESS, _ZIP, before=_three_before),
    _Form(ADDRESS, _OTHER_ADDRESS, before=None, words=("straße", "strasse", "gasse", "weg", "platz", "allee", "box ")),
)  # fmt: skip
_PLACEHOLDER = re.compile(rf"\[({'|'.join(kind.upper() for kind in KINDS)})_(\d{{1,9}})\]")


class Placeholders:
    """Values -> placeholders such as [EMAIL_1]: one value has one over a whole file, numbered by first appearance."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._last = dict.fromkeys(KINDS, 0)

    def reserve(self, text: str) -> None:
        """Keep the placeholders that a text already holds free, so that none comes to mean two things."""
        if "[" in text:
            for match in _PLACEHOLDER.finditer(text):
                kind = match[1].lower()
                self._last[kind] = max(self._last[kind], int(match[2]))

    def of(self, kind: str, value: str) -> str:
        """The placeholder of a value; spelling that does not matter (spaces, case, dashes) is looked through."""
        if kind in (EMAIL, NAME, ADDRESS):
            same = " ".join(value.casefold().split())
        elif kind == DATE:
            same = value
        else:
            same = "".join(c for c in value.casefold() if c.isalnum())
        if (kind, same) not in self._names:
            self._last[kind] += 1
            self._names[kind, same] = f"[{kind.upper()}_{self._last[kind]}]"
        return self._names[kind, same]

    def redact(self, text: str, found: list[Found]) -> str:
        """The text with a placeholder for every piece that was found."""
        out, at = [], 0
        for piece in found:
            out += [text[at : piece.begin], self.of(piece.kind, text[piece.begin : piece.end])]
            at = piece.end
        return "".join([*out, text[at:]])

    def counts(self) -> dict[str, int]:
        """Kind -> number of different values replaced."""
        kinds = [kind for kind, _ in self._names]
        return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def column_value(value: Any) -> str | None:
    """The text of a value that a telling column holds: strings and whole numbers, but no placeholder."""
    if isinstance(value, str):
        return value if value.strip() and not _PLACEHOLDER.fullmatch(value) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
