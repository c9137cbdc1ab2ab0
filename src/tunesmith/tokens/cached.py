"""Rendered rows kept between runs under a digest of all they are made of: rows, settings, tokenizer, template, code.

The folder is private to its user, since it holds what the rows say; ``data.cache: false`` keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.records import Conversation, Document
from tunesmith.tokens.render import RenderConfig
from tunesmith.tokens.store import RenderReport, TokenStore, build_store
from tunesmith.tokens.text_to_text import text_to_text_of

REPORT_FILE = "report.json"
# The least recently used go first once all together are larger.
MAX_BYTES = 2 << 30
# What a killed run left half made; no run renders for so long.
STALE_SECONDS = 86_400.0


def cached_store(
    records: Iterable[Conversation | Document],
    tokenizer: Any,
    config: RenderConfig,
    *,
    max_tokens: int,
    made_of: Mapping[str, Any],
    cache: Path,
    fallback: Path,
    confirm: Callable[[], None],
) -> tuple[TokenStore, RenderReport]:
    """``build_store`` once for everything in ``made_of``; where ``cache`` cannot be written, in ``fallback``.

    made_of: JSON values that tell these records and this tokenizer from all others; versions, code, ``config`` and
    ``max_tokens`` are added here. confirm: called once the rows are rendered, raises where they are no longer what
    ``made_of`` says. Raises what ``build_store`` and ``confirm`` raise.
    """
    target = cache / token_key(made_of, config, max_tokens)
    if (known := _open(target)) is not None:
        return known
    work = cache / f".{target.name}.tmp-{os.getpid()}"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        work.mkdir(mode=0o700)
        store, report = build_store(records, tokenizer, config, work, max_tokens=max_tokens)
        confirm()
        # asdict would rebuild the counter from its pairs, and count those.
        facts = {**asdict(replace(report, dropped=Counter())), "dropped": dict(report.dropped)}
        text = json.dumps({"files": store.files, "report": facts})
        (work / REPORT_FILE).write_text(text, encoding="utf-8")
        _move(work, target)
        _forget_oldest(cache, keep=target)
    except TunesmithError:
        raise
    except OSError:
        # A full or read-only disk costs the time of rendering anew, not the run.
        return build_store(records, tokenizer, config, fallback, max_tokens=max_tokens)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return TokenStore(target, store.files), report


def token_key(made_of: Mapping[str, Any], config: RenderConfig, max_tokens: int) -> str:
    """A name (32 hexadecimal digits) that differs wherever the tokens could."""
    facts = {
        **made_of,
        "max_length": config.max_length,
        "over_length": config.over_length,
        "max_tokens": max_tokens,
        "versions": {name: version(name) for name in ("jinja2", "tokenizers", "transformers")},
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _code_digest() -> str:
    """SHA-256 of the code that reads, splits and renders rows: a version number could be forgotten."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    alone = [here.parent / name for name in ("records.py", "randomness.py")]
    for file in sorted([*here.glob("*.py"), *(here.parent / "data").glob("*.py"), *alone]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """What a loaded tokenizer does beyond its vocabulary, as JSON values for ``made_of``.

    Models may share the file of the vocabulary and differ in another one, such as the token that ends a turn.
    """
    return {
        "class": type(tokenizer).__qualname__,
        "chat_template": tokenizer.chat_template,
        "special_tokens": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "added_tokens": {str(number): repr(token) for number, token in tokenizer.added_tokens_decoder.items()},
        # A space in front, one inside, and a bos or eos that is put around.
        "probe": [list(tokenizer(text)["input_ids"]) for text in ("a", " a  a\n", "A")],
        "text_to_text": repr(text_to_text_of(tokenizer)),
    }


def depends_on_the_day(tokenizer: Any) -> bool:
    """Whether the chat template writes the date, so that the same rows have other tokens tomorrow."""
    return "strftime_now" in json.dumps(tokenizer.chat_template, default=str)


def _open(target: Path) -> tuple[TokenStore, RenderReport] | None:
    """A store that is whole, marked as used just now; None for one that is absent or damaged."""
    try:
        saved = json.loads((target / REPORT_FILE).read_text(encoding="utf-8"))
        report = RenderReport(**{**saved["report"], "dropped": Counter(saved["report"]["dropped"])})
        store = TokenStore(target, saved["files"])
        if len(store) != report.num_examples or store.num_tokens != report.num_tokens:
            return None
        os.utime(target)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return store, report


def _move(work: Path, target: Path) -> None:
    """Give a finished store its name; of two processes that made the same one, either's will do."""
    if target.exists() and _open(target) is None:
        shutil.rmtree(target)
    with contextlib.suppress(FileExistsError):
        if not target.exists():
            work.rename(target)


def _forget_oldest(cache: Path, keep: Path) -> None:
    for path in cache.glob(".*.tmp-*"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
    entries = [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]
    entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in entries:
        total += sum(file.stat().st_size for file in path.glob("*"))
        if total > MAX_BYTES and path != keep:
            shutil.rmtree(path, ignore_errors=True)
