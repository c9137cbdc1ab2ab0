"""What the PPO benchmark holds equal on both sides (no torch)."""

from __future__ import annotations

LEARNING_RATE = 1e-4
LORA_R, LORA_ALPHA = 16, 32
NUM_PROMPTS = 32
MAX_NEW_TOKENS = 48
NUM_PPO_EPOCHS, NUM_MINI_BATCHES = 2, 4
TEMPERATURE = 1.0
KL_COEF = 0.05
