"""An adapter for some rows, trained by ``recipes/sft.py`` on the base in memory, or read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.load import DataConfig
from tunesmith.evals.advise.ledger import Ledger
from tunesmith.evals.task import Item
from tunesmith.models.adapters import drop_adapter, load_adapter
from tunesmith.models.roles import Base
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.prepare import ADAPTER_NAME, SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.runs import atomic_write_text

DONE_FILE = "advise.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """An adapter on the base under its own name; losses in nats a token on the rows to choose on."""

    adapter: str
    folder: Path
    num_rows: int
    seconds: float
    num_tokens: int
    loss_before: float | None
    loss_after: float | None
    best_step: int


class Interrupted(Exception):
    """The user stopped a training; it goes on from its checkpoint with the next call."""


def tune(
    base: Base, name: str, rows: Sequence[Item], validation: Sequence[Item], config: AdviseConfig, *, epochs: float
) -> Tuned:
    """Train on rows and keep the best weights by validation loss; rows and settings seen before are read from disk.

    Raises Interrupted when the training was stopped.
    """
    settings = _settings(config, epochs)
    said = [[[(m.role, m.content) for m in item.messages], item.target] for item in (*rows, *validation)]
    made_of = [settings, len(rows), said, base.digest, base.resolved.template_digest, str(base.dtype)]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    folder = Path(config.output_dir) / "adapters" / f"{name}-{digest[:12]}"
    done = folder / DONE_FILE
    if not done.exists():
        _train(base, folder, rows, validation, settings, done)
    facts = json.loads(done.read_text())
    load_adapter(base, folder, name)
    return Tuned(adapter=name, folder=folder, num_rows=len(rows), **facts)


def _settings(config: AdviseConfig, epochs: float) -> dict[str, Any]:
    kept = ("learning_rate", "per_device_train_batch_size", "seed")
    return {
        **{key: getattr(config, key) for key in kept},
        "num_train_epochs": epochs,
        # What was set: a method refuses the other methods' keys.
        "adapter": config.adapter.model_dump(exclude_unset=True),
        "warmup_ratio": 0.05,
    }


def _train(
    base: Base,
    folder: Path,
    rows: Sequence[Item],
    validation: Sequence[Item],
    settings: dict[str, Any],
    done: Path,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(folder / "train.jsonl", rows)
    _write_rows(folder / "validation.jsonl", validation)
    steps = len(rows) * settings["num_train_epochs"] / settings["per_device_train_batch_size"]
    recipe = SFTConfig(
        model_name_or_path=base.resolved.name,
        output_dir=str(folder),
        # A half of it that was broken off is gone on with.
        resume_from_checkpoint="auto" if any(folder.glob("checkpoint-*")) else None,
        overwrite_output_dir=not any(folder.glob("checkpoint-*")),
        data=DataConfig(train=str(folder / "train.jsonl"), validation=str(folder / "validation.jsonl"), cache=False),
        eval_steps=max(1, round(steps / 4)),
        save_total_limit=1,
        early_stopping_patience=0,
        # What it broke is not asked here, and would count as time to set up.
        after_training="off",
        **settings,
    )
    # Beside the adapter: what an earlier call that was broken off has spent counts too.
    ledger = Ledger(folder / "times.json")
    with ledger.watch("training"):
        trained = train(recipe, base=base)
    if trained.interrupted:
        drop_adapter(base, ADAPTER_NAME)
        raise Interrupted(folder)
    facts = {
        "seconds": ledger.seconds["training"],
        "num_tokens": trained.num_tokens,
        "loss_before": trained.initial_eval_loss,
        "loss_after": trained.final_eval_loss,
        "best_step": trained.best_step,
    }
    drop_adapter(base, ADAPTER_NAME)
    atomic_write_text(done, json.dumps(facts) + "\n")


def _write_rows(path: Path, items: Sequence[Item]) -> None:
    lines = []
    for item in items:
        turns = [*((m.role, m.content, False) for m in item.messages), ("assistant", item.target, True)]
        # Earlier answers of a conversation are context here: the last one is what is measured.
        messages = [
            {"role": role, "content": content} | ({"train": False} if role == "assistant" and not learnt else {})
            for role, content, learnt in turns
        ]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    atomic_write_text(path, "\n".join(lines) + "\n")
