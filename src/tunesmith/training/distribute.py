"""The world: rank, size, device and sums over ranks; also for the one process most people have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tunesmith.errors import ConfigError

# Gradients travel in pieces of this size: large enough to fill a link, small beside the model.
BUCKET_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who this process is among how many; every operation is exact for one.

    device: where this rank computes ("auto" is left to whoever loads the model, in a world of one only).
    """

    rank: int
    size: int
    device: str

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @overload
    def sum(self, value: float) -> float: ...
    @overload
    def sum(self, value: Tensor) -> Tensor: ...
    def sum(self, value: float | Tensor) -> float | Tensor:
        """Sum over all ranks: of a number in fp64, of a tensor elementwise in its own type, as a new tensor."""
        if isinstance(value, Tensor):
            total = value.detach().clone().contiguous()
            if self.size > 1:
                dist.all_reduce(total)
            return total
        if self.size == 1:
            return float(value)
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks, in flat exchanges.

        Mixed types travel in the widest of them. A rank without a gradient counts as zero; a parameter that no rank has
        a gradient for keeps None, so that the optimiser skips it as it does in one process.
        """
        if self.size == 1:
            return
        present = self.sum(torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)).tolist()
        for bucket in _buckets([p for p, count in zip(parameters, present, strict=True) if count]):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([grad.detach().reshape(-1) for grad in grads])
            dist.all_reduce(flat)
            totals = torch.split(flat, [p.numel() for p in bucket])
            for p, grad, total in zip(bucket, grads, totals, strict=True):
                p.grad = grad.copy_(total.view_as(p))

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the process group; nothing can be summed afterwards."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def one_process(device: str = "cpu") -> World:
    """The world of a single process."""
    return World(rank=0, size=1, device=device)


def from_environment(device: str = "auto") -> World:
    """The world torchrun describes in RANK, WORLD_SIZE and LOCAL_RANK; a single process without them.

    gloo joins CPUs, nccl GPUs; each rank takes the GPU of its local rank. Raises ConfigError when the variables are
    incomplete, or when ``device`` cannot be shared out among ranks.
    """
    size = _integer("WORLD_SIZE", 1)
    if size == 1:
        return one_process(device)
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError("device", f"'{device}' cannot be shared by {size} processes.", "Set auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", "is cuda, but torch sees no GPU.", "Set device: auto or cpu.")
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(
            "environment", f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set.", "Start it with torchrun."
        )
    rank = _integer("RANK", 0)
    if not 0 <= rank < size:
        raise ConfigError("environment:RANK", f"is {rank} in a world of {size}.", "Start it with torchrun.")
    if device == "cpu" or not torch.cuda.is_available():
        name, backend, bound = "cpu", "gloo", None
    else:
        local_rank = _integer("LOCAL_RANK", rank)
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                "environment:LOCAL_RANK",
                f"is {local_rank}, but this machine has {torch.cuda.device_count()} GPUs.",
                "Start torchrun with --nproc-per-node of at most that many.",
            )
        name, backend = f"cuda:{local_rank}", "nccl"
        torch.cuda.set_device(name)
        bound = torch.device(name)
    if not dist.is_initialized():
        dist.init_process_group(backend, rank=rank, world_size=size, device_id=bound)
    return World(rank=rank, size=size, device=name)


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"environment:{name}", f"is '{text}', not a number.", "Start it with torchrun, or unset it.")
    return int(text)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours, up to BUCKET_BYTES together; the same cut on every rank."""
    bucket: list[nn.Parameter] = []
    size_bytes = 0
    for p in parameters:
        if bucket and size_bytes + p.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, size_bytes = [], 0
        bucket.append(p)
        size_bytes += p.nbytes
    if bucket:
        yield bucket
