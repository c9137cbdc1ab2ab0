"""Worlds of a few letters, small enough that every answer can be listed and the best policy written down.

The model is a tiny Llama over an end token and some letters; a prompt is the end token and one letter: without the
former, a model of one layer could not tell "a" from "aa", whose keys and values are all alike. Everything else is the
code that the recipe runs: the generator, ``observe``, ``assign_credit`` and ``update``.
Shape letters: Y all possible answers to a prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rl_worlds import World

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import forward
from tunesmith.models.heads import add_head
from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed
from tunesmith.records import Example, Rollout, Where
from tunesmith.rollout.experience import Experience, RLRoles
from tunesmith.rollout.generate import Prompt, Sampling
from tunesmith.tokens.pack import pack
from tunesmith.training.credit import Credit
from tunesmith.training.rl_update import UpdateConfig

END, WIDTH = 0, 64
Answer = tuple[int, ...]
# (prompt, answer) -> score
Table = Callable[[int, Answer], float]
# (probabilities under the reference, scores, beta) -> probabilities
Target = Callable[[NDArray[Any], NDArray[Any], float], NDArray[Any]]


def letters_base(folder: Path, num_tokens: int) -> Base:
    """A tiny Llama in fp32 over the end token and num_tokens - 1 letters, with opinions of its own."""
    import transformers as t
    from tokenizers import Tokenizer, models

    words = ["<end>", *(chr(ord("a") + i) for i in range(num_tokens - 1))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<end>"))
    t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": END}
    config = t.LlamaConfig(
        **size,
        **special,
        vocab_size=num_tokens,
        num_hidden_layers=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    model = t.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.mul_(6.0 if parameter.dim() > 1 else 1.0)
    # The head is tied and frozen: rows of norm 1.2 let its logits reach 1.2 sqrt(64) = 9.6, so an adapter can make a
    # token nearly certain, while the model it starts from is far from certain of any.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=1.2 / WIDTH**0.5)
    model.save_pretrained(folder)
    return build_base(resolve_model(str(folder)), torch.device("cpu"), torch.float32)


class Letters(World):
    """A world with one letter a prompt and a table of scores; ``seed`` keys what is sampled."""

    seed = 0

    def __init__(self, base: Base, config: UpdateConfig, table: Table, prompts: Sequence[int]) -> None:
        adapter = AdapterConfig(r=8, lora_alpha=16)
        policy = add_adapter(base, "policy", adapter, seed=1)
        value = add_head(base, add_adapter(base, "value", adapter, seed=2), seed=3)
        roles = RLRoles(policy=policy, reference=None, value=value if config.algorithm == "ppo" else None)
        self.table, self.prompts = table, tuple(prompts)
        super().__init__(base, roles, config, lambda r: table(int(r.prompt_ids[-1]), tuple(r.ids.tolist())))

    def answers(self, iteration: int, num_samples: int | None = None) -> list[Rollout]:
        config = self.config
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens, temperature=1.0, seed=derive_seed(self.seed, "rollouts", iteration)
        )
        prompts = [
            Prompt(ids=np.array([END, letter]), row_id=row, sample=k)
            for row, letter in enumerate(self.prompts)
            for k in range(num_samples or config.num_generations)
        ]
        return self.generator.generate(prompts, sampling, self.roles.policy.adapter)

    def learn(self, num_iterations: int) -> None:
        for iteration in range(num_iterations):
            self.iterate(iteration, num_iterations)

    def mean_score(self, num_samples: int) -> float:
        """Of answers that nothing was learnt from."""
        return float(np.mean([self.score(rollout) for rollout in self.answers(10**6, num_samples)]))

    def distances(self, target: Target) -> list[float]:
        """For each prompt, how far the policy is from a target distribution over all answers."""
        answers, out = all_answers(len(self.base.tokenizer), self.config.max_new_tokens), []
        for prompt in self.prompts:
            reference_Y, policy_Y = (distribution(self.base, who, prompt, answers) for who in (None, "policy"))
            score_Y = np.array([self.table(prompt, answer) for answer in answers])
            out.append(variation(policy_Y, target(reference_Y, score_Y, self.config.kl_coef)))
        return out


class FlippedLetters(Letters):
    """The same world with every advantage's sign turned round."""

    def credit(self, seen: Experience, rollouts: Sequence[Rollout]) -> Credit:
        credit = super().credit(seen, rollouts)
        return replace(credit, advantages_BT=-credit.advantages_BT)


def all_answers(num_tokens: int, max_new_tokens: int) -> list[Answer]:
    """Every answer there is: letters and then the end token, or letters up to the limit."""
    letters, out = range(1, num_tokens), []
    for length in range(max_new_tokens):
        out += [(*word, END) for word in itertools.product(letters, repeat=length)]
    return out + list(itertools.product(letters, repeat=max_new_tokens))


def distribution(base: Base, adapter: str | None, prompt: int, answers: Sequence[Answer]) -> NDArray[Any]:
    """(Y,) the exact probability of each answer."""
    examples = [
        Example(
            ids=np.array([END, prompt, *answer]),
            loss_weight=np.array([0.0, 0.0] + [1.0] * len(answer), np.float32),
            row_id=row,
            where=Where("answer"),
        )
        for row, answer in enumerate(answers)
    ]
    logprobs_N, _ = forward(base, pack(examples, adapter), "reference_logprobs")
    sums = [float(part.double().sum()) for part in torch.split(logprobs_N, [len(answer) for answer in answers])]
    return np.exp(np.array(sums))


def closed_form(reference_Y: NDArray[Any], score_Y: NDArray[Any], beta: float) -> NDArray[Any]:
    """argmax over pi of E[score] - beta KL(pi || reference): reference * exp(score / beta), normalised."""
    weight_Y = reference_Y * np.exp((score_Y - score_Y.max()) / beta)
    return weight_Y / weight_Y.sum()


def other_closed_form(reference_Y: NDArray[Any], score_Y: NDArray[Any], beta: float) -> NDArray[Any]:
    """argmax over pi of E[score] - beta KL(reference || pi): beta reference / (c - score), c so that it sums to 1."""
    low, high = score_Y.max() + 1e-12, score_Y.max() + beta
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (beta * reference_Y / (middle - score_Y)).sum() > 1 else (low, middle)
    return beta * reference_Y / (low - score_Y)


def variation(p_Y: NDArray[Any], q_Y: NDArray[Any]) -> float:
    """Total variation, half the sum of differences: the most that any event's probability can differ by."""
    return 0.5 * float(np.abs(p_Y - q_Y).sum())
