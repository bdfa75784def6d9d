import atexit
import gc
from collections.abc import Sequence
from functools import cache

import torch
import torch.distributed
from torch import Tensor


def world_size() -> int:
    """The number of ranks; one without a process group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor over all ranks, in one collective.

    The tensors travel as one flat vector, because a collective's price is mostly its latency. Without a process
    group, or in one of a single rank, the tensors come back as they are.

    Args:
        tensors: any shapes, the same on every rank, on one device.

    Returns:
        Tensors of the same shapes.
    """
    ranks = world_size()
    if ranks == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    # NCCL reduces on GPUs alone; statistics of the experience live on the CPU.
    travelling = flat.cuda() if torch.distributed.get_backend() == "nccl" else flat
    torch.distributed.all_reduce(travelling)
    flat = (travelling / ranks).to(flat.device)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor).to(tensor.dtype) for piece, tensor in zip(pieces, tensors, strict=True)]


@cache
def leave_at_exit() -> None:
    """Sees to it that gloo's group, if this process is in one, is left before the interpreter is finalized.

    Gloo's threads may still hold a tensor of the last collective then, and one that lets go of it once finalization has
    begun aborts the process: a run that was complete fails. A group that is destroyed waits for its threads, if nothing
    else holds it, as DDP's wrapper does until training is over. For NCCL Lightning does the same.
    """
    atexit.register(_leave)


def _leave() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        gc.collect()  # a wrapper that nothing needs any more still holds itself
        distributed.destroy_process_group()
