from typing import Any

import torch
from torch import Tensor


def decayed_sums(x: Tensor, cut: Tensor, decay: float, before: Tensor) -> Tensor:
    """y_t = x_t + decay · y_{t−1}, in the order of time, where y_{t−1} counts as zero wherever cut_t is true.

    Args:
        x: ``[steps, n]``, finite.
        cut: ``[steps, n]``, bool.
        decay: of one step.
        before: y of the step before the first one, ``[n]``.

    Returns:
        ``[steps, n]``, on the device of x.
    """
    sums, factors = torch.empty_like(x), (~cut).to(x.dtype) * decay
    arrays: Any = (sums, x, factors, before.to(x))
    if x.device.type == "cpu" and not x.requires_grad:
        # NumPy sees the same memory, and its calls take a tenth of the time of PyTorch's; those of its single numbers,
        # into which an array of one column falls apart, a tenth of that.
        arrays = [tensor.squeeze(-1).numpy() for tensor in arrays]
    rows, given, factor, y = arrays
    for step, (number, kept) in enumerate(zip(given, factor, strict=True)):
        y = number + kept * y
        rows[step] = y
    return sums
