"""Merge an adapter into its base: a plain transformers folder, written only when what it says is what was trained."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.prompts import PromptRow, load_prompts
from tunesmith.errors import ModelError, RunError
from tunesmith.models.adapters import PROVENANCE_FILE, adapter_digest, load_adapter, provenance_of
from tunesmith.models.load import DTYPES, build_base, load_base
from tunesmith.models.merge import Drift, check_mergeable, measure_drift, write_merged
from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model
from tunesmith.models.roles import Base
from tunesmith.recipes.adapter_folders import base_for
from tunesmith.records import Example, Message, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.stats import Interval, clustered_bootstrap_mean, clustered_proportion
from tunesmith.tokens.render import render_prompt

NAME = "merging"
SAMPLE_PROMPTS = (
    "What is the capital of France?",
    "Write a short e-mail that moves a meeting from Tuesday to Thursday.",
    "Explain to a child why the sky is blue.",
    "List three things to check before buying a used bicycle.",
    "Translate into Spanish: The library closes at six.",
    "My order arrived broken. What should I do?",
    "Summarise in one sentence: Water expands when it freezes, which is why pipes burst in hard winters.",
    "Is 91 a prime number? Say why.",
    "Write a Python function that returns the longest word of a sentence.",
    "Give me a rhyme about rain.",
    "Classify the sentiment as positive or negative: The soup was cold and nobody apologised.",
    "Continue the story: When the lighthouse went dark, Mara took the boat.",
)


class MergeConfig(Config):
    """What is merged, where it goes, and how far it may be from what was trained."""

    adapter: str
    """Folder of an adapter or of a run."""
    output: str
    """The new model's folder; it must not exist, unless overwrite is set."""
    model: str = EMBEDDED_MODEL
    """The base; an adapter with provenance brings its own."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What the weights are written in; auto: what the base's own files are in."""
    prompts: str | None = None
    """Prompts to measure the drift on: a file of rows, or of one prompt a line; None: twelve that come along."""
    max_prompts: int = Field(64, ge=1)
    """At most so many of them, from the first."""
    max_new_tokens: int = Field(24, ge=1)
    """How far the unmerged model answers each prompt; the drift is measured over prompts and answers."""
    max_kl: float = Field(1e-3, gt=0)
    """Refuse above this mean KL(unmerged || merged), in nats a token."""
    min_agreement: float = Field(0.99, ge=0, le=1)
    """Refuse where the two agree on the likeliest token less often."""
    force: bool = False
    """Write the folder though the drift is above the limits."""
    overwrite: bool = False
    """Replace an output folder that exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """Merged against unmerged, over all tokens of the prompts and answers; intervals draw whole prompts."""

    num_prompts: int
    num_tokens: int
    max_logit_difference: float
    mean_logit_difference: float
    mean_kl_nats: Interval
    max_kl_nats: float
    top1_agreement: Interval

    def lines(self) -> list[str]:
        """For people."""
        kl = self.mean_kl_nats
        return [
            f"drift over {self.num_tokens} tokens of {self.num_prompts} prompts and answers, unmerged against merged:",
            f"  logits differ by {self.mean_logit_difference:.3g} on average, {self.max_logit_difference:.3g} at most",
            f"  same likeliest token: {self.top1_agreement.percent()}",
            f"  KL: {kl.value:.3g} [{kl.low:.3g}, {kl.high:.3g}] nats a token, {self.max_kl_nats:.3g} at most",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What was written, and how far it is from the unmerged model."""

    output: Path
    dtype: str
    method: str
    num_bytes: int
    drift: DriftReport
    forced: bool

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "output": str(self.output)}


def merge_adapter(config: MergeConfig) -> Merged:
    """Merge, measure what was written against the unmerged model, and let it stand only within the limits.

    Both sides are multiplied in float32, so that the drift is that of the weights as they are written and not of a
    machine's rounding. Raises ModelError where the method cannot be merged or the drift is above a limit: then nothing
    is written. Raises RunError where the output is in the way, or holds what it would be made of.
    """
    folder, output = Path(config.adapter), Path(config.output)
    _check_output(output, config.overwrite)
    # 1. The base as the adapter knew it, in float32, with the adapter beside it.
    base = load_base(base_for(folder, config.model))
    _keep_sources(output, folder, base.resolved.folder)
    load_adapter(base, folder, NAME)
    check_mergeable(base, NAME, folder)
    dtype = _written_dtype(config, base)
    examples = _examples(config, base)
    # 2. The merged folder beside its place, read back and compared.
    with _work_folder(output) as work:
        write_merged(base, NAME, work, dtype)
        merged = build_base(resolve_model(str(work)), base.device, torch.float32)
        found = measure_drift(base, NAME, merged, examples)
        if not np.isfinite(found.kl_T).all():
            cause = f"was not merged: its logits are no longer numbers in {dtype}."
            raise ModelError(folder, cause, "Write it in bfloat16 or float32 (--dtype).")
        drift = _summary(found, len(examples))
        fault = _beyond(drift, config)
        if fault is not None and not config.force:
            raise ModelError(
                folder,
                f"was not merged: {fault}.\n" + "\n".join(drift.lines()) + "\n",
                "Write it in more bits (--dtype float32), keep it unmerged, or take it as it is with --force.",
            )
        # 3. Where it comes from, then its place in one step.
        provenance = _provenance(base, folder, config, drift, forced=fault is not None)
        (work / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n")
        if output.exists():
            shutil.rmtree(output)
        work.rename(output)
    written = sum(file.stat().st_size for file in output.iterdir())
    return Merged(
        output=output,
        dtype=str(dtype).removeprefix("torch."),
        method=base.methods[NAME],
        num_bytes=written,
        drift=drift,
        forced=fault is not None,
    )


def describe_merged(merged: Merged) -> list[str]:
    """What to tell the user: the drift, what was written, the next command."""
    forced = ["forced: this drift is above the limits."] if merged.forced else []
    return [
        *merged.drift.lines(),
        *forced,
        f"wrote {merged.output}: a whole model in {merged.dtype}, {merged.num_bytes / 1e6:.0f} MB",
        f"next:  tunesmith chat --model {merged.output}",
    ]


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise RunError(output, "exists.", "Name another folder, or set --overwrite.")
    if not (output / "config.json").is_file():
        raise RunError(output, "is no model's folder, so it is not replaced.", "Name another folder.")


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    """A place beside the output; folders made for it go again where nothing came to lie in them."""
    made = [folder for folder in output.parents if not folder.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as name:
            yield Path(name) / "model"
    finally:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _keep_sources(output: Path, *sources: Path) -> None:
    """Raise RunError where replacing the output would take the adapter or the base away."""
    for source in sources:
        if source.resolve().is_relative_to(output.resolve()):
            raise RunError(output, f"holds {source}, which is merged.", "Name another folder.")


def _written_dtype(config: MergeConfig, base: Base) -> torch.dtype:
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    # As the files are: the base in memory was read in float32.
    named = json.loads((base.resolved.folder / "config.json").read_text())
    stored = named.get("dtype") or named.get("torch_dtype")
    return DTYPES.get(str(stored), torch.float32)


def _examples(config: MergeConfig, base: Base) -> list[Example]:
    """Each prompt with the unmerged model's own greedy answer to it."""
    tokenizer = base.tokenizer_of(NAME)
    rows: list[tuple[Message, ...]] = [(Message(role="user", content=text),) for text in SAMPLE_PROMPTS]
    if config.prompts is not None:
        found: tuple[PromptRow, ...] = load_prompts(config.prompts).prompts
        rows = [row.messages for row in found]
    prompts = [Prompt(ids=render_prompt(row, tokenizer), row_id=i) for i, row in enumerate(rows[: config.max_prompts])]
    answers = LocalGenerator(base).generate(prompts, Sampling(max_new_tokens=config.max_new_tokens), NAME)
    examples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        source = prompt.ids if base.is_encoder_decoder else None
        before = np.array(base.decoder_prefix, np.int64) if base.is_encoder_decoder else prompt.ids
        ids = np.concatenate([before, answer.ids])
        where = Where(f"prompt {prompt.row_id}")
        weight = np.zeros(len(ids), np.float32)
        examples.append(Example(ids=ids, loss_weight=weight, row_id=prompt.row_id, where=where, source_ids=source))
    return examples


def _summary(drift: Drift, num_prompts: int) -> DriftReport:
    clusters = drift.prompt_T.tolist()
    return DriftReport(
        num_prompts=num_prompts,
        num_tokens=len(clusters),
        max_logit_difference=float(drift.max_T.max()),
        mean_logit_difference=float(drift.mean_T.mean()),
        mean_kl_nats=clustered_bootstrap_mean(drift.kl_T.tolist(), clusters, seed=0),
        max_kl_nats=float(drift.kl_T.max()),
        top1_agreement=clustered_proportion(drift.agrees_T.astype(float).tolist(), clusters),
    )


def _beyond(drift: DriftReport, config: MergeConfig) -> str | None:
    """Which limit the drift is beyond, if any; a number that is none is beyond both."""
    if not drift.mean_kl_nats.value <= config.max_kl:
        return f"the mean KL of {drift.mean_kl_nats.value:.3g} nats is above {config.max_kl:g}"
    if not drift.top1_agreement.value >= config.min_agreement:
        return (
            f"the likeliest token agrees in {drift.top1_agreement.value:.3f} of cases, below {config.min_agreement:g}"
        )
    return None


def _provenance(base: Base, folder: Path, config: MergeConfig, drift: DriftReport, *, forced: bool) -> dict[str, Any]:
    """Parents, digests and drift; the adapter's own provenance is kept whole."""
    own = folder / PROVENANCE_FILE
    return {
        "format": 1,
        "merged_from": {
            "base": provenance_of(base, NAME),
            "adapter": {
                "folder": folder.name,
                "method": base.methods[NAME],
                "digest": adapter_digest(base, NAME),
                "provenance": json.loads(own.read_text()) if own.is_file() else None,
            },
        },
        "prompts": config.prompts or "shipped",
        "drift": asdict(drift),
        "forced": forced,
    }
