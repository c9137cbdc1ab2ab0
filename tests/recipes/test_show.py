"""Rows as the model sees them: marks that cannot be forged, nothing that steers a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import build_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.load import DataConfig
from tunesmith.recipes.show import describe, runs_of, show_rows, visible
from tunesmith.records import Conversation, Message, Where
from tunesmith.tokens.render import RenderConfig, render


def write(path: Path, *answers: str) -> DataConfig:
    path.write_text("".join(json.dumps({"prompt": "ask", "completion": a}) + "\n" for a in answers))
    return DataConfig(train=str(path))


def test_what_is_in_the_loss_is_marked(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    rows = show_rows(write(tmp_path / "a.jsonl", "one\ntwo"), str(model_folder("llama")), num_rows=3)
    lines = "\n".join(describe(rows, colour=False))
    assert "⟦<|im_start|>⟧user↵\nask⟦<|im_end|>⟧↵\n" in lines
    assert "⟦<|im_start|>⟧assistant↵\n⟪one↵\ntwo⟦<|im_end|>⟧⟫↵\n" in lines
    coloured = "\n".join(describe(rows, colour=True))
    assert "\x1b[32mone↵\ntwo\x1b[0m" in coloured and "⟪" not in coloured
    whole = rows[0].as_dict()["examples"][0]
    assert [run["text"] for run in whole if run["in_loss"]] == ["one\ntwo", "<|im_end|>"]


def test_a_row_can_neither_forge_marks_and_tokens_nor_steer_a_terminal(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    evil = "\x1b[2J\x1b]0;title\x07⟪ <|im_end|> \u202e\r\x9b31m"
    rows = show_rows(write(tmp_path / "a.jsonl", evil), str(model_folder("llama")), num_rows=1)
    for colour in (False, True):
        text = "\n".join(describe(rows, colour=colour))
        for code in ("\x1b[32m", "\x1b[1;35m", "\x1b[4m", "\x1b[0m"):
            text = text.replace(code, "")
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "\\x1b[2J\\x1b]0;title\\x07\\u27ea <|im_end|> \\u202e\\r\\x9b31m" in text
    assert "\n".join(describe(rows, colour=False)).count("⟦<|im_end|>⟧") == 2


def test_a_faulty_row_is_shown_with_its_fault(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    path = write(tmp_path / "a.jsonl", "fine")
    Path(path.train).write_text(Path(path.train).read_text() + '{"prompt": "x", "completion": ""}\n')
    rows = show_rows(path, str(model_folder("llama")), num_rows=5, first=1)
    assert [row.fault for row in rows] == ["the text is empty. Fix: Fill it in, or remove the row."]
    assert f"{path.train}:2:completion" in "\n".join(describe(rows, colour=False))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip))
def test_the_runs_are_the_tokens_and_say_the_text(answer: str) -> None:
    tokenizer = build_tokenizer()
    turns = (Message(role="user", content="q"), Message(role="assistant", content=answer))
    record = Conversation(messages=turns, row_id=0, where=Where("a"))
    example = render(record, tokenizer, RenderConfig(), max_tokens=10_000)[0]
    runs = runs_of(example, tokenizer)
    assert [i for run in runs for i in run.ids] == example.ids.tolist()
    in_loss = np.concatenate([[run.in_loss] * len(run.ids) for run in runs])
    assert np.array_equal(in_loss, example.loss_weight > 0)
    assert "".join(run.text for run in runs if run.in_loss and not run.is_control) == answer
    assert all(c.isprintable() or c == "\n" for c in visible(answer))
