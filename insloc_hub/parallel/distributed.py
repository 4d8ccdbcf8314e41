"""One process or many: torchrun's environment, and helpers that answer honestly with one process.

Gradients are averaged by hand, in one flat all-reduce, and not by DistributedDataParallel: a step runs its encoder once
per batch group, and DDP's reducer counts on one forward per backward. The order of all draws is that of one process with
the same global batch, so the number of processes changes no number but BatchNorm's running buffers (paper.md A.2).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist

from insloc_hub.errors import BadRun


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join torchrun's process group while inside, where there is one; gives this process's device.

    BadRun: torchrun's variables are damaged, or there are more processes than GPUs.
    """
    if "RANK" not in os.environ:
        yield device
        return
    try:
        local, world = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError) as error:
        raise BadRun(f"torchrun's environment is incomplete ({error}); start with torchrun -m insloc_hub.cli ...") from None
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise BadRun(f"process {local} of {world} has no GPU: there are {torch.cuda.device_count()}; start fewer of them")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def first_process() -> bool:
    """Whether this is the process that writes, also outside of `processes`."""
    return os.environ.get("RANK", "0") == "0"


def rank() -> int:
    """Of this process; 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mine(n: int) -> slice:
    """This process's part of a global batch of `n`, in rank order."""
    share = n // world()
    return slice(rank() * share, (rank() + 1) * share)


def gather(x: Tensor) -> Tensor:
    """[n ...] of each process -> [world n ...] in rank order; takes no gradient along."""
    if world() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def mean(x: Tensor) -> Tensor:
    """The mean over processes."""
    return gather(x.detach()[None]).mean(dim=0)


def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average every gradient over the processes, in place."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat / world(), [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether it is true on any process; all must ask together."""
    return flag if world() == 1 else bool(gather(torch.tensor([flag], device=device)).any())


def wait() -> None:
    """Until every process is here."""
    if world() > 1:
        dist.barrier()
