import torch
from torch import Tensor
from torch.optim import Optimizer

FLUSHED = (torch.float32, torch.float64)


@torch.no_grad()
def flush_denormals(optimizer: Optimizer) -> None:
    """Sets to zero what an optimizer remembers in numbers too small for a processor's fast path: denormal ones.

    Adam's first moment of a weight that gets no gradient any more, such as a unit's that is never active, falls by a
    tenth an update, below 1.2e-38 and on to the smallest number there is; there it stays, because nine tenths of it
    round to itself. A sixth of the critics' moments may end like that, and each takes as long as many ordinary ones.
    """
    for state in optimizer.state.values():
        for value in state.values() if isinstance(state, dict) else ():  # an optimizer may hold a number of its own
            if isinstance(value, Tensor) and value.dtype in FLUSHED and value.device.type == "cpu":
                value.masked_fill_(value.abs() < torch.finfo(value.dtype).tiny, 0)
