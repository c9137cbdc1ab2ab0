"""GPT-2's tokenizer against a second implementation, written from the paper, on GPT-2's own files."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path

import pytest
import regex
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tokens.inspect import FastInspector, open_inspector

CUT = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
SENTENCE = "Tokenization helps AI understand text."


@cache
def reference() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    folder = shared_data("tokenizer_gpt2")
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    return vocab, {tuple(line.split(" ")): rank for rank, line in enumerate(lines)}  # type: ignore[misc]


def letters() -> dict[int, str]:
    out, spare = {}, 0x100
    for byte in range(256):
        if byte in (0xAD, *range(0x21), *range(0x7F, 0xA1)):
            out[byte] = chr(spare)
            spare += 1
        else:
            out[byte] = chr(byte)
    return out


def encode(text: str) -> list[int]:
    """All occurrences of the best pair are joined at once, as the paper has it; the library keeps a heap."""
    vocab, ranks = reference()
    table, ids = letters(), []
    for word in CUT.findall(text):
        parts = [table[byte] for byte in word.encode()]
        while pairs := {pair for pair in itertools.pairwise(parts) if pair in ranks}:
            best, joined, i = min(pairs, key=ranks.__getitem__), [], 0
            while i < len(parts):
                width = 2 if tuple(parts[i : i + 2]) == best else 1
                joined.append("".join(parts[i : i + width]))
                i += width
            parts = joined
        ids += [vocab[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def gpt2() -> FastInspector:
    inspector = open_inspector(str(shared_data("tokenizer_gpt2")))
    assert isinstance(inspector, FastInspector)
    return inspector


@given(text=st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_every_text_gets_the_ids_of_the_reference(gpt2: FastInspector, text: str) -> None:
    ids = [piece.id for piece in gpt2.pieces(text)]
    assert ids == encode(text)
    assert gpt2.backend.decode(ids, skip_special_tokens=False) == text


def test_real_prose_gets_the_ids_of_the_reference(gpt2: FastInspector) -> None:
    text = shared_data("tiny_shakespeare/valid.txt").read_text(encoding="utf-8")[:6000]
    assert [piece.id for piece in gpt2.pieces(text)] == encode(text)


def test_the_known_ids_of_a_sentence(gpt2: FastInspector) -> None:
    assert [piece.id for piece in gpt2.pieces("Hello world")] == [15496, 995]
    assert encode("Hello world") == [15496, 995]


def test_the_replayed_merges_end_in_the_pieces_of_the_library(gpt2: FastInspector) -> None:
    steps = gpt2.steps(SENTENCE)
    assert [piece for word in steps.words for piece in word.pieces] == [piece.shown for piece in steps.pieces]
    for word in steps.words:
        # Every letter but those left apart was joined once.
        assert len(word.how) == len(word.text) - len(word.pieces)
    assert [word.text for word in steps.words] == ["Tokenization", "▁helps", "▁AI", "▁understand", "▁text", "."]


def test_a_changed_merge_is_noticed(tmp_path: Path, gpt2: FastInspector) -> None:
    folder = shared_data("tokenizer_gpt2")
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")
    lines.remove("Ġ t")
    (tmp_path / "vocab.bpe").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "encoder.json").write_bytes((folder / "encoder.json").read_bytes())
    changed = open_inspector(str(tmp_path))
    assert [piece.id for piece in changed.pieces(" the text")] != encode(" the text")
