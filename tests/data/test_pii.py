"""Personal data: forms and checksums that must be found, look-alikes that must not, placeholders that stay."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data import names
from tunesmith.data.pii import Placeholders, find_pii
from tunesmith.data.survey import pii_of
from tunesmith.errors import MissingExtraError


def found(text: str) -> list[tuple[str, str]]:
    return [(piece.kind, text[piece.begin : piece.end]) for piece in find_pii(text)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "jane.doe+x@mail.example.org"),
        ("phone", "(415) 555-0132"),
        ("phone", "415-555-0132"),
        ("phone", "+44 20 7946 0958"),
        ("phone", "08712460324"),
        ("phone", "0171 1234567"),
        ("card", "4111 1111 1111 1111"),
        ("card", "5500000000000004"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432"),
        ("id", "219-09-9999"),
        ("id", "AB 12 34 56 C"),
        ("date", "2024-03-04"),
        ("date", "04.03.2024"),
        ("date", "14 March 1962"),
        ("date", "March 3rd, 2024"),
        ("address", "12 Baker Street"),
        ("address", "IL 62704"),
        ("address", "Hauptstraße 5"),
        ("address", "P.O. Box 99"),
    ],
)
def test_found_in_a_sentence_and_in_a_long_text(kind: str, value: str) -> None:
    for text in (f"Write {value}, please.", value, f"{'and so on ' * 400}it is {value} {'as said ' * 400}"):
        assert found(text) == [(kind, value)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("MRN: 00482913", "00482913"),
        ("patient ID P-48213 came", "P-48213"),
        ("Case no. 55512", "55512"),
        ("policy number is HX-5520194", "HX-5520194"),
    ],
)
def test_a_record_number_stands_behind_its_word(text: str, value: str) -> None:
    assert found(text) == [("record", value)]
    assert found(value) == []


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "DE89 3704 0044 0532 0130 01",
        "version 1.2.3 of 3.14159",
        "1,000,000 rows in 2019",
        "192.168.10.20",
        "13.13.2024",
        "the patient in 2019 was 45 years old",
        "a record 12 of 30",
        "me@home and you@ example.org",
        "10 + 20 = 30 - 40",
        "ratio 16:9, score 3-2-1",
        "Paris, 12 people, the Street View",
    ],
)
def test_look_alikes_are_left_alone(text: str) -> None:
    assert found(text) == []


@given(st.text(alphabet="0123456789", min_size=13, max_size=19).filter(lambda t: t[0] in "23456"))
def test_a_card_is_told_by_its_check_digit(digits: str) -> None:
    total = 0
    for i, c in enumerate(reversed(digits)):
        n = int(c) * (1 + i % 2)
        total += n // 10 + n % 10
    is_card = total % 10 == 0 and len(set(digits)) > 1
    assert (found(f"pay {digits} now") == [("card", digits)]) == is_card


def test_a_column_that_tells_what_it_holds_counts_as_a_whole() -> None:
    assert [f.kind for f in pii_of("patient_id", "X 1")] == ["record"]
    assert [f.kind for f in pii_of("rows[3].Phone", 5550132)] == ["phone"]
    assert pii_of("prompt", "X 1") == []
    assert pii_of("year", 2024) == []


def test_one_value_has_one_placeholder() -> None:
    given_names = Placeholders()
    given_names.reserve("as written to [EMAIL_4]")
    texts = ["a@b.org, c@d.org", "A@B.org again", "call (415) 555-0132", "415-555-0132 it is"]
    out = [given_names.redact(text, find_pii(text)) for text in texts]
    assert out == ["[EMAIL_5], [EMAIL_6]", "[EMAIL_5] again", "call [PHONE_1]", "[PHONE_1] it is"]
    assert given_names.counts() == {"email": 2, "phone": 1}


PIECES = [
    "see", "a.b@example.org", "x@y.example.com", "+44 20 7946 0958", "(415) 555-0132", "4111 1111 1111 1111",
    "219-09-9999", "2024-03-04", "MRN: 482913", "DE89 3704 0044 0532 0130 00", "12 Baker Street", "[EMAIL_1]",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12), st.sampled_from([", ", ". ", "\n", " and "]))
def test_nothing_is_left_to_find_after_redaction(pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    given_names = Placeholders()
    given_names.reserve(text)
    redacted = given_names.redact(text, find_pii(text))
    assert find_pii(redacted) == []
    assert all(piece not in redacted for piece in pieces[1:] if "@" in piece or "1111" in piece)
    assert given_names.redact(text, find_pii(text)) == redacted


def test_offsets_survive_any_text_around() -> None:
    draw = random.Random(3)
    for _ in range(200):
        before = "".join(draw.choices("aé字\n .,;🙂", k=draw.randrange(30)))
        text = f"{before} a.b@example.org {before}"
        assert ("email", "a.b@example.org") in found(text)


def test_a_megabyte_of_numbers_on_one_line() -> None:
    # To compare each of the 60,000 with all others would take minutes.
    line = "(415) 555-0132, " * 60_000
    found = find_pii(line)
    assert len(found) == 60_000 and {piece.kind for piece in found} == {"phone"}
    assert line[found[-1].begin : found[-1].end] == "(415) 555-0132"


def test_names_need_a_library_and_are_found_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "NAME_MODEL", "a_model_that_is_not_there")
    with pytest.raises(MissingExtraError, match="spaCy or its model"):
        names.load_name_finder()
    # A stand-in with the two calls of spaCy that are used; the real one is not among our dependencies.
    (tmp_path / "spacy.py").write_text(
        "import re\n"
        "class E:\n"
        "    def __init__(self, m): self.start_char, self.end_char, self.label_ = m.start(), m.end(), 'PERSON'\n"
        "class D:\n"
        "    def __init__(self, t): self.ents = [E(m) for m in re.finditer('Jane Doe', t)]\n"
        "def load(name): return D\n"
    )
    (tmp_path / "a_model_that_is_not_there.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    # Set first and taken out again, so that undoing leaves what was there before and no stand-in outlives the test.
    monkeypatch.setitem(sys.modules, "spacy", names)
    del sys.modules["spacy"]
    finder = names.load_name_finder()
    text = "Jane Doe <jane@example.org>"
    assert [(f.kind, text[f.begin : f.end]) for f in pii_of("text", text, finder)] == [
        ("name", "Jane Doe"),
        ("email", "jane@example.org"),
    ]
    monkeypatch.undo()
    assert not hasattr(sys.modules.get("spacy"), "E")
