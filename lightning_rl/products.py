from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def fast_products() -> Iterator[None]:
    """Lets oneDNN compute float32 matrix products on the CPU, where it does so without losing a digit.

    PyTorch hands float32 products to MKL, which leaves half of what an AMD processor can do unused; oneDNN, which it
    has with it for other types, does not. PyTorch asks oneDNN only if products may be rounded to bfloat16, and oneDNN
    rounds only on processors that have instructions for it (AMX). Whether this one does is tried once, and on those
    that do nothing changes. A decorator too.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # since PyTorch 2.9
    if matmul is None or not torch.backends.mkldnn.is_available() or not _are_exact(matmul):
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def _are_exact(matmul: Any) -> bool:
    """Whether products that may be rounded to bfloat16 keep float32's digits on this processor all the same."""
    random = torch.Generator().manual_seed(0)
    # Whoever asks first may do so under autocast, or with another default dtype.
    left, right = torch.randn(2, 2, 256, 256, generator=random, dtype=torch.float32)
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", enabled=False):
            products = [left @ right, left[0] @ right[0]]
    finally:
        matmul.fp32_precision = before
    expected = left.double() @ right.double()
    # A sum of 256 products is off by 1e-6 of its scale in float32, by 3e-3 if the factors are rounded to bfloat16.
    errors = [(products[0] - expected).abs().max(), (products[1] - expected[0]).abs().max()]
    return bool(max(errors) < 1e-5 * expected.abs().max())
