"""What an iteration learns from: the policy's answers, and what each role on the base says of every token of them.

Packs have no padding: a prompt stands once before its K answers. Losses and advantages take padded (B, T) tensors;
``padded`` is the only way from the one to the other.
Shape letters: B answers, T tokens of the longest one, N answer tokens of a pack laid end to end, K answers a prompt;
the answers to one prompt are neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tunesmith.models.blocks import Checkpointing
from tunesmith.models.forward import Want, forward, scalar_values
from tunesmith.models.roles import Base, Role, ScalarHead
from tunesmith.records import Example, Rollout, Where
from tunesmith.tokens.forest import forest_of
from tunesmith.tokens.pack import Packed, micro_batches, pack


@dataclass(frozen=True, slots=True, kw_only=True)
class RLRoles:
    """Who acts in reinforcement learning, all on one base.

    policy: learns to answer. reference: the adapter the policy must stay near, None for the bare base. value: learns
    what an unfinished answer will bring; None where the algorithm compares answers instead. value_offset: taken off
    what its head says, as a reward model it started from takes it off its scores.
    """

    policy: Role
    reference: str | None
    value: Role | None
    value_offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """B answers and, for each of their tokens, what the roles said before anything was learnt from them.

    examples: prompt and answer, the answer's tokens in the loss. mask_BT: 1 on tokens of answers. logprobs_BT,
    reference_BT: of the policy that answered and of the reference, in nats at the sampling temperature. entropy_BT:
    of the policy, exact. values_BT: of the state before each token; None without a value role.
    """

    examples: tuple[Example, ...]
    num_samples: int
    mask_BT: Tensor
    logprobs_BT: Tensor
    reference_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor | None

    @property
    def num_prompts(self) -> int:
        return len(self.examples) // self.num_samples

    def rows_of(self, prompts: Sequence[int]) -> list[int]:
        """The answers to these prompts."""
        return [row for p in prompts for row in range(p * self.num_samples, (p + 1) * self.num_samples)]


def example_of(rollout: Rollout) -> Example:
    """Prompt and answer as a row whose loss covers exactly the tokens the policy chose."""
    weight = np.concatenate([np.zeros(len(rollout.prompt_ids), np.float32), np.ones(len(rollout.ids), np.float32)])
    return Example(
        ids=np.concatenate([rollout.prompt_ids, rollout.ids]),
        loss_weight=weight,
        row_id=rollout.row_id,
        where=Where(f"answer to prompt row {rollout.row_id}"),
    )


def padded(values_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """Numbers of answer tokens laid end to end -> (answers, longest), 0 behind each answer; gradients pass."""
    return pad_sequence(list(torch.split(values_N, list(lengths))), batch_first=True)


def packs(
    examples: Sequence[Example],
    num_samples: int,
    prompts: Sequence[int],
    adapter: str | None,
    max_tokens: int,
) -> Iterator[tuple[list[int], Packed]]:
    """(answers, pack) in micro-batches; the pack's loss pairs are the tokens of these answers, in this order.

    prompts: whose answers are wanted, by number. A prompt with several answers is a tree; with one, a row as usual.
    """
    members = [list(range(p * num_samples, (p + 1) * num_samples)) for p in prompts]
    sizes = [examples[rows[0]].num_tokens + sum(examples[row].num_loss_tokens for row in rows[1:]) for rows in members]
    for batch in micro_batches(sizes, max_tokens):
        rows = [row for i in batch for row in members[i]]
        if num_samples == 1:
            yield rows, pack([examples[row] for row in rows], adapter)
        else:
            segments, parents, _ = forest_of([[examples[row] for row in members[i]] for i in batch])
            yield rows, pack(segments, adapter, parents)


def policy_logprobs(
    base: Base, packed: Packed, *, temperature: float, grad: bool, checkpointing: Checkpointing = False
) -> tuple[Tensor, Tensor]:
    """(logprobs_N, entropy_N) of a pack's answer tokens under its adapter, in nats at the sampling temperature."""
    want: Want = "token_logprobs" if grad else "reference_logprobs"
    return forward(base, packed, want, temperature=temperature, checkpointing=checkpointing)


def state_values(base: Base, packed: Packed, roles: RLRoles, *, checkpointing: Checkpointing = False) -> Tensor:
    """(N,) what the value role expects of the state before each answer token of a pack."""
    assert roles.value is not None and isinstance(roles.value.head, ScalarHead)
    source_N, _, _ = packed.loss_pairs()
    return scalar_values(base, packed, roles.value.head, source_N, checkpointing=checkpointing) - roles.value_offset


@torch.no_grad()
def observe(
    base: Base,
    roles: RLRoles,
    rollouts: Sequence[Rollout],
    *,
    num_samples: int,
    micro_batch_tokens: int,
    temperature: float = 1.0,
) -> Experience:
    """What policy, reference and value say of the rollouts; the old log-probabilities are the trainer's own.

    rollouts: the ``num_samples`` answers to a prompt are neighbours.
    """
    examples = tuple(example_of(rollout) for rollout in rollouts)
    lengths = [len(rollout.ids) for rollout in rollouts]
    everything = range(len(examples) // num_samples)

    def over(adapter: str | None, ask: Callable[[Packed], tuple[Tensor, ...]]) -> list[Tensor]:
        """Full (B, T) tensors of what is asked of every pack."""
        out: list[Tensor] = []
        for rows, packed in packs(examples, num_samples, everything, adapter, micro_batch_tokens):
            answers = ask(packed)
            if not out:
                out = [x.new_zeros(len(examples), max(lengths)) for x in answers]
            for whole_BT, values_N in zip(out, answers, strict=True):
                part = padded(values_N, [lengths[row] for row in rows])
                whole_BT[rows, : part.shape[1]] = part
        return out

    def tell(packed: Packed) -> tuple[Tensor, Tensor]:
        return policy_logprobs(base, packed, temperature=temperature, grad=False)

    logprobs_BT, entropy_BT = over(roles.policy.adapter, tell)
    reference_BT = over(roles.reference, tell)[0]
    values_BT = None
    if roles.value is not None:
        values_BT = over(roles.value.adapter, lambda packed: (state_values(base, packed, roles),))[0]
    mask_BT = padded(torch.ones(sum(lengths)), lengths).to(logprobs_BT)
    return Experience(
        examples=examples,
        num_samples=num_samples,
        mask_BT=mask_BT,
        logprobs_BT=logprobs_BT,
        reference_BT=reference_BT,
        entropy_BT=entropy_BT,
        values_BT=values_BT,
    )


@torch.no_grad()
def sampler_difference(
    base: Base, seen: Experience, rollouts: Sequence[Rollout], adapter: str | None, temperature: float = 1.0
) -> float:
    """Largest |log-probability of the sampler - of the trainer| of a token, in nats, both at temperature 1.

    temperature: what ``seen`` was made at. Where it is not 1 the trainer is asked anew, about four prompts only.
    """
    if temperature == 1.0:
        rows, ours_N = list(range(len(rollouts))), seen.logprobs_BT[seen.mask_BT != 0]
    else:
        few = range(min(4, seen.num_prompts))
        ((rows, packed),) = packs(
            seen.examples, seen.num_samples, few, adapter, sum(e.num_tokens for e in seen.examples)
        )
        ours_N, _ = policy_logprobs(base, packed, temperature=1.0, grad=False)
    theirs_N = torch.from_numpy(np.concatenate([rollouts[row].logprobs for row in rows])).to(ours_N)
    return float((ours_N - theirs_N).abs().max())
