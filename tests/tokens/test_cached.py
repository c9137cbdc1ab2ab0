"""Rendered rows are kept for exactly what they were made of, and never taken for anything else."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from render_helpers import TOKENIZERS, conversation

from tunesmith.data.load import DataConfig, load_data
from tunesmith.errors import DataError
from tunesmith.records import Conversation
from tunesmith.tokens import cached
from tunesmith.tokens.cached import cached_store, depends_on_the_day, token_key, tokenizer_facts
from tunesmith.tokens.render import RenderConfig
from tunesmith.tokens.text_to_text import use_text_to_text

ROWS = [conversation(("user", f"ask {i}"), ("assistant", f"say {i}")) for i in range(5)]
MADE_OF = {"data": "abc", "side": "train", "tokenizer": "t1"}


def never() -> Iterator[Conversation]:
    raise AssertionError("the rows were rendered again")
    yield


def unchanged() -> None:
    """The rows are still what they were."""


def make(
    tmp_path: Path,
    rows: Any = ROWS,
    config: RenderConfig | None = None,
    confirm: Callable[[], None] = unchanged,
    **made_of: str,
) -> Any:
    return cached_store(
        rows,
        TOKENIZERS["chatml"],
        config or RenderConfig(),
        max_tokens=100,
        made_of={**MADE_OF, **made_of},
        cache=tmp_path / "cache",
        fallback=tmp_path / "own",
        confirm=confirm,
    )


def test_a_second_time_nothing_is_rendered(tmp_path: Path) -> None:
    store, report = make(tmp_path)
    again, same = make(tmp_path, never())
    assert same == report and len(again) == len(store) == 5
    for ours, theirs in zip(again, store, strict=True):
        assert np.array_equal(ours.ids, theirs.ids) and ours.where == theirs.where
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "own").exists()


def test_what_was_dropped_and_cut_is_told_again(tmp_path: Path) -> None:
    long = [*ROWS, conversation(("user", "ask"), ("assistant", "so long " * 100))]
    for over_length, dropped, cut in (("drop", {"longer than 100 tokens": 1}, 0), ("truncate", {}, 1)):
        config = RenderConfig(over_length=over_length)  # type: ignore[arg-type]
        _, report = make(tmp_path, long, config)
        _, again = make(tmp_path, never(), config)
        assert again == report and dict(again.dropped) == dropped and again.num_rows_cut == cut


@pytest.mark.parametrize("changed", [{"data": "abd"}, {"side": "validation"}, {"tokenizer": "t2"}, {"template": "x"}])
def test_anything_else_is_rendered_anew(tmp_path: Path, changed: dict[str, str]) -> None:
    make(tmp_path)
    with pytest.raises(AssertionError, match="rendered again"):
        make(tmp_path, never(), **changed)


def test_the_key_follows_settings_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    key = token_key(MADE_OF, RenderConfig(), 100)
    assert key == token_key(dict(reversed(MADE_OF.items())), RenderConfig(), 100)
    others = {token_key(MADE_OF, RenderConfig(), 101), token_key(MADE_OF, RenderConfig(over_length="drop"), 100)}
    monkeypatch.setattr(cached, "_code_digest", lambda: "another")
    others.add(token_key(MADE_OF, RenderConfig(), 100))
    assert len(others | {key}) == 4


def test_a_damaged_store_is_made_anew(tmp_path: Path) -> None:
    make(tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    for spoil in (
        lambda: (folder / "report.json").write_text("{"),
        lambda: (folder / "ids.npy").write_bytes(b""),
        lambda: (folder / "offsets.npy").unlink(),
        lambda: (folder / "report.json").write_text(json.dumps({"files": ["f"], "report": {"dropped": {}}})),
    ):
        spoil()
        store, _ = make(tmp_path)
        assert len(store) == 5 and len(list((tmp_path / "cache").iterdir())) == 1
        make(tmp_path, never())


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands in the way")
    store, _ = make(tmp_path)
    assert len(store) == 5 and (tmp_path / "own" / "ids.npy").is_file()


def test_faulty_rows_leave_nothing_behind(tmp_path: Path) -> None:
    long = [*ROWS, conversation(("user", "ask"), ("assistant", "so long " * 100))]
    with pytest.raises(DataError, match="are allowed"):
        make(tmp_path, long)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, data="first")
    monkeypatch.setattr(cached, "MAX_BYTES", 1)
    make(tmp_path, data="second")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    make(tmp_path, never(), data="second")


def test_tokenizers_of_one_vocabulary_are_told_apart(tmp_path: Path) -> None:
    facts = tokenizer_facts(TOKENIZERS["chatml"])
    assert facts == tokenizer_facts(copy.deepcopy(TOKENIZERS["chatml"])) and json.dumps(facts)
    changed = []
    for name, value in (("eos_token", "<|im_start|>"), ("chat_template", "{{ messages[0].content }}")):
        other = copy.deepcopy(TOKENIZERS["chatml"])
        setattr(other, name, value)
        changed.append(tokenizer_facts(other))
    use_text_to_text(other := copy.deepcopy(TOKENIZERS["chatml"]), [0])
    changed.append(tokenizer_facts(other))
    assert all(facts != different for different in changed)


def test_a_template_with_the_date_is_known_as_one() -> None:
    dated = copy.deepcopy(TOKENIZERS["chatml"])
    assert not depends_on_the_day(dated)
    dated.chat_template = "{{ strftime_now('%d %b %Y') }}" + dated.chat_template
    assert depends_on_the_day(dated)


def test_what_a_killed_run_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = (tmp_path / "cache" / f".{name}.tmp-1" for name in ("old", "new"))
    for path in (old, new):
        path.mkdir(parents=True)
        (path / "ids.raw").write_bytes(b"half")
    os.utime(old, (0, 0))
    make(tmp_path)
    assert new.is_dir() and not old.exists()


def test_rows_that_changed_while_they_were_rendered_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    file.write_text(row * 2)
    data = load_data(DataConfig(train=str(file), validation_share=0))
    data.check_unchanged()

    def edited() -> Iterator[Any]:
        yield from data.train
        file.write_text(row.replace('"b"', '"c"') * 2)

    with pytest.raises(DataError, match="changed while it was being read"):
        make(tmp_path, edited(), confirm=data.check_unchanged)
    assert list((tmp_path / "cache").iterdir()) == []
