import numpy as np
import torch
from torch import Tensor


def inner_bounds(low: np.ndarray, high: np.ndarray) -> tuple[Tensor, Tensor]:
    """Bounds in the parameters' precision, rounded inwards: a float32 clamped to them is within those of float64 too.

    Args:
        low: ``[n]``, float64, infinite where there is none.
        high: ``[n]``, likewise.
    """
    inner = []
    for bound, inwards in ((low, np.inf), (high, -np.inf)):
        exact = torch.from_numpy(bound)
        rounded = exact.to(torch.get_default_dtype())
        beyond = (rounded.double() < exact) if inwards > 0 else (rounded.double() > exact)
        inner.append(torch.where(beyond, rounded.nextafter(torch.full_like(rounded, inwards)), rounded))
    return inner[0], inner[1]
