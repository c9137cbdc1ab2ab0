"""A tokenizer as GGUF holds it: the tokens in order, how they merge, and by name how text is split beforehand.

llama.cpp knows ways of splitting by name only. A tokenizer whose way has no name here is refused: under a wrong name a
file loads, and reads other tokens than the model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ModelError
from tunesmith.tokens.render import end_of_turn
from tunesmith.tokens.template import chat_format

if TYPE_CHECKING:
    from gguf import GGUFWriter

# The patterns models split text with before merging -> llama.cpp's name for them.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS: Mapping[str, str] = {
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL: "llama-bpe",
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL: "qwen2",
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What goes into the file. types: llama.cpp's kind of each token. split: its name for how text is cut first."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    split: str
    notes: list[str]


def read_vocabulary(tokenizer: Any, num_rows: int, name: str) -> Vocabulary:
    """The vocabulary of a byte-level BPE tokenizer, filled up to the model's ``num_rows`` with unused tokens.

    Raises ModelError for other kinds of tokenizers, for ways of splitting or normalising that llama.cpp has no name
    for, and for more tokens than the model has rows.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    tree = json.loads(backend.to_str()) if backend is not None else {}
    model = tree.get("model") or {}
    kind = model.get("type") or type(tokenizer).__name__
    if kind != "BPE" or model.get("byte_fallback"):
        kind = "SentencePiece BPE" if kind == "BPE" else kind
        raise ModelError(
            name,
            f"its tokenizer is {kind}; only byte-level BPE is exported (Llama 3, Qwen, GPT-2, SmolLM).",
            "Save a merged folder and use llama.cpp's convert_hf_to_gguf.py.",
        )
    notes = _check_normaliser(tree.get("normalizer"), name)
    added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
    texts = {i: text for text, i in model["vocab"].items()} | {i: str(token) for i, token in added.items()}
    if max(texts) >= num_rows:
        raise ModelError(
            name,
            f"its tokenizer has token {max(texts)}, its embedding {num_rows} rows.",
            "Use the tokenizer that belongs to the model.",
        )
    # Tokens around a turn steer the model whether or not their tokenizer marks them so.
    control = chat_format(tokenizer).control_set
    types = [UNUSED] * num_rows
    for i in texts:
        types[i] = NORMAL
    for i, token in added.items():
        types[i] = CONTROL if token.special or i in control else USER_DEFINED
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(num_rows)]
    return Vocabulary(tokens, types, pairs, _split_name(tree["pre_tokenizer"], model, name), notes)


def _check_normaliser(normalizer: Any, name: str) -> list[str]:
    if normalizer is None:
        return []
    if normalizer == {"type": "NFC"}:
        return ["the tokenizer composes accents first (NFC), llama.cpp does not: send it composed text."]
    raise ModelError(
        name,
        f"its tokenizer rewrites text first ({normalizer.get('type')}), which llama.cpp does not do.",
        "Use a model with a byte-level BPE tokenizer.",
    )


def _split_name(pre_tokenizer: Any, model: Mapping[str, Any], name: str) -> str:
    """llama.cpp's name for a pre-tokenizer as ``tokenizers`` writes it down."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    kinds = [(step or {}).get("type") for step in steps]
    if kinds[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space"):
        splits = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and splits:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and splits and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not splits and steps[0]["behavior"] == "Isolated":
            found = PATTERNS.get(steps[0]["pattern"].get("Regex", ""))
            # Under this name llama.cpp takes a word that is a token as a whole, without merging.
            if found is not None and bool(model.get("ignore_merges")) == (found == "llama-bpe"):
                return found
    raise ModelError(
        name,
        "its tokenizer splits text in a way that has no name of llama.cpp's here.",
        "Save a merged folder and use llama.cpp's convert_hf_to_gguf.py.",
    )


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, tokenizer: Any) -> None:
    """Write a vocabulary, its special tokens and the chat template in use, tunesmith's own where the model has none."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    special = (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (end_of_turn(tokenizer), writer.add_eot_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    )
    for token, add in special:
        if token is not None:
            add(int(token))
    form = chat_format(tokenizer)
    writer.add_add_bos_token(form.begin_id is not None)
    writer.add_add_eos_token(False)
    writer.add_chat_template(form.template)
