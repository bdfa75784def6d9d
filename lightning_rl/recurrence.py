from typing import Any

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
    sums, factors = x.clone(), (~cut).to(x.dtype) * decay
    arrays: Any = (sums, factors, before.to(x))
    if x.device.type == "cpu" and not x.requires_grad:
        # NumPy sees the same memory, and its calls take a tenth of the time of PyTorch's.
        arrays = [tensor.numpy() for tensor in arrays]
    rows, factor, previous = arrays
    for step in range(len(x)):
        rows[step] += factor[step] * previous
        previous = rows[step]
    return sums
