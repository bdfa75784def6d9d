import math

import pytest
import torch
from torch import Tensor, nn

from lightning_rl.networks import DoubleCritic, track

SIZES = (3, 2, (8, 6))


@pytest.fixture(autouse=True)
def same_weights_every_time() -> None:
    torch.manual_seed(0)


def critic() -> DoubleCritic:
    return DoubleCritic(*SIZES, nn.ReLU).double()


def plain_critic(twins: DoubleCritic, which: int) -> nn.Sequential:
    """One of the two critics as ordinary layers, the slides' fc1 to fc3 or fc4 to fc6."""
    layers: list[nn.Module] = []
    for layer in twins.layers:
        if not hasattr(layer, "weight"):
            layers.append(nn.ReLU())
            continue
        linear = nn.Linear(*layer.weight.shape[1:]).double()
        with torch.no_grad():
            linear.weight.copy_(layer.weight[which].T)
            linear.bias.copy_(layer.bias[which, 0])
        layers.append(linear)
    return nn.Sequential(*layers)


def inputs() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, generator=random).double(), torch.rand(16, 2, generator=random).double() * 2 - 1


def test_batched_product_is_two_ordinary_networks() -> None:
    twins, (observation, action) = critic(), inputs()
    q1, q2 = twins(observation, action)
    x = torch.cat([observation, action], dim=1)
    assert [layer.out_features for layer in plain_critic(twins, 0) if isinstance(layer, nn.Linear)] == [8, 6, 1]
    assert q1.shape == q2.shape == (16,)
    torch.testing.assert_close(q1, plain_critic(twins, 0)(x)[:, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q2, plain_critic(twins, 1)(x)[:, 0], rtol=1e-12, atol=1e-12)
    assert (q1 - q2).abs().max() > 1e-3


def test_gradients_are_those_of_two_ordinary_networks() -> None:
    twins, (observation, action) = critic(), inputs()
    (twins(observation, action) - 1).square().mean(-1).sum().backward()
    x = torch.cat([observation, action], dim=1)
    for which in (0, 1):
        plain = plain_critic(twins, which)
        (plain(x)[:, 0] - 1).square().mean().backward()
        twin_layers = [layer for layer in twins.layers if hasattr(layer, "weight")]
        for ours, theirs in zip(twin_layers, plain[::2], strict=True):
            torch.testing.assert_close(ours.weight.grad[which].T, theirs.weight.grad, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(ours.bias.grad[which, 0], theirs.bias.grad, rtol=1e-12, atol=1e-12)


def test_q1_and_q2_are_the_two_critics() -> None:
    twins, (observation, action) = critic(), inputs()
    x = torch.cat([observation, action], dim=1)
    torch.testing.assert_close(twins.Q1(observation, action), plain_critic(twins, 0)(x)[:, 0])
    torch.testing.assert_close(twins.Q2(observation, action), plain_critic(twins, 1)(x)[:, 0])


@pytest.mark.parametrize(("trained", "other"), [("Q1", 1), ("Q2", 0)])
def test_gradient_of_one_critic_does_not_reach_the_other(trained: str, other: int) -> None:
    twins = critic()
    gradients = torch.autograd.grad(getattr(twins, trained)(*inputs()).sum(), list(twins.parameters()))
    assert all(gradient[other].abs().max() == 0 for gradient in gradients)
    assert all(gradient[1 - other].abs().max() > 0 for gradient in gradients)


def test_layers_are_initialised_as_linear_ones() -> None:
    twins = DoubleCritic(28, 4, (256, 64), nn.ReLU)
    for layer, fan_in in zip(twins.layers[::2], (32, 256, 64), strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() <= bound
        # uniform on ±bound: the variance is bound² / 3, its estimate's relative standard error √(0.8 / n)
        n = layer.weight.numel()
        assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / n))
        assert not torch.equal(layer.weight[0], layer.weight[1])


def test_target_follows_by_exactly_tau_a_step() -> None:
    leader, follower, tau, steps = critic(), critic(), 0.3, 7
    before = [parameter.clone() for parameter in follower.parameters()]
    aim = [parameter.clone() for parameter in leader.parameters()]
    for _ in range(steps):
        track(follower, leader, tau)
    for old, new, goal in zip(before, follower.parameters(), aim, strict=True):
        torch.testing.assert_close(new, goal + (1 - tau) ** steps * (old - goal), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(now, goal) for now, goal in zip(leader.parameters(), aim, strict=True))


def test_statistics_of_a_network_of_ones_own_follow_too() -> None:
    leader, follower = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    leader(torch.randn(5, 3))
    track(follower, leader, 0.1)
    assert torch.equal(follower.running_mean, leader.running_mean)
    assert follower.num_batches_tracked == 1


@pytest.mark.parametrize(("tau", "whose"), [(0.0, "follower"), (1.0, "leader")])
def test_tau_zero_leaves_the_target_and_one_copies_the_critic(tau: float, whose: str) -> None:
    critics = {"follower": critic(), "leader": critic()}
    expected = [parameter.clone() for parameter in critics[whose].parameters()]
    track(critics["follower"], critics["leader"], tau)
    assert all(torch.equal(a, b) for a, b in zip(critics["follower"].parameters(), expected, strict=True))
