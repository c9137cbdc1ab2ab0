"""Train a tokenizer on your own text: byte-level BPE, SentencePiece (unigram or BPE with byte fallback), WordPiece.

What AutoTokenizer reads again is one tokenizer.json. The first three give every Unicode string back as it was, unless a
normaliser is set; WordPiece does not, by its nature: it forgets spaces and knows no bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tunesmith.config import Config
from tunesmith.errors import ConfigError, RunError
from tunesmith.tokens.spm import train_sentencepiece
from tunesmith.tokens.template import TEMPLATE_ERRORS

Kind = Literal["bpe", "unigram", "sentencepiece-bpe", "wordpiece"]
KINDS: tuple[Kind, ...] = ("bpe", "unigram", "sentencepiece-bpe", "wordpiece")
Texts = Callable[[], Iterator[str]]
_NORMALISERS: dict[str, Callable[[], Any]] = {
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
    "nfkd": normalizers.NFKD,
    "lowercase": normalizers.Lowercase,
    "strip_accents": normalizers.StripAccents,
}


class SpecialTokens(Config):
    """Tokens that text does not make; an empty name means there is none of this kind."""

    bos_token: str | None = None
    """Begins a text."""
    eos_token: str | None = None
    """Ends a text or a turn."""
    pad_token: str | None = None
    """Fills a batch."""
    unk_token: str | None = None
    """Stands for what the vocabulary cannot say; SentencePiece and WordPiece need one."""
    cls_token: str | None = None
    """Stands before a text in models of BERT's family."""
    sep_token: str | None = None
    """Stands behind a text in models of BERT's family."""
    mask_token: str | None = None
    """Hides a token in models of BERT's family."""
    additional: list[str] = []
    """Others, as the marks of a chat's turns."""

    def named(self) -> dict[str, str]:
        """Kind of token -> its text, in the order of the ids."""
        names = ("pad_token", "unk_token", "bos_token", "eos_token", "cls_token", "sep_token", "mask_token")
        return {name: text for name in names if (text := getattr(self, name)) is not None}

    def texts(self) -> list[str]:
        """All of them once, in the order of the ids."""
        return list(dict.fromkeys([*self.named().values(), *self.additional]))


DEFAULT_SPECIAL = {
    "bpe": SpecialTokens(eos_token="<|endoftext|>", pad_token="<|pad|>"),
    "unigram": SpecialTokens(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"),
    "sentencepiece-bpe": SpecialTokens(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"),
    "wordpiece": SpecialTokens(
        unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]"
    ),
}


# Settings that a kind has no use for.
UNUSED: dict[Kind, tuple[str, ...]] = {
    "bpe": ("character_coverage", "limit_alphabet"),
    "unigram": ("min_frequency", "limit_alphabet"),
    "sentencepiece-bpe": ("min_frequency", "limit_alphabet"),
    "wordpiece": ("split_digits", "max_piece_length", "character_coverage"),
}


class TokenizerConfig(Config):
    """The settings of ``tunesmith tokenizer train --settings``."""

    special_tokens: SpecialTokens | None = None
    """Empty: the usual ones of the kind."""
    chat_template: str | None = None
    """Jinja, as transformers renders it."""
    normalizer: list[Literal["nfc", "nfd", "nfkc", "nfkd", "lowercase", "strip_accents"]] = []
    """Applied in this order before all else; any of them makes the round trip lossy."""
    split_digits: bool = False
    """No piece holds two digits; WordPiece has no such rule."""
    add_bos: bool = False
    """Put bos_token before every text."""
    add_eos: bool = False
    """Put eos_token behind every text."""
    min_frequency: int = Field(2, ge=1)
    """A pair of BPE or WordPiece is joined only if it occurs this often."""
    max_piece_length: int = Field(32, ge=2, le=512)
    """Most characters of a piece; bytes in byte-level BPE."""
    character_coverage: float = Field(0.9995, ge=0.98, le=1)
    """SentencePiece: share of the text's characters that get pieces; the rest is spelled in bytes."""
    limit_alphabet: int = Field(1000, ge=1)
    """WordPiece: characters kept, the most frequent first; a word with another one is unknown."""
    model_max_length: int | None = Field(None, ge=8)
    """Most tokens the model will read, noted for transformers."""

    @model_validator(mode="after")
    def _tokens_exist(self) -> TokenizerConfig:
        tokens = self.special_tokens
        if tokens is not None:
            for wish, name in ((self.add_bos, "bos_token"), (self.add_eos, "eos_token")):
                if wish and getattr(tokens, name) is None:
                    raise ValueError(f"{name} is to be added to every text, but special_tokens names none")
            if empty := [text for text in tokens.texts() if not text.strip()]:
                raise ValueError(f"a special token is empty or blank: {empty[0]!r}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTokenizer:
    """The tokenizer and what is to be said of it; lossless: every Unicode string comes back as it was."""

    tokenizer: Any
    kind: Kind
    vocab_size: int
    lossless: bool
    notes: list[str]


def train_tokenizer(kind: Kind, vocab_size: int, texts: Texts, config: TokenizerConfig) -> TrainedTokenizer:
    """Train on the texts, which are asked for once or twice and never held all at once.

    Equal texts and settings give equal files, whatever the number of threads. Raises ConfigError where the vocabulary
    has no room for special tokens and alphabet, for a setting the kind has no use for, and for a chat template that
    does not render.
    """
    special = config.special_tokens or DEFAULT_SPECIAL[kind]
    _refuse_unused(kind, special, config)
    if kind != "bpe" and special.unk_token is None:
        raise ConfigError("special_tokens.unk_token", f"{kind} needs one.", "Name it, for example <unk>.")
    normal = normalizers.Sequence([_NORMALISERS[name]() for name in config.normalizer]) if config.normalizer else None
    prepared = texts if normal is None else lambda: (normal.normalize_str(text) for text in texts())
    if kind == "bpe":
        backend = _train_byte_level(vocab_size, prepared(), special, config)
    elif kind == "wordpiece":
        backend = _train_wordpiece(vocab_size, prepared, special, config)
    else:
        backend = train_sentencepiece(
            kind,
            vocab_size,
            prepared(),
            special=special.texts(),
            unk_token=str(special.unk_token),
            character_coverage=config.character_coverage,
            max_piece_length=config.max_piece_length,
            split_digits=config.split_digits,
        )
    if normal is not None:
        own = backend.normalizer
        backend.normalizer = normalizers.Sequence([normal, own] if own is not None else [normal])
    # One token may stand for several kinds (GPT-2 ends and pads with the same).
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special.texts()])
    _add_around(backend, special, config, kind)
    tokenizer = _wrap(backend, special, config)
    size, notes = len(tokenizer), []
    if size < vocab_size:
        notes.append(f"the text gives only {size} tokens of the {vocab_size} asked for.")
    if config.normalizer:
        notes.append(f"not lossless: the normaliser ({', '.join(config.normalizer)}) changes text.")
    if kind == "wordpiece":
        notes.append("not lossless: WordPiece forgets how words were spaced and has no bytes for unknown characters.")
    return TrainedTokenizer(
        tokenizer=tokenizer,
        kind=kind,
        vocab_size=size,
        lossless=not config.normalizer and kind != "wordpiece",
        notes=notes,
    )


def _refuse_unused(kind: Kind, special: SpecialTokens, config: TokenizerConfig) -> None:
    """Raise ConfigError for a setting that was given and would be ignored in silence."""
    idle = [name for name in UNUSED[kind] if name in config.model_fields_set]
    if kind == "wordpiece" and special.cls_token and special.sep_token:
        idle += [name for name in ("add_bos", "add_eos") if getattr(config, name)]
    if idle:
        raise ConfigError(idle[0], f"has no meaning for {kind}.", "Take it out of the settings.")
    for wish, name in ((config.add_bos, "bos_token"), (config.add_eos, "eos_token")):
        if wish and getattr(special, name) is None:
            raise ConfigError(
                f"special_tokens.{name}", f"is to be added to every text, but {kind} has none.", "Name it."
            )


def _require_room(vocab_size: int, num_special: int, num_symbols: int, what: str) -> None:
    if vocab_size < num_special + num_symbols:
        raise ConfigError(
            "vocab-size",
            f"{vocab_size} is too small: {num_special} special tokens and {num_symbols} {what} need "
            f"{num_special + num_symbols} before the first merge.",
            f"Ask for more than {num_special + num_symbols}.",
        )


def _train_byte_level(
    vocab_size: int, texts: Iterable[str], special: SpecialTokens, config: TokenizerConfig
) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _require_room(vocab_size, len(special.texts()), len(alphabet), "bytes")
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if config.split_digits else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level]) if digits else byte_level
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=special.texts(),
        initial_alphabet=alphabet,
        max_token_length=config.max_piece_length,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_wordpiece(vocab_size: int, texts: Texts, special: SpecialTokens, config: TokenizerConfig) -> Tokenizer:
    unk, before = str(special.unk_token), pre_tokenizers.BertPreTokenizer()
    clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    characters: dict[str, int] = {}
    for text in texts():
        for word, _ in before.pre_tokenize_str(clean.normalize_str(text)):
            for character in word:
                characters[character] = characters.get(character, 0) + 1
    kept = sorted(sorted(characters, key=lambda c: (-characters[c], c))[: config.limit_alphabet])
    # The trainer numbers "##x" in the order of a hash table; given here as fixed tokens, every run numbers them alike.
    symbols = [*kept, *(f"##{character}" for character in kept)]
    _require_room(vocab_size, len(special.texts()), len(symbols), "characters, inside and at the start of words,")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*special.texts(), *symbols],
        initial_alphabet=kept,
        limit_alphabet=config.limit_alphabet,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token=unk))
    learner.normalizer, learner.pre_tokenizer = clean, before
    learner.train_from_iterator(texts(), trainer)
    backend = Tokenizer(
        models.WordPiece(
            vocab=learner.get_vocab(with_added_tokens=True),
            unk_token=unk,
            continuing_subword_prefix="##",
            max_input_chars_per_word=100,
        )
    )
    backend.normalizer, backend.pre_tokenizer = clean, before
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return backend


def _add_around(backend: Tokenizer, special: SpecialTokens, config: TokenizerConfig, kind: Kind) -> None:
    """What the tokenizer puts around a text by itself: bos and eos where asked, BERT's pair where there is one."""
    first = special.bos_token if config.add_bos else None
    last = special.eos_token if config.add_eos else None
    if kind == "wordpiece" and special.cls_token and special.sep_token:
        first, last = special.cls_token, special.sep_token
    around = [token for token in (first, last) if token is not None]
    if around:
        one = [part for part in (first, "$A", last) if part is not None]
        two = [*one, *(["$B:1", f"{last}:1"] if last else ["$B:1"])]
        backend.post_processor = processors.TemplateProcessing(
            single=one, pair=two, special_tokens=[(token, backend.token_to_id(token)) for token in around]
        )


def _wrap(backend: Tokenizer, special: SpecialTokens, config: TokenizerConfig) -> Any:
    named = special.named()
    length = {} if config.model_max_length is None else {"model_max_length": config.model_max_length}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=[text for text in special.additional if text not in named.values()],
        clean_up_tokenization_spaces=False,
        chat_template=config.chat_template,
        **named,
        **length,
    )
    if config.chat_template is not None:
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        except TEMPLATE_ERRORS as error:
            raise ConfigError("chat_template", f"does not render: {error}.", "Correct the template.") from None
    return tokenizer


def save_tokenizer(trained: TrainedTokenizer, folder: Path) -> list[str]:
    """Write the tokenizer where AutoTokenizer finds it; the names of the files. Raises RunError for a folder in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(folder, "is not an empty folder.", "Name a new one; nothing is overwritten.")
    folder.mkdir(parents=True, exist_ok=True)
    trained.tokenizer.save_pretrained(folder)
    return sorted(path.name for path in folder.iterdir())
