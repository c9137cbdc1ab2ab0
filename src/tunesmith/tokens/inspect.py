"""What a tokenizer does to a text, step by step: for BPE, SentencePiece and WordPiece, and for two baselines.

Pieces and ids always come from the library that owns the file; the steps are replayed here and checked against them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tunesmith.errors import ModelError
from tunesmith.tokens.replay import best_pairs, greedy_longest, visible

BASELINES = ("words", "characters")
_PICTURED = re.compile(r"\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """text: as the vocabulary writes it; shown: readable, spaces as ▁; known False: the vocabulary cannot say it."""

    text: str
    id: int | None
    shown: str
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One pre-token: what was cut out of the text, the pieces it became, and how, a line a step."""

    text: str
    pieces: tuple[str, ...]
    how: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A text on its way: normalised, spaces marked, cut into words, made pieces; notes say what holds for the whole."""

    normalised: str
    words: tuple[Word, ...]
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = field(default=())


class Inspector(Protocol):
    """A tokenizer that can say what it does."""

    name: str
    family: str

    def pieces(self, text: str) -> list[Piece]:
        """The pieces of a text, no special token added."""
        ...

    def steps(self, text: str) -> Steps:
        """The whole way of a text."""
        ...


class Baseline:
    """``words``: what stands between spaces; ``characters``: Unicode code points. They have no vocabulary."""

    def __init__(self, name: str) -> None:
        self.name, self.family = name, "baseline"

    def pieces(self, text: str) -> list[Piece]:
        parts = _PICTURED.findall(text) if self.name == "words" else list(text)
        return [Piece(text=part, id=None, shown=visible(part)) for part in parts]

    def steps(self, text: str) -> Steps:
        return Steps(normalised=text, words=(), pieces=tuple(self.pieces(text)))


class SentencePieceInspector:
    """A .model file, through SentencePiece's own library."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ModelError(path, f"is not a SentencePiece model ({error}).", "Check the file.") from None
        normal = [i for i in range(self.processor.vocab_size()) if self._is_normal(i)]
        # A BPE model's scores are 0, -1, -2 ...: its merge order; a unigram model's are log-probabilities.
        self.is_bpe = all(float(self.processor.get_score(i)).is_integer() for i in normal)
        self.family = "SentencePiece BPE" if self.is_bpe else "SentencePiece unigram"
        self._scores = {self.processor.id_to_piece(i): self.processor.get_score(i) for i in normal}

    def _is_normal(self, i: int) -> bool:
        p = self.processor
        return not (p.is_control(i) or p.is_unknown(i) or p.is_byte(i) or p.is_unused(i))

    def pieces(self, text: str) -> list[Piece]:
        """What the library makes of the text."""
        ids = self.processor.encode(text)
        surfaces = self.processor.encode(text, out_type=str)
        return [
            Piece(text=surface, id=i, shown=visible(surface), known=not self.processor.is_unknown(i))
            for i, surface in zip(ids, surfaces, strict=True)
        ]

    def steps(self, text: str) -> Steps:
        """The normalised text, its pieces with their scores or merges, and the next best segmentations."""
        normalised, pieces = self.processor.normalize(text), self.pieces(text)
        surfaces = [piece.text for piece in pieces]
        if self.is_bpe:
            how = best_pairs(list(normalised), lambda a, b: _negated(self._scores.get(a + b)))[1]
            return Steps(normalised=normalised, words=(_word(normalised, surfaces, how),), pieces=tuple(pieces))
        notes = [f"score (log-probability) of the segmentation: {self._score(surfaces):.3f}"]
        for number, other in enumerate(self.processor.nbest_encode_as_pieces(text, 3)[1:] if text else [], 2):
            notes.append(f"{_ordinal(number)} best: {' '.join(map(visible, other))} ({self._score(other):.3f})")
        how = [f"{visible(piece)} {self._scores[piece]:.3f}" for piece in surfaces if piece in self._scores]
        words = (_word(normalised, surfaces, how),)
        return Steps(normalised=normalised, words=words, pieces=tuple(pieces), notes=tuple(notes))

    def _score(self, pieces: Sequence[str]) -> float:
        # What the model does not know costs ten more than its rarest piece (SentencePiece's kUnkPenalty).
        unknown = min(self._scores.values()) - 10
        return sum(self._scores.get(piece, unknown) for piece in pieces)


def _negated(score: float | None) -> float | None:
    return None if score is None else -score


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}[number]


def _word(text: str, pieces: Sequence[str], how: Sequence[str]) -> Word:
    return Word(text=visible(text), pieces=tuple(map(visible, pieces)), how=tuple(how))


class FastInspector:
    """Anything the ``tokenizers`` library runs: BPE, unigram, WordPiece, word level."""

    def __init__(self, name: str, backend: Tokenizer) -> None:
        self.name, self.backend = name, backend
        # How the last user wanted batches padded and cut is kept in the file, and is not part of the text.
        backend.no_padding()
        backend.no_truncation()
        tree = json.loads(backend.to_str())
        self.model: dict[str, Any] = tree["model"]
        self.byte_level = "ByteLevel" in json.dumps([tree["pre_tokenizer"], tree["normalizer"], tree["decoder"]])
        kind = self.model["type"]
        self.family = {"BPE": "byte-level BPE" if self.byte_level else "BPE", "Unigram": "unigram"}.get(kind, kind)
        self._ranks: dict[tuple[str, str], int] = {}
        if kind == "BPE":
            pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in self.model["merges"]]
            self._ranks = {(a, b): rank for rank, (a, b) in enumerate(pairs)}
        self._scores = dict(self.model["vocab"]) if kind == "Unigram" else {}
        added = sorted((token["content"] for token in tree["added_tokens"]), key=len, reverse=True)
        self._added = re.compile("(" + "|".join(map(re.escape, added)) + ")") if added else None
        self._unknown = self._unknown_id()

    def _unknown_id(self) -> int | None:
        if self.model["type"] == "Unigram":
            unknown = self.model.get("unk_id")
            return None if unknown is None else int(unknown)
        token = self.model.get("unk_token")
        return None if token is None else self.backend.token_to_id(token)

    def pieces(self, text: str) -> list[Piece]:
        """What the library makes of the text, special tokens in it taken whole."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return [
            Piece(text=token, id=i, shown=self._shown(token), known=i != self._unknown)
            for token, i in zip(encoding.tokens, encoding.ids, strict=True)
        ]

    def _shown(self, token: str) -> str:
        if self.byte_level:
            return _from_byte_letters(token)
        return visible(token)

    def steps(self, text: str) -> Steps:
        """Normaliser, pre-tokenizer and model, one after the other, with the model's steps on each word."""
        parts = [text] if self._added is None else [part for part in self._added.split(text) if part]
        words, normalised = [], []
        for part in parts:
            if self._added is not None and self._added.fullmatch(part):
                words.append(Word(text=visible(part), pieces=(visible(part),), how=("added token, taken whole",)))
                normalised.append(part)
                continue
            clean = self.backend.normalizer.normalize_str(part) if self.backend.normalizer is not None else part
            normalised.append(clean)
            before = self.backend.pre_tokenizer
            cut = [word for word, _ in before.pre_tokenize_str(clean)] if before is not None else [clean]
            words.extend(map(self._explain, cut))
        notes: tuple[str, ...] = ()
        pieces = tuple(self.pieces(text))
        if self._scores:
            total = sum(self._scores.get(piece.text, 0.0) for piece in pieces)
            notes = (f"score (log-probability) of the segmentation: {total:.3f}",)
        return Steps(normalised="".join(normalised), words=tuple(words), pieces=pieces, notes=notes)

    def _explain(self, word: str) -> Word:
        tokens = [token.value for token in self.backend.model.tokenize(word)]
        how: list[str] = []
        if self.model["type"] == "BPE":
            if self.model.get("ignore_merges") and word in self.model["vocab"]:
                how = ["the whole word is in the vocabulary"]
            else:
                how = best_pairs(list(word), lambda a, b: self._ranks.get((a, b)), self._shown)[1]
        elif self.model["type"] == "WordPiece":
            how = greedy_longest(word, self.model["vocab"], self.model["continuing_subword_prefix"])
        elif self._scores:
            how = [f"{visible(token)} {self._scores[token]:.3f}" for token in tokens if token in self._scores]
        return Word(text=self._shown(word), pieces=tuple(map(self._shown, tokens)), how=tuple(how))


_LETTERS: dict[str, int] = {}


def _from_byte_letters(token: str) -> str:
    """A byte-level token as text, bytes that are no whole character as <E2 80>."""
    if not _LETTERS:
        # GPT-2 writes printable Latin-1 bytes as themselves and the others, in order, as the letters from U+0100.
        own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        other = [b for b in range(256) if b not in set(own)]
        _LETTERS.update({chr(b): b for b in own} | {chr(0x100 + n): b for n, b in enumerate(other)})
    if any(letter not in _LETTERS for letter in token):
        return visible(token)
    data = bytes(_LETTERS[letter] for letter in token)
    try:
        return visible(data.decode())
    except UnicodeDecodeError:
        return f"<{data.hex(' ').upper()}>"


def open_inspector(source: str) -> Inspector:
    """words, characters, a folder of tokenizer files, or one of them: tokenizer.json, *.model, vocab.txt.

    Raises ModelError where nothing of it is there or readable.
    """
    if source in BASELINES:
        return Baseline(source)
    path = Path(source).expanduser()
    if not path.exists():
        raise ModelError(source, "no such file or folder.", "Check the path.")
    for names, opener in _FORMATS.items():
        files = [path / name for name in names] if path.is_dir() else [path] * (path.name in names)
        if path.is_file() and path.suffix == ".model" and names == ("*.model",):
            files = [path]
        if path.is_dir() and names == ("*.model",):
            files = sorted(path.glob("*.model"))[:1]
        if files and all(file.is_file() for file in files):
            try:
                return opener(path.name if path.is_file() else path.resolve().name, files)
            except ModelError:
                raise
            # The library raises plain Exception for a file it cannot read.
            except Exception as error:
                raise ModelError(path, f"cannot be read ({str(error).splitlines()[0]}).", "Check the file.") from None
    raise ModelError(
        source,
        "holds no tokenizer that can be read.",
        "Name a folder or file: tokenizer.json, encoder.json with vocab.bpe, vocab.json with merges.txt, *.model, "
        "vocab.txt.",
    )


def _gpt2(name: str, files: Sequence[Path]) -> Inspector:
    backend = Tokenizer(models.BPE.from_file(str(files[0]), str(files[1])))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return FastInspector(name, backend)


def _bert(name: str, files: Sequence[Path]) -> Inspector:
    vocab = {line: i for i, line in enumerate(files[0].read_text(encoding="utf-8").splitlines())}
    if "[UNK]" not in vocab:
        raise ModelError(files[0], "has no [UNK], so it is no WordPiece vocabulary.", "Check the file.")
    # The published uncased vocabularies hold no capital letter.
    uncased = "A" not in vocab
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=uncased, strip_accents=uncased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return FastInspector(name, backend)


_FORMATS: Mapping[tuple[str, ...], Callable[[str, Sequence[Path]], Inspector]] = {
    ("tokenizer.json",): lambda name, files: FastInspector(name, Tokenizer.from_file(str(files[0]))),
    ("encoder.json", "vocab.bpe"): _gpt2,
    ("vocab.json", "merges.txt"): _gpt2,
    ("*.model",): lambda name, files: SentencePieceInspector(files[0]),
    ("vocab.txt",): _bert,
}
