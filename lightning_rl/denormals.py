import torch
from torch import Tensor
from torch.optim import Optimizer


@torch.no_grad()
def flush_denormals(optimizer: Optimizer) -> None:
    """Sets to zero what an optimizer remembers in numbers too small for a processor's fast path, below 1.2e-38.

    Adam's first moment of a weight that gets no gradient any more, such as a unit's that is never active, falls by a
    tenth an update, until it is the smallest number there is; there it stays, because nine tenths of it round to
    itself. A fifth of the critics' moments may end like that, and each takes as long as a hundred ordinary ones.
    """
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor) and value.is_floating_point() and value.device.type == "cpu":
                value.masked_fill_(value.abs() < torch.finfo(value.dtype).tiny, 0)
