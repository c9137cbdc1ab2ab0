"""Trained tokenizers: lossless where they say so, deterministic, read by AutoTokenizer, SentencePiece's own pieces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tunesmith.config import load_config
from tunesmith.errors import ConfigError, RunError
from tunesmith.randomness import generator
from tunesmith.tokens import spm
from tunesmith.tokens.train import (
    KINDS,
    SpecialTokens,
    TokenizerConfig,
    TrainedTokenizer,
    save_tokenizer,
    train_tokenizer,
)

LOSSLESS = [kind for kind in KINDS if kind != "wordpiece"]
PARTS = ["token", "merge", "piece", "byte", "un", "re", "ing", "ed", "er", "wörter", "größe", "naïve", "文字", "ab"]
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def corpus() -> Iterator[str]:
    for number in range(250):
        draws = generator(0, "corpus", number)
        words = ["".join(PARTS[i] for i in draws.integers(0, len(PARTS), draws.integers(1, 4))) for _ in range(12)]
        yield " ".join(words) + ".\n"


@cache
def trained(kind: Any, size: int = 500) -> TrainedTokenizer:
    return train_tokenizer(kind, size, corpus, TokenizerConfig())


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=st.text(max_size=30))
@example(text="a  b\t\n ▁▁ ▂ ▂0▂1▂2 <0x41> <0x <0xE2><0x96> \x00 é e\u0301 \u202e 👩‍👩‍👧 </s><unk>")
@example(text=" ")
@settings(max_examples=200, deadline=None)
def test_every_unicode_string_comes_back(kind: Any, text: str) -> None:
    tokenizer = trained(kind).tokenizer
    assert trained(kind).lossless
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
    assert tokenizer.unk_token_id is None or "<unk>" in text or tokenizer.unk_token_id not in ids


def test_wordpiece_is_lossy_and_says_so() -> None:
    result = trained("wordpiece")
    assert not result.lossless and "not lossless" in " ".join(result.notes)
    tokenizer = result.tokenizer
    ids = tokenizer("token  merge ☃", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "token merge [UNK]"
    assert tokenizer("token")["input_ids"][0] == tokenizer.cls_token_id


def test_a_normaliser_makes_it_lossy() -> None:
    result = train_tokenizer("bpe", 400, corpus, TokenizerConfig(normalizer=["nfkc", "lowercase"]))
    assert not result.lossless
    assert result.tokenizer.decode(result.tokenizer("ﬁX")["input_ids"]) == "fix"


@pytest.mark.parametrize("kind", KINDS)
def test_autotokenizer_reads_a_fast_tokenizer_with_the_template(tmp_path: Path, kind: Any) -> None:
    special = SpecialTokens(
        eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<unk>", additional=["<|im_start|>"]
    )
    config = TokenizerConfig(special_tokens=special, chat_template=CHATML, model_max_length=512)
    result = train_tokenizer(kind, 450, corpus, config)
    save_tokenizer(result, tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.is_fast and len(again) == result.vocab_size
    assert (again.eos_token, again.pad_token, again.model_max_length) == ("<|im_end|>", "<|im_end|>", 512)
    text = "token merge naïve größe.\n"
    assert again(text)["input_ids"] == result.tokenizer(text)["input_ids"]
    chat = again.apply_chat_template([{"role": "user", "content": "token"}], tokenize=False)
    assert chat == "<|im_start|>user\ntoken<|im_end|>\n"
    ids = again(chat)["input_ids"]
    assert again.convert_tokens_to_ids("<|im_start|>") in ids and again.eos_token_id in ids
    with pytest.raises(RunError, match="not an empty folder"):
        save_tokenizer(result, tmp_path / "out")


SCRIPT = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])
from test_train_tokenizer import corpus
from tunesmith.tokens.train import *
save_tokenizer(train_tokenizer(sys.argv[2], 500, corpus, TokenizerConfig()), Path(sys.argv[3]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path, kind: Any) -> None:
    """Another process has another seed of its hash tables, too."""
    save_tokenizer(train_tokenizer(kind, 500, corpus, TokenizerConfig()), tmp_path / "here")
    threads = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), kind, str(tmp_path / "there")]
    subprocess.run(command, check=True, env={**os.environ, **threads}, capture_output=True)
    for file in (tmp_path / "here").iterdir():
        assert file.read_bytes() == (tmp_path / "there" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("kind", ["unigram", "sentencepiece-bpe"])
@given(text=st.text(max_size=40) | st.lists(st.sampled_from(PARTS), max_size=8).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_the_fast_form_makes_sentencepieces_own_pieces(kind: Any, text: str) -> None:
    processor, fast = both(kind)
    # The library reads ▁ as a space; NUL ends its strings; the other two are our escapes.
    if any(part in text for part in ("▁", "▂", "<0x", "\0")):
        return
    theirs = processor.encode(text, out_type=str)
    assert fast.encode(text).tokens == theirs


@cache
def both(kind: Any) -> tuple[Any, Any]:
    kept: list[Any] = []
    original = spm.fast_from_processor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spm, "fast_from_processor", lambda processor, k: kept.append(processor) or original(processor, k))
        fast = spm.train_sentencepiece(
            kind, 500, corpus(), special=["<unk>"], unk_token="<unk>", character_coverage=0.9995,
            max_piece_length=16, split_digits=False,
        )  # fmt: skip
    return kept[0], fast


def test_byte_fallback_spells_what_the_vocabulary_lacks() -> None:
    for kind in ("unigram", "sentencepiece-bpe"):
        processor, fast = both(kind)
        assert fast.encode("☃").tokens == ["<0xE2>", "<0x98>", "<0x83>"] == processor.encode("☃", out_type=str)


@pytest.mark.parametrize(("kind", "size"), [("bpe", 257), ("wordpiece", 20), ("unigram", 200), ("unigram", 262)])
def test_a_vocabulary_too_small_is_an_error(kind: Any, size: int) -> None:
    with pytest.raises(ConfigError, match=r"vocab-size.*(too small|no room)"):
        train_tokenizer(kind, size, corpus, TokenizerConfig())


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_too_large_ends_at_its_true_size(kind: Any) -> None:
    result = train_tokenizer(kind, 30_000, lambda: iter(["some few words, a few words"] * 3), TokenizerConfig())
    assert result.vocab_size == len(result.tokenizer) < 30_000
    assert f"only {result.vocab_size} tokens of the 30000" in " ".join(result.notes)


def test_settings_are_strict(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.yaml"
    file.write_text(yaml.safe_dump({"special_tokens": {"eos_tokn": "x"}}))
    with pytest.raises(ConfigError, match="eos_token"):
        load_config(TokenizerConfig, file)
    with pytest.raises(ValueError, match="bos_token is to be added"):
        TokenizerConfig(add_bos=True, special_tokens=SpecialTokens(eos_token="x"))
    with pytest.raises(ConfigError, match="does not render"):
        train_tokenizer("bpe", 300, corpus, TokenizerConfig(chat_template="{{ messages[0].nothing.at.all }}"))


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("bpe", {"add_bos": True}), ("bpe", {"limit_alphabet": 9}), ("bpe", {"character_coverage": 1.0}),
        ("unigram", {"min_frequency": 3}), ("sentencepiece-bpe", {"limit_alphabet": 9}),
        ("wordpiece", {"split_digits": True}), ("wordpiece", {"max_piece_length": 8}), ("wordpiece", {"add_eos": True}),
    ],
)  # fmt: skip
def test_a_setting_the_kind_cannot_follow_is_refused_not_ignored(kind: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"no meaning for|has none"):
        train_tokenizer(kind, 450, corpus, TokenizerConfig(**setting))


@pytest.mark.parametrize("kind", ["unigram", "sentencepiece-bpe"])
def test_a_line_with_the_librarys_own_mark_is_learnt_from_too(kind: Any) -> None:
    texts = ["\u2585\u2585 remarkable\u2585remarkable"] * 50
    tokenizer = train_tokenizer(kind, 300, lambda: iter(texts), TokenizerConfig()).tokenizer
    assert tokenizer.tokenize("remarkable") == ["remarkable"]
    assert tokenizer.decode(tokenizer(texts[0])["input_ids"]) == texts[0]
    with pytest.raises(ConfigError, match="nothing but line breaks"):
        train_tokenizer(kind, 300, lambda: iter(["\n\n"]), TokenizerConfig())


def test_bos_and_eos_stand_around_a_text_where_asked() -> None:
    special = SpecialTokens(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer = train_tokenizer(
        "unigram", 450, corpus, TokenizerConfig(special_tokens=special, add_bos=True, add_eos=True)
    ).tokenizer
    ids = tokenizer("token")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer("a", "b")["input_ids"].count(tokenizer.eos_token_id) == 2
