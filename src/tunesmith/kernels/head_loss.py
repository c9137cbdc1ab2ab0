"""The language-model head as four functions that never hold the (N, V) logits of a whole batch.

ce_sum             targets' weights are known before: the gradient is made in the forward pass
target_logprobs    log-probabilities alone; each token's gradient is made in the forward pass, and scaled in backward
token_logprobs     log-probability and entropy of each token, recomputed in the backward pass
reference_logprobs the same without gradients
Each takes ``weight_grad``: none (frozen head, no dW at all), rows (only the given vocabulary rows learn), full.
Shape letters: N trained positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import native_elementwise as native
from tunesmith.kernels.packed import Product

WeightGrad = Literal["none", "rows", "full"]

# 256 x 49k fp32 logits are 50 MB. Fewer rows read the head's weights more often: 128 rows ran at 0.85 of this rate.
CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Head:
    """The head's constants: weight_VD, optional bias_V, ``softcap`` (tanh) and ``scale`` of the logits.

    packed: weight_VD as ``logits_of`` multiplies with it instead, for answering alone.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0
    packed: Product | None = None


def at_temperature(head: Head, temperature: float) -> Head:
    """The head whose softmax is what sampling at a temperature draws from: its logits divided by it.

    Raises ValueError for a temperature that is not above 0, and for a capped head, whose cap comes after the scale.
    """
    if temperature == 1.0:
        return head
    if temperature <= 0 or head.softcap is not None:
        raise ValueError(f"no log-probabilities at temperature {temperature} for this head")
    return replace(head, scale=head.scale / temperature)


def logits_of(hidden_ND: Tensor, head: Head) -> Tensor:
    """fp32 (or fp64) logits (N, V): scale * (h W^T + b), then softcap * tanh(x / softcap)."""
    logits_NV = _product(hidden_ND, head)
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    if head.bias_V is not None:
        logits_NV = logits_NV + head.bias_V.to(logits_NV.dtype)
    if head.scale != 1.0:
        logits_NV = logits_NV * head.scale
    if head.softcap is not None:
        logits_NV = head.softcap * torch.tanh(logits_NV / head.softcap)
    return logits_NV


def _product(hidden_ND: Tensor, head: Head) -> Tensor:
    if head.packed is not None:
        return head.packed.matmul(hidden_ND)
    return torch.nn.functional.linear(hidden_ND, head.weight_VD.to(hidden_ND.dtype))


def ce_sum_reference(hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor, head: Head) -> Tensor:
    """sum_n w_n * -log softmax(logits_n)[target_n], all logits at once, left to autograd."""
    logprobs_NV = torch.log_softmax(logits_of(hidden_ND, head), dim=-1)
    return -(logprobs_NV.gather(1, targets_N[:, None]).squeeze(1) * weights_N).sum()


def _through_cap_(grad_NV: Tensor, logits_NV: Tensor, head: Head) -> Tensor:
    """Carry a gradient on the final logits back to h W^T + b, in place."""
    if head.softcap is not None:
        grad_NV.mul_(1.0 - (logits_NV / head.softcap).square())
    return grad_NV.mul_(head.scale) if head.scale != 1.0 else grad_NV


def _chunk_logprobs(
    hidden_CD: Tensor, targets_C: Tensor, weights_C: Tensor, head: Head, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """(log-probabilities of a chunk's targets (C,), d(-weights * them) / d(h W^T + b) (C, V) where it is needed)."""
    if head.bias_V is None and head.softcap is None and head.scale > 0:
        product_CV = _product(hidden_CD, head)
        if native.takes_alike(product_CV):
            logprobs_C = native.target_logprobs_(product_CV, targets_C, weights_C, head.scale, needs_grad)
            return logprobs_C, product_CV if needs_grad else None
    logits_CV, targets_C1 = logits_of(hidden_CD, head), targets_C[:, None]
    lse_C1 = torch.logsumexp(logits_CV, dim=-1, keepdim=True)
    logprobs_C = (logits_CV.gather(1, targets_C1) - lse_C1).squeeze(1)
    if not needs_grad:
        return logprobs_C, None
    weights_C1 = weights_C[:, None].to(logits_CV.dtype)
    keep = logits_CV.clone() if head.softcap is not None else logits_CV
    # d -logprob / d logits = p - onehot
    grad_CV = logits_CV.sub_(lse_C1).exp_().mul_(weights_C1)
    grad_CV.scatter_add_(1, targets_C1, -weights_C1)
    return logprobs_C, _through_cap_(grad_CV, keep, head)


class _HeadGradients:
    """Collects the gradients of one pass over the chunks."""

    def __init__(
        self, hidden_ND: Tensor, head: Head, weight_grad: WeightGrad, rows_R: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.head, self.weight_grad, self.rows_R = head, weight_grad, rows_R
        self.hidden_ND = torch.empty_like(hidden_ND)
        self.weight: Tensor | None = None
        if weight_grad != "none":
            shape = head.weight_VD.shape if rows_R is None else (len(rows_R), hidden_ND.shape[1])
            # The sum over chunks keeps the parameter's own precision, whatever the products are made in.
            self.weight = torch.zeros(shape, dtype=dtype, device=hidden_ND.device)
        self.bias = None if head.bias_V is None else torch.zeros_like(head.bias_V)

    def add(self, chunk: slice, hidden_CD: Tensor, grad_CV: Tensor) -> None:
        if self.bias is not None:
            self.bias += grad_CV.sum(0).to(self.bias.dtype)
        grad_CV = grad_CV.to(hidden_CD.dtype)
        torch.mm(grad_CV, self.head.weight_VD, out=self.hidden_ND[chunk])
        if self.weight is not None:
            seen_CR = grad_CV if self.rows_R is None else grad_CV[:, self.rows_R]
            self.weight += (seen_CR.T @ hidden_CD).to(self.weight.dtype)

    def full_weight(self, scale: Tensor) -> Tensor | None:
        """dW (V, D) times an upstream scalar, zero outside the learning rows."""
        if self.weight is None or self.rows_R is None:
            return None if self.weight is None else self.weight * scale
        grad_VD = torch.zeros(self.head.weight_VD.shape, dtype=self.weight.dtype, device=self.weight.device)
        grad_VD[self.rows_R] = self.weight * scale
        return grad_VD


class _CeSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        weights_N: Tensor,
        head: Head,
        weight_grad: WeightGrad,
        rows_R: Tensor | None,
        needs_grad: bool,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        dtype = weight_VD.dtype
        head = Head(weight_VD.to(hidden_ND.dtype), bias_V, head.softcap, head.scale)
        gradients = _HeadGradients(hidden_ND, head, weight_grad, rows_R, dtype) if needs_grad else None
        for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            weights_C = weights_N[chunk]
            logprobs_C, grad_CV = _chunk_logprobs(
                hidden_ND[chunk], targets_N[chunk], weights_C, head, gradients is not None
            )
            total -= (logprobs_C * weights_C.to(logprobs_C.dtype)).sum().double()
            if gradients is not None and grad_CV is not None:
                gradients.add(chunk, hidden_ND[chunk], grad_CV)
        ctx.gradients = gradients
        return total.to(torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients, scale = ctx.gradients, grads[0]
        grad_bias = None if gradients.bias is None else gradients.bias * scale
        grad_hidden = gradients.hidden_ND * scale.to(gradients.hidden_ND.dtype)
        return grad_hidden, gradients.full_weight(scale), grad_bias, None, None, None, None, None, None


def ce_sum(
    hidden_ND: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    head: Head,
    weight_grad: WeightGrad = "none",
    rows_R: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the cross-entropies in nats, a scalar; the caller divides once by the step's count.

    hidden_ND: states that predict targets_N (int64), weights_N (float). The gradient is made chunk by chunk in the
    forward pass, so no logits survive it.
    """
    needs_grad = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_grad != "none")
    weight_VD = head.weight_VD if weight_grad != "none" else head.weight_VD.detach()
    return _CeSum.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden_ND, weight_VD, head.bias_V, targets_N, weights_N, head, weight_grad, rows_R, needs_grad
    )


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, targets_N: Tensor, head: Head, needs_grad: bool) -> Tensor:
        head = Head(head.weight_VD.to(hidden_ND.dtype), head.bias_V, head.softcap, head.scale)
        gradients = _HeadGradients(hidden_ND, head, "none", None, hidden_ND.dtype) if needs_grad else None
        logprobs, less_N = [], torch.full(targets_N.shape, -1.0, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            logprobs_C, grad_CV = _chunk_logprobs(
                hidden_ND[chunk], targets_N[chunk], less_N[chunk], head, gradients is not None
            )
            logprobs.append(logprobs_C)
            if gradients is not None and grad_CV is not None:
                gradients.add(chunk, hidden_ND[chunk], grad_CV)
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden_ND)
        return torch.cat(logprobs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (unit_ND,) = ctx.saved_tensors
        return unit_ND * grads[0][:, None].to(unit_ND.dtype), None, None, None


def target_logprobs(hidden_ND: Tensor, targets_N: Tensor, head: Head) -> Tensor:
    """logprobs_N in nats of a frozen head's targets, differentiable in the states alone.

    A log-probability's gradient does not depend on what is made of it afterwards but for a factor: it is computed
    beside the value, and the backward pass multiplies. One product with the head less than ``token_logprobs``, whose
    entropy has a factor of its own. Without gradients the same values, bit for bit.
    """
    head = Head(
        head.weight_VD.detach(), None if head.bias_V is None else head.bias_V.detach(), head.softcap, head.scale
    )
    needs_grad = torch.is_grad_enabled() and hidden_ND.requires_grad
    return _TargetLogprobs.apply(hidden_ND, targets_N, head, needs_grad)  # type: ignore[no-any-return, no-untyped-call]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        head: Head,
        weight_grad: WeightGrad,
        rows_R: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden_ND, targets_N)
        # An entropy nobody uses then has no gradient at all, which spares three passes over the logits.
        ctx.set_materialize_grads(False)
        ctx.dtype = weight_VD.dtype
        head = Head(weight_VD.to(hidden_ND.dtype), bias_V, head.softcap, head.scale)
        ctx.head, ctx.weight_grad, ctx.rows_R = head, weight_grad, rows_R
        return reference_logprobs(hidden_ND, targets_N, head)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_ND, targets_N = ctx.saved_tensors
        head, gradients = ctx.head, _HeadGradients(hidden_ND, ctx.head, ctx.weight_grad, ctx.rows_R, ctx.dtype)
        for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            hidden_CD = hidden_ND[chunk]
            logits_CV = logits_of(hidden_CD, head)
            keep = logits_CV.clone() if head.softcap is not None else logits_CV
            logprobs_CV = logits_CV.sub_(torch.logsumexp(logits_CV, dim=-1, keepdim=True))
            up_C1, up_entropy_C1 = (None if g is None else g[chunk, None].to(logprobs_CV.dtype) for g in grads)
            if up_C1 is None:
                up_C1 = logprobs_CV.new_zeros(len(hidden_CD), 1)
            # d logprob / d logits = onehot - p;  d entropy / d logits = -p (log p + entropy)
            if up_entropy_C1 is None:
                grad_CV = logprobs_CV.exp_().mul_(-up_C1)
            else:
                probs_CV = logprobs_CV.exp()
                entropy_C1 = -(probs_CV * logprobs_CV).sum(-1, keepdim=True)
                grad_CV = logprobs_CV.add_(entropy_C1).mul_(up_entropy_C1).add_(up_C1).mul_(probs_CV.neg_())
            grad_CV.scatter_add_(1, targets_N[chunk, None], up_C1)
            gradients.add(chunk, hidden_CD, _through_cap_(grad_CV, keep, head))
        one = torch.ones((), device=hidden_ND.device)
        return gradients.hidden_ND, gradients.full_weight(one), gradients.bias, None, None, None, None


def token_logprobs(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: Head,
    weight_grad: WeightGrad = "none",
    rows_R: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(logprobs_N, entropy_N) in nats, differentiable; logits are recomputed in the backward pass."""
    weight_VD = head.weight_VD if weight_grad != "none" else head.weight_VD.detach()
    return _TokenLogprobs.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden_ND, weight_VD, head.bias_V, targets_N, head, weight_grad, rows_R
    )


@torch.no_grad()
def reference_logprobs(hidden_ND: Tensor, targets_N: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """(logprobs_N, entropy_N) in nats without gradients."""
    logprobs, entropies = [], []
    for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        logprobs_CV = torch.log_softmax(logits_of(hidden_ND[chunk], head), dim=-1)
        logprobs.append(logprobs_CV.gather(1, targets_N[chunk, None]).squeeze(1))
        entropies.append(logprobs_CV.exp().mul_(logprobs_CV).sum(-1).neg())
    return torch.cat(logprobs), torch.cat(entropies)


@torch.no_grad()
def scored_logprobs(hidden_ND: Tensor, targets_N: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """(logprobs_N in nats, greedy_N): greedy where no token was likelier than the target. Without gradients."""
    logprobs, greedy = [], []
    for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        logits_CV = logits_of(hidden_ND[chunk], head)
        own_C1 = logits_CV.gather(1, targets_N[chunk, None])
        greedy.append((logits_CV.amax(-1, keepdim=True) <= own_C1).squeeze(1))
        logprobs.append((own_C1 - torch.logsumexp(logits_CV, dim=-1, keepdim=True)).squeeze(1))
    return torch.cat(logprobs), torch.cat(greedy)
