import pytest
import torch

from lightning_rl.recurrence import decayed_sums


def test_sums_are_those_of_a_loop() -> None:
    random = torch.Generator().manual_seed(0)
    x, before = torch.randn(50, 3, generator=random).double(), torch.randn(3, generator=random).double()
    cut = torch.rand(50, 3, generator=random) < 0.2
    cut[0] = torch.tensor([True, False, False])
    expected = torch.zeros(50, 3).double()
    for column in range(3):
        y = float(before[column])
        for step in range(50):
            y = float(x[step, column]) + 0.9 * (0.0 if cut[step, column] else y)
            expected[step, column] = y
    given = x.clone()
    torch.testing.assert_close(decayed_sums(x, cut, 0.9, before), expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(x, given)


@pytest.mark.parametrize("columns", [1, 5])
def test_in_float32_every_bit_is_that_of_pytorchs_own_operations(columns: int) -> None:
    random = torch.Generator().manual_seed(1)
    x, before = torch.randn(200, columns, generator=random), torch.randn(columns, generator=random)
    cut = torch.rand(200, columns, generator=random) < 0.1
    expected, y = [], before
    for row, where in zip(x, cut, strict=True):
        y = row + 0.97 * y.masked_fill(where, 0)
        expected.append(y)
    assert torch.equal(decayed_sums(x, cut, 0.97, before), torch.stack(expected))
    learned = x.clone().requires_grad_()
    sums = decayed_sums(learned, cut, 0.97, before)  # in PyTorch, as on an accelerator
    assert torch.equal(sums, torch.stack(expected))
    assert sums.requires_grad
