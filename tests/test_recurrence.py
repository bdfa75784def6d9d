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
