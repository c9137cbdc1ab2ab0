"""New tokens for a domain: a BPE vocabulary's training is taken up where it stopped, on the domain's text.

Each new token is the pair of neighbouring tokens that stands most often in the words of the text under the vocabulary
so far, so the tokens a choice saves are counted, not estimated, and every choice sees what the earlier ones did. The
new merges rank behind all old ones: old tokens are made exactly as before and only then joined further. (Tokens put
into a tokenizer's list of added tokens would match inside longer words and cut them apart differently.)
"""

from __future__ import annotations

import heapq
import itertools
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tunesmith.errors import DataError, ModelError

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """token: as the vocabulary writes it, left + right; num_saved: tokens it took out of the text when chosen."""

    token: str
    left: str
    right: str
    num_saved: int


def count_words(texts: Iterable[str], tokenizer: Any) -> dict[tuple[str, ...], int]:
    """Words of the texts, each as the tokens the old vocabulary makes of it -> how often it occurs.

    A word is what the tokenizer's own pre-tokenizer cuts, with its leading space; where it cuts nothing, the text is
    cut before each ▁. Raises ModelError when the vocabulary is not BPE.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    kind = json.loads(backend.to_str())["model"]["type"] if backend is not None else type(tokenizer).__name__
    if kind != "BPE":
        raise ModelError(
            str(tokenizer.name_or_path or "tokenizer"),
            f"its vocabulary is {kind}; only BPE can be extended, since only there new merges leave old tokens alone.",
            "Use a base with a BPE vocabulary (Llama, Mistral, Qwen, GPT-2, SmolLM).",
        )
    counts: Counter[str] = Counter()
    for text in texts:
        normalised = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
        if backend.pre_tokenizer is not None:
            counts.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalised))
        else:
            counts.update(_cut_before_space_marks(normalised))
    words: dict[tuple[str, ...], int] = defaultdict(int)
    for word, count in counts.items():
        words[tuple(token.value for token in backend.model.tokenize(word))] += count
    return dict(words)


def _cut_before_space_marks(text: str) -> list[str]:
    words, start = [], 0
    for i in range(1, len(text)):
        if text[i] == "▁" and text[i - 1] != "▁":
            words.append(text[start:i])
            start = i
    return [*words, text[start:]]


def choose_tokens(
    words: Mapping[tuple[str, ...], int], num_tokens: int, known: Iterable[str], *, min_count: int = 2
) -> list[NewToken]:
    """At most ``num_tokens`` new tokens, in the order of choice, none that saves fewer than ``min_count`` tokens.

    words: tokens of a word -> its count. known: the vocabulary, whose tokens are not made twice. Ties go to the pair
    that comes first by code points, so equal texts give equal tokens. Source: Sennrich et al. 2016, arXiv:1508.07909.
    """
    taken, split = set(known), [list(word) for word in words]
    times = list(words.values())
    pairs: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(split):
        _add_pairs(word, index, times[index], pairs, places)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    chosen: list[NewToken] = []
    while heap and len(chosen) < num_tokens:
        negative, pair = heapq.heappop(heap)
        token, count = pair[0] + pair[1], pairs[pair]
        if count != -negative:
            if count >= min_count:
                heapq.heappush(heap, (-count, pair))
            continue
        if count < min_count:
            break
        if token in taken:
            continue
        before, touched = sum(times[i] * len(split[i]) for i in places[pair]), list(places[pair])
        changed: set[Pair] = set()
        for index in touched:
            changed |= _join(split[index], index, times[index], pair, token, pairs, places)
        saved = before - sum(times[i] * len(split[i]) for i in touched)
        for near in changed:
            heapq.heappush(heap, (-pairs[near], near))
        taken.add(token)
        chosen.append(NewToken(token=token, left=pair[0], right=pair[1], num_saved=saved))
    return chosen


def _add_pairs(
    word: list[str], index: int, times: int, pairs: Counter[Pair], places: dict[Pair, set[int]]
) -> set[Pair]:
    found = set(itertools.pairwise(word))
    for pair in itertools.pairwise(word):
        pairs[pair] += times
    for pair in found:
        places[pair].add(index)
    return found


def _join(
    word: list[str],
    index: int,
    times: int,
    pair: Pair,
    token: str,
    pairs: Counter[Pair],
    places: dict[Pair, set[int]],
) -> set[Pair]:
    """Join a pair wherever it stands in one word, from the left, and count the word's pairs anew."""
    for old in itertools.pairwise(word):
        pairs[old] -= times
        places[old].discard(index)
    joined: list[str] = []
    i = 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            joined.append(token)
            i += 2
        else:
            joined.append(word[i])
            i += 1
    word[:] = joined
    return _add_pairs(word, index, times, pairs, places)


def extend_tokenizer(tokenizer: Any, tokens: Iterable[NewToken]) -> tuple[Any, dict[int, list[int]]]:
    """A tokenizer with the new tokens behind all others, and new id -> ids of the old tokens it is made of.

    The old tokenizer is left as it is. Raises ModelError when AutoTokenizer, reading what was saved, would move an old
    id or not make a new token.
    """
    tokens = list(tokens)
    if not tokens:
        raise DataError("files", "no pair of tokens occurs often enough to save any.", "Give more text of the domain.")
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    old, model = tokenizer.get_vocab(), tree["model"]
    # A model vocabulary that ends before the added tokens would hand their ids to the new ones when it is read again.
    model["vocab"].update({added["content"]: added["id"] for added in tree["added_tokens"]})
    made_of: dict[str, list[int]] = {}
    first_id = max(old.values()) + 1
    for new_id, new in enumerate(tokens, first_id):
        model["vocab"][new.token] = new_id
        model["merges"].append([new.left, new.right])
        made_of[new.token] = [
            i for part in (new.left, new.right) for i in (made_of[part] if part in made_of else [old[part]])
        ]
    with tempfile.TemporaryDirectory(prefix="tunesmith-tokenizer-") as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for stale in ("vocab.json", "merges.txt", "tokenizer.model"):
            (folder / stale).unlink(missing_ok=True)
        Tokenizer.from_str(json.dumps(tree)).save(str(folder / "tokenizer.json"))
        shutil.rmtree(folder / "original", ignore_errors=True)
        extended = AutoTokenizer.from_pretrained(folder)
    vocab = extended.get_vocab()
    moved = [token for token, i in old.items() if vocab.get(token) != i]
    if moved or any(vocab.get(new.token) != i for i, new in enumerate(tokens, first_id)):
        raise ModelError(
            str(tokenizer.name_or_path or "tokenizer"),
            f"its class {type(tokenizer).__name__} does not keep new merges ({len(moved)} old ids moved).",
            "Save it as a plain tokenizer.json first.",
        )
    return extended, {first_id + k: ids for k, ids in enumerate(made_of.values())}
