"""The world: rank, size, device and sums over ranks; also for the one process most people have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who this process is among how many; every operation is exact for one."""

    rank: int
    size: int
    device: str

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: float) -> float:
        """Sum of a number over all ranks, in fp64."""
        if self.size == 1:
            return float(value)
        total = torch.tensor(value, dtype=torch.float64, device=self.device if self.device != "mps" else "cpu")
        dist.all_reduce(total)
        return float(total)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks, in one flat exchange."""
        if self.size == 1:
            return
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).detach().reshape(-1).float() for p in parameters]
        )
        dist.all_reduce(flat)
        at = 0
        for p in parameters:
            piece = flat[at : at + p.numel()].view_as(p).to(p.dtype)
            p.grad = piece if p.grad is None else p.grad.copy_(piece)
            at += p.numel()

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def one_process(device: str = "cpu") -> World:
    """The world of a single process."""
    return World(rank=0, size=1, device=device)


def from_environment(device: str = "auto") -> World:
    """The world torchrun describes in RANK, WORLD_SIZE and LOCAL_RANK; a single process without them.

    gloo joins CPUs, nccl GPUs; each rank takes the GPU of its local rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return one_process(device)
    use_cuda = torch.cuda.is_available() and device in ("auto", "cuda")
    name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if use_cuda else "cpu"
    if use_cuda:
        torch.cuda.set_device(name)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if use_cuda else "gloo")
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=name)
