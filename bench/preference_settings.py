"""What the preference benchmark holds equal on both sides, and the settings TRL is measured with (no torch)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

Kind = Literal["dpo", "reward"]
KINDS: tuple[Kind, ...] = ("dpo", "reward")
Weights = Literal["float32", "bfloat16"]

LEARNING_RATE = 5e-5
LORA_R = 16
LORA_ALPHA = 32
BETA = 0.1
MAX_LENGTH_TOKENS = 512
BATCH_SIZE_PAIRS = 4


@dataclass(frozen=True)
class PreferenceSetting:
    """One way to run TRL's DPOTrainer or RewardTrainer; ``own_defaults`` passes none of the choices below.

    micro_pairs: pairs in one forward; the rest of the step's pairs come by gradient accumulation. precompute: DPO's
    reference log-probabilities all before the first step (``precompute_ref_log_probs``), and they count as time.
    """

    own_defaults: bool = False
    checkpointing: bool = False
    weights: Weights = "float32"
    autocast: bool = False
    micro_pairs: int = BATCH_SIZE_PAIRS
    attention: Literal["sdpa", "eager"] = "sdpa"
    precompute: bool = False

    @property
    def name(self) -> str:
        if self.own_defaults:
            return f"own defaults (fp32 weights, bf16 autocast {'on' if self.autocast else 'off'}, checkpointing, sdpa)"
        parts = [
            "fp32" if self.weights == "float32" else "bf16 weights",
            *(["bf16 autocast"] if self.autocast else []),
            "checkpointing" if self.checkpointing else "no checkpointing",
            f"{self.micro_pairs} {'pair' if self.micro_pairs == 1 else 'pairs'} a forward",
            self.attention,
            *(["reference precomputed"] if self.precompute else []),
        ]
        return ", ".join(parts)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> PreferenceSetting:
        return PreferenceSetting(**json.loads(text))


def defaults(*, bf16_is_fast: bool) -> PreferenceSetting:
    """TRL as it comes; without bf16 units its bf16 autocast, which takes minutes a step there, is switched off."""
    return PreferenceSetting(own_defaults=True, checkpointing=True, autocast=bf16_is_fast)


def sweep_settings(kind: Kind, *, bf16_is_fast: bool) -> list[PreferenceSetting]:
    """What TRL's best is chosen from: pairs a forward, attention, DPO's reference before or within the steps.

    padding_free is none of them: TRL 1.16 has switched it off for DPO (it warns and pads) and has none for rewards.
    """
    plain = PreferenceSetting()
    if kind == "dpo":
        plain = replace(plain, precompute=True)
    settings = [replace(plain, micro_pairs=pairs) for pairs in (1, 2, 4)]
    settings.append(replace(plain, micro_pairs=1, attention="eager"))
    if kind == "dpo":
        settings.append(replace(plain, micro_pairs=1, precompute=False))
    if bf16_is_fast:
        settings += [replace(plain, weights="bfloat16", micro_pairs=pairs) for pairs in (1, 4)]
        settings.append(replace(plain, autocast=True, micro_pairs=4))
    return settings
