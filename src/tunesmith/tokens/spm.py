"""SentencePiece: trained by its own library, run as a fast tokenizer that makes the same pieces and loses nothing.

SentencePiece writes a space as ▁ and so reads a ▁ of the text as a space; and in the fast unigram model the text
"<0x41>" would match the piece that stands for the byte 0x41. An escape character makes both come back as they were.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers

from tunesmith.errors import ConfigError

SPACE, ESCAPE = "▁", "▂"
# In this order when encoding, in the opposite one when decoding; afterwards ESCAPE is always followed by a digit.
ESCAPES = ((ESCAPE, f"{ESCAPE}0"), (SPACE, f"{ESCAPE}1"), ("<0x", f"{ESCAPE}2"))
# Expected counts are summed thread by thread: a fixed number gives the same sums on every machine.
NUM_THREADS = 8
# The library leaves out longer sentences, and those that hold U+2585, with a line in its log alone.
MAX_SENTENCE_BYTES = 4192
_ENDS_OF_SENTENCES = re.compile("[\n\u2585]")


def train_sentencepiece(
    kind: Literal["unigram", "sentencepiece-bpe"],
    vocab_size: int,
    texts: Iterable[str],
    *,
    special: list[str],
    unk_token: str,
    character_coverage: float,
    max_piece_length: int,
    split_digits: bool,
) -> Tokenizer:
    """A fast tokenizer with the pieces SentencePiece learns, byte fallback included.

    Raises ConfigError where the vocabulary has no room for the characters, the 256 bytes and the special tokens.
    """
    model = io.BytesIO()
    others = [token for token in special if token != unk_token]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type="unigram" if kind == "unigram" else "bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=split_digits,
            character_coverage=character_coverage,
            max_sentencepiece_length=max_piece_length,
            max_sentence_length=MAX_SENTENCE_BYTES,
            hard_vocab_limit=False,
            control_symbols=others,
            unk_piece=unk_token,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=NUM_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(error, vocab_size, len(special)) from None
    return fast_from_processor(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()), kind)


def _explained(error: RuntimeError, vocab_size: int, num_special: int) -> ConfigError:
    text = " ".join(str(error).split())
    if "sentences_.empty()" in text:
        return ConfigError("tokenizer train", "the texts hold nothing but line breaks.", "Give more text.")
    if "too high" in text.lower() or "smaller than required" in text.lower() or "vocabulary size" in text.lower():
        return ConfigError(
            "vocab-size",
            f"{vocab_size} has no room for {num_special} special tokens, 256 bytes and the text's characters ({text}).",
            "Ask for more, or lower character_coverage.",
        )
    return ConfigError("tokenizer train", f"SentencePiece says: {text}.", "Look at the texts and the settings.")


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines of the texts, escaped, cut where they are longer than the library reads and at what it does not take."""
    for text in texts:
        for line in _ENDS_OF_SENTENCES.split(text):
            escaped = escape(line)
            while len(escaped.encode()) > MAX_SENTENCE_BYTES:
                # Four bytes at most a character.
                most = MAX_SENTENCE_BYTES // 4
                cut = escaped.rfind(" ", 1, most)
                cut = most if cut <= 0 else cut
                yield escaped[:cut]
                escaped = escaped[cut:]
            if escaped:
                yield escaped


def escape(text: str) -> str:
    """Text as the fast tokenizer hands it to its model, but for the spaces."""
    for plain, written in ESCAPES:
        text = text.replace(plain, written)
    return text


def fast_from_processor(processor: Any, kind: Literal["unigram", "sentencepiece-bpe"]) -> Tokenizer:
    """The ``tokenizers`` form of a model of SentencePiece that neither normalises nor puts a space before the text.

    Same pieces and ids as the library's own for text that holds none of ▁, ▂ and <0x.
    """
    size = processor.vocab_size()
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(size)]
    unk_id = processor.unk_id()
    if kind == "unigram":
        backend = Tokenizer(models.Unigram(pieces, unk_id=unk_id, byte_fallback=True))
    else:
        vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
        plain = {
            piece: score
            for i, (piece, score) in enumerate(pieces)
            if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
        }
        backend = Tokenizer(
            models.BPE(
                vocab=vocab,
                merges=_merges(plain, vocab),
                unk_token=pieces[unk_id][0],
                fuse_unk=True,
                byte_fallback=True,
            )
        )
    replacements = [normalizers.Replace(plain, written) for plain, written in ESCAPES]
    backend.normalizer = normalizers.Sequence([*replacements, normalizers.Replace(" ", SPACE)])
    backwards = [decoders.Replace(written, plain) for plain, written in reversed(ESCAPES)]
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *backwards]
    )
    return backend


def _merges(scores: dict[str, float], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, best joined piece first: the order SentencePiece joins in."""
    found = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                found.append((-score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
