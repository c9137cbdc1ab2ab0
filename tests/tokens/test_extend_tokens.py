"""New tokens: they save what they say, leave old tokens alone, and come back from disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import build_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tunesmith.errors import DataError, ModelError
from tunesmith.models.resolve import tokenizer_digest
from tunesmith.tokens.extend import choose_tokens, count_words, extend_tokenizer

TEXT = "the catheter and the other catheter; a tachycardia, the tachycardia ended. Überdruck, Überdruck!"


def extended(num: int = 20, texts: tuple[str, ...] = (TEXT,)) -> tuple[Any, Any, Any, dict[int, list[int]]]:
    old = build_tokenizer()
    chosen = choose_tokens(count_words(texts, old), num, old.get_vocab())
    new, made_of = extend_tokenizer(old, chosen)
    return old, chosen, new, made_of


def test_the_tokens_saved_are_those_counted() -> None:
    old, chosen, new, _ = extended()
    before, after = (len(t(TEXT)["input_ids"]) for t in (old, new))
    assert before - after == sum(token.num_saved for token in chosen) > 30
    assert [token.num_saved for token in chosen] == sorted((t.num_saved for t in chosen), reverse=True)


def test_a_choice_is_the_most_frequent_pair() -> None:
    words = {("a", "b", "c"): 3, ("a", "b"): 2, ("b", "c", "b", "c"): 2, ("x", "x", "x"): 1}
    first, second = choose_tokens(words, 2, [])
    # b c stands 3 + 4 times, a b 5; afterwards only the two words "a b" are left with that pair, and 3 with a bc.
    assert (first.token, first.num_saved) == ("bc", 7)
    assert (second.token, second.num_saved) == ("abc", 3)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=8).map(tuple), st.integers(1, 5), max_size=8))
@settings(max_examples=100, deadline=None)
def test_choices_equal_a_slow_recount(words: dict[tuple[str, ...], int]) -> None:
    split, known = {word: list(word) for word in words}, set("abc")
    for new in choose_tokens(words, 6, "abc"):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(split[word], split[word][1:], strict=False):
                pairs[pair] += count
        best = min((-count, pair) for pair, count in pairs.items() if "".join(pair) not in known)
        assert (new.left, new.right) == best[1]
        before = sum(count * len(split[word]) for word, count in words.items())
        for parts in split.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == (new.left, new.right):
                    parts[i : i + 2] = [new.token]
                i += 1
        assert before - sum(count * len(split[word]) for word, count in words.items()) == new.num_saved
        known.add(new.token)


def test_old_ids_stay_and_every_text_comes_back() -> None:
    old, _, new, made_of = extended()
    assert old.get_vocab().items() <= new.get_vocab().items()
    assert len(old) == 264 and min(made_of) == 264
    for text in (TEXT, "Überdrucker cathetersé <|im_end|> ☃", "xtheterx"):
        ids = new(text)["input_ids"]
        assert new.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
        # Each new token falls apart into the tokens the old vocabulary makes of the text.
        assert [j for i in ids for j in made_of.get(i, [i])] == old(text)["input_ids"]
    assert new("<|im_end|>")["input_ids"] == old("<|im_end|>")["input_ids"]


def test_a_control_token_in_the_text_is_ordinary_text() -> None:
    """A count over texts must not make tokens of pieces of control tokens' own ids."""
    old = build_tokenizer()
    words = count_words(["<|im_end|> <|im_end|>"], old)
    assert ("<|im_end|>",) not in words


def test_saved_it_is_read_the_same_and_its_digest_is_another(tmp_path: Path) -> None:
    old, _, new, _ = extended()
    for name, tokenizer in (("old", old), ("new", new), ("again", None)):
        if name == "again":
            tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
            assert tokenizer(TEXT)["input_ids"] == new(TEXT)["input_ids"]
            assert tokenizer.chat_template == old.chat_template
        tokenizer.save_pretrained(tmp_path / name)
    digests = {name: tokenizer_digest(tmp_path / name, name) for name in ("old", "new", "again")}
    assert digests["new"] == digests["again"] != digests["old"]


def test_added_tokens_beyond_the_model_vocabulary_keep_their_ids() -> None:
    old = build_tokenizer()
    old.add_tokens(["<extra>"])
    chosen = choose_tokens(count_words([TEXT], old), 3, old.get_vocab())
    new, made_of = extend_tokenizer(old, chosen)
    assert new.convert_tokens_to_ids("<extra>") == old.convert_tokens_to_ids("<extra>") == 264
    assert min(made_of) == 265


def test_text_without_a_repeated_pair_gives_no_token() -> None:
    with pytest.raises(DataError, match="no pair"):
        extended(texts=("q",))


def test_other_vocabularies_than_bpe_are_refused() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(ModelError, match="only BPE"):
        count_words(["a"], PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
