"""New tokens for a domain's language: choose, add, train their rows beside a LoRA adapter, measure bits per byte.

Read top to bottom: texts and their split, the new tokens, before, training, after. ``num_tokens=0`` is the control: the
same texts, steps and measure with LoRA alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.data.load import DataConfig
from tunesmith.data.texts import iter_texts
from tunesmith.errors import DataError, ModelError, RunError
from tunesmith.evals.bits import BitsPerByte, bits_per_byte
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.extended import add_token_rows
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed
from tunesmith.recipes.prepare import ADAPTER_NAME, SFTConfig
from tunesmith.recipes.sft import Trained, train
from tunesmith.runs import RECORD_FILE, atomic_write_text
from tunesmith.stats import Interval, bootstrap_paired_difference
from tunesmith.tokens.extend import NewToken, choose_tokens, count_words, extend_tokenizer
from tunesmith.tokens.render import RenderConfig
from tunesmith.training.schedule import TrainConfig

REPORT_FILE = "extension.json"
Say = Callable[[str], None]


class ExtendConfig(ModelConfig, RenderConfig, TrainConfig):
    """Which text, how many new tokens, and how their rows and the adapter are trained."""

    files: list[str] = Field(min_length=1)
    """Texts of the domain: any file the data verbs read; all strings of a row are texts."""
    fields: list[str] = []
    """Only these columns of the rows."""
    num_tokens: int = Field(500, ge=0)
    """New tokens at most; 0 trains LoRA alone, for comparison."""
    min_count: int = Field(2, ge=1)
    """A new token must save at least this many tokens of the training texts."""
    validation_share: float = Field(0.1, gt=0, lt=0.5)
    """Share of the different texts that choose the step whose weights are kept."""
    test_share: float = Field(0.1, gt=0, lt=0.5)
    """Share of the different texts that neither chooses tokens nor trains; bits per byte are measured on it."""
    adapter: AdapterConfig = AdapterConfig()
    """The LoRA matrices trained beside the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The three parts of the different texts, each in the files' order."""

    train: list[str]
    validation: list[str]
    test: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """What came of it; tokens are counted on the test texts. difference: bits/byte after - before, over texts."""

    trained: Trained
    tokens: list[NewToken]
    before: BitsPerByte
    added: BitsPerByte
    after: BitsPerByte
    difference: Interval

    @property
    def saved_share(self) -> float:
        """Share of the test texts' tokens that the new vocabulary saves."""
        return 1 - self.added.num_tokens / self.before.num_tokens

    def as_dict(self) -> dict[str, Any]:
        """For --json and extension.json."""
        return {
            "num_tokens": len(self.tokens),
            "test_texts": len(self.before.bits_N),
            "test_bytes": sum(self.before.bytes_N),
            "test_tokens": {"before": self.before.num_tokens, "after": self.added.num_tokens},
            "tokens_saved_share": self.saved_share,
            "bits_per_byte": {"before": self.before.value, "added": self.added.value, "trained": self.after.value},
            "difference_of_texts": [self.difference.value, self.difference.low, self.difference.high],
            "tokens": [{"token": t.token, "made_of": [t.left, t.right], "saved": t.num_saved} for t in self.tokens],
            "training": self.trained.as_dict(),
        }


def split_texts(config: ExtendConfig) -> Texts:
    """Different texts by a hash of (seed, text): copies stay together, the order of the files has no say."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for text, _ in iter_texts(config.files, config.fields):
        if text in seen:
            continue
        seen.add(text)
        place = derive_seed(config.seed, "extend_split", text) / 2**63
        held = config.test_share + config.validation_share
        parts["test" if place < config.test_share else "validation" if place < held else "train"].append(text)
    if empty := [name for name, texts in parts.items() if not texts]:
        raise DataError(
            ", ".join(config.files),
            f"{len(seen)} different texts leave no {empty[0]} text.",
            "Give more texts (a .txt file's documents stand apart by two blank lines), or raise the shares.",
        )
    return Texts(**parts)


def extend(config: ExtendConfig, *, base: Base | None = None, say: Say = print) -> Extended:
    """Run the recipe; the adapter, its tokenizer, the split texts and extension.json lie in ``output_dir``.

    The base may be shared: it is neither resized nor changed. Raises DataError and ModelError for texts and bases that
    cannot be extended.
    """
    _refuse_used_folder(config)
    texts = split_texts(config)
    base = base or load_base(config)
    if base.is_encoder_decoder:
        raise ModelError(base.resolved.name, "is an encoder-decoder model: raw text cannot train it.", "Use another.")
    for note in base.notes:
        say(note)
    # One limit for the base and for the adapter, which may put virtual tokens before a text.
    context = base.context_tokens - config.adapter.num_virtual
    limit = min(config.max_length or context, context)
    tokens = _add_tokens(config, base, texts.train, say) if config.num_tokens else []

    def measure(adapter: str | None) -> BitsPerByte:
        return bits_per_byte(base, adapter, texts.test, max_tokens=limit, micro_batch_tokens=config.micro_batch_tokens)

    before = measure(None)
    say(f"base: {before.value:.4f} bits/byte over {len(texts.test)} test texts, {before.num_tokens} tokens")
    added = measure(ADAPTER_NAME) if tokens else before
    if tokens:
        share = 1 - added.num_tokens / before.num_tokens
        say(f"tokens added, untrained: {added.value:.4f} bits/byte, {added.num_tokens} tokens ({share:.1%} saved)")
    trained = train(_sft_config(config, texts), base=base)
    after = added if trained.interrupted else measure(ADAPTER_NAME)
    result = Extended(
        trained=trained,
        tokens=tokens,
        before=before,
        added=added,
        after=after,
        difference=bootstrap_paired_difference(before.each_N, after.each_N, config.seed),
    )
    if not trained.interrupted:
        report = json.dumps(result.as_dict(), indent=2, ensure_ascii=False)
        atomic_write_text(Path(config.output_dir) / REPORT_FILE, report + "\n")
    return result


def _refuse_used_folder(config: ExtendConfig) -> None:
    """Before minutes of measuring, and before another run's texts are written over."""
    going_on = config.overwrite_output_dir or config.resume_from_checkpoint is not None
    if (Path(config.output_dir) / RECORD_FILE).exists() and not going_on:
        raise RunError(
            config.output_dir,
            "already holds a run.",
            "Choose another --output, resume_from_checkpoint=auto to go on, or overwrite_output_dir=true.",
        )


def _add_tokens(config: ExtendConfig, base: Base, texts: list[str], say: Say) -> list[NewToken]:
    words = count_words(texts, base.tokenizer)
    tokens = choose_tokens(words, config.num_tokens, base.tokenizer.get_vocab(), min_count=config.min_count)
    tokenizer, made_of = extend_tokenizer(base.tokenizer, tokens)
    rows = add_token_rows(base, ADAPTER_NAME, tokenizer, made_of)
    if len(tokens) < config.num_tokens:
        say(f"only {len(tokens)} of {config.num_tokens} tokens would save {config.min_count} tokens or more.")
    what = "one row each, shared by embedding and head" if rows.tied else "one row each in embedding and head"
    path = "our kernels" if base.decoder is not None else f"the plain reference path: {base.reference_reason}"
    say(f"{len(tokens)} new tokens from {len(texts)} training texts ({what}), trained on {path}")
    return tokens


def _sft_config(config: ExtendConfig, texts: Texts) -> SFTConfig:
    """The training of it as plain continued training; the texts are written into the run, so that it can resume."""
    folder = Path(config.output_dir) / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", texts.train), ("validation", texts.validation), ("test", texts.test)):
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part]
        atomic_write_text(folder / f"{name}.jsonl", "".join(lines))
    own = set(ExtendConfig.model_fields) - set(SFTConfig.model_fields)
    data = DataConfig(train=str(folder / "train.jsonl"), validation=str(folder / "validation.jsonl"), shape="text")
    kept = {name: getattr(config, name) for name in ExtendConfig.model_fields if name not in own}
    return SFTConfig(**kept, data=data, after_training="off")


def describe_extension(result: Extended, config: ExtendConfig) -> list[str]:
    """What to tell the user at the end."""
    if result.trained.interrupted:
        return [f"stopped after step {result.trained.num_steps}; run it again with resume_from_checkpoint=auto."]
    low, high = result.difference.low, result.difference.high
    verdict = "" if high < 0 or low > 0 else " (it may be chance)"
    return [
        f"test texts: {result.before.num_tokens} -> {result.added.num_tokens} tokens ({result.saved_share:.1%} saved)",
        f"bits/byte: base {result.before.value:.4f}, tokens added {result.added.value:.4f}, "
        f"trained {result.after.value:.4f}",
        f"trained - base, mean of texts: {result.difference.value:+.4f} [{low:+.4f}, {high:+.4f}]{verdict}",
        f"wrote {config.output_dir}: adapter, tokenizer, {REPORT_FILE}, texts/",
        f"next:  tunesmith generate --adapter {config.output_dir} 'A prompt of the domain.'",
    ]
