"""Matrix products by oneDNN keep float32's digits, or are not used."""

import pytest
import torch

from lightning_rl.products import fast_products

SHAPES = [((256, 28), (28, 256)), ((256, 256), (256, 1)), ((2, 256, 256), (2, 256, 256)), ((2, 28, 64), (2, 64, 512))]


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_fast_products_are_float32_products(left: tuple[int, ...], right: tuple[int, ...], transposed: bool) -> None:
    random = torch.Generator().manual_seed(1)
    a, b = torch.randn(left, generator=random), torch.randn(right, generator=random)
    if transposed:  # in memory, as the products of a backward pass have them
        a, b = a.mT.contiguous().mT, b.mT.contiguous().mT
    with fast_products():
        product = a @ b
    exact = a.double() @ b.double()
    # Higham 2002, "Accuracy and Stability of Numerical Algorithms", eq. 3.13: n rounding errors of 2⁻²⁴ at most.
    bound = left[-1] * 2**-24 * (a.double().abs() @ b.double().abs())
    assert bool(((product - exact).abs() <= bound).all())


def test_the_users_setting_comes_back() -> None:
    matmul = pytest.importorskip("torch.backends.mkldnn").matmul
    before = matmul.fp32_precision

    def fails() -> None:
        with fast_products():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert matmul.fp32_precision == before
