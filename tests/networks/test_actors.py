import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F  # noqa: N812

from lightning_rl.networks import GaussianNetwork, SquashedGaussianActor, squashed_log_prob

LOW, HIGH = np.float32([-1.0, 0.0, -8.0]), np.float32([3.0, 0.5, 8.0])  # asymmetric, of different scales


class Fixed(nn.Module):
    """Gives the same mean and log σ for every observation."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        super().__init__()
        self.mean, self.log_std = mean, log_std

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*observation.shape[:-1], self.mean.shape[-1])
        return self.mean.expand(shape), self.log_std.expand(shape)


def actor(mean: Tensor, log_std: Tensor, space: Box | None = None) -> SquashedGaussianActor:
    """An actor in float64 with a fixed Gaussian; without a space it acts in (−1, 1)."""
    return SquashedGaussianActor(Fixed(mean, log_std), space or Box(-1, 1, mean.shape)).double()


def float64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def log_density(action: Tensor, mean: float, std: float) -> Tensor:
    """The code's log-density at actions in (−1, 1), one dimension each."""
    u = action.atanh()[:, None]
    return squashed_log_prob(u, (u - mean) / std, torch.full_like(u, std).log())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.8), (0.3, 0.5), (-1.2, 0.6)])
def test_density_of_the_squashed_action_integrates_to_one(mean: float, std: float) -> None:
    cells = 200_000
    midpoints = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 / cells) - 1
    assert float(log_density(midpoints, mean, std).exp().sum() * 2 / cells) == pytest.approx(1, abs=1e-7)


def test_density_is_the_gaussians_times_the_derivative_of_atanh() -> None:
    mean, std, h = -0.4, 0.7, 1e-6
    action = np.linspace(-0.95, 0.95, 39)
    derivative = (np.arctanh(action + h) - np.arctanh(action - h)) / (2 * h)
    gaussian = np.exp(-0.5 * ((np.arctanh(action) - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    found = log_density(torch.from_numpy(action), mean, std).exp().numpy()
    np.testing.assert_allclose(found, gaussian * derivative, rtol=1e-8)


@pytest.mark.parametrize("u", [15.0, -15.0, 40.0, -40.0, 300.0, -300.0])
def test_log_prob_of_a_saturated_action_is_its_analytic_limit(u: float) -> None:
    noise, log_std = float64(0.6), float64(-0.5)
    at = float64(u).requires_grad_()
    log_prob = squashed_log_prob(at, noise, log_std)
    (gradient,) = torch.autograd.grad(log_prob, at)
    gaussian = -0.5 * 0.6**2 + 0.5 - 0.5 * math.log(2 * math.pi)
    # log(1 − tanh² u) = log 4 − 2|u| − 2 log(1 + exp(−2|u|)), whose last term is below 1e-12 here
    assert log_prob.item() == pytest.approx(gaussian - math.log(4) + 2 * abs(u), abs=1e-12 * abs(u))
    assert gradient.item() == pytest.approx(math.copysign(2, u), abs=1e-12)


@pytest.mark.parametrize("mean", [15.0, -40.0])
def test_saturated_sample_has_a_finite_log_prob_and_gradient_in_float32(mean: float) -> None:
    parameters = torch.tensor([mean], requires_grad=True), torch.tensor([0.3], requires_grad=True)
    policy = SquashedGaussianActor(Fixed(*parameters), Box(-1, 1, (1,)))
    action, log_prob = policy.rsample(torch.zeros(1, 1), torch.tensor([[0.5]]))
    gradients = torch.autograd.grad(action.sum() + log_prob.sum(), parameters)
    assert action.item() == math.copysign(1, mean)
    assert log_prob.isfinite().all()
    assert all(gradient.isfinite().all() and gradient.abs() > 0 for gradient in gradients)


def test_log_std_is_clipped_to_minus_20_and_2() -> None:
    policy = actor(float64(0, 0, 0), float64(-50, 1.5, 50))
    mean, log_std = policy.distribution(torch.zeros(1, 1))
    assert log_std.tolist() == [[-20.0, 1.5, 2.0]]
    assert policy.explore(torch.zeros(1, 1), torch.ones(1, 3))[0].tolist() == pytest.approx(
        np.tanh(np.exp([-20.0, 1.5, 2.0])).tolist(), rel=1e-14
    )
    assert mean.tolist() == [[0.0, 0.0, 0.0]]


def test_log_prob_sums_over_action_dimensions() -> None:
    means, stds, noise = [0.2, -0.5, 1.0], [0.5, 1.5, 0.3], randn(7, 3)
    policy = actor(float64(*means), float64(*stds).log())
    action, log_prob = policy.rsample(torch.zeros(7, 2), noise)
    assert action.shape == (7, 3)
    assert log_prob.shape == (7,)
    normal = torch.distributions.Normal(float64(*means), float64(*stds))
    expected = (normal.log_prob(action.atanh()) - (1 - action.square()).log()).sum(1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-9, atol=1e-9)


def test_environment_log_prob_is_the_density_in_the_environments_units() -> None:
    means, stds, h = [0.2, -0.5, 1.0], [0.5, 0.8, 0.3], 1e-6
    policy = actor(float64(*means), float64(*stds).log(), Box(LOW, HIGH))
    normalised, log_prob = policy.rsample(torch.zeros(5, 2), randn(5, 3))
    action = policy.to_environment(normalised).numpy()

    def u(action: np.ndarray) -> np.ndarray:
        return np.arctanh(2 * (action - LOW) / (HIGH.astype(np.float64) - LOW) - 1)

    step = h * (HIGH - LOW)
    derivative = (u(action + step) - u(action - step)) / (2 * step)
    gaussian = np.exp(-0.5 * ((u(action) - means) / stds) ** 2) / (np.array(stds) * math.sqrt(2 * math.pi))
    expected = np.log(gaussian * derivative).sum(1)
    np.testing.assert_allclose(policy.environment_log_prob(log_prob).numpy(), expected, rtol=1e-6)


def test_greedy_action_is_the_squashed_mean_in_the_environments_units() -> None:
    means = [0.2, -0.5, 1.0]
    policy = actor(float64(*means), float64(0, 0, 0), Box(LOW, HIGH))
    scale, bias = [2.0, 0.25, 8.0], [1.0, 0.25, 0.0]
    expected = [s * math.tanh(m) + b for s, m, b in zip(scale, means, bias, strict=True)]
    assert policy(torch.zeros(1, 1))[0].tolist() == pytest.approx(expected, rel=1e-14)
    assert policy.greedy(torch.zeros(1, 1))[0].tolist() == pytest.approx(np.tanh(means).tolist(), rel=1e-14)


def test_explored_action_is_the_one_that_is_scored() -> None:
    policy, noise = actor(float64(0.2, -0.5), float64(0.1, -1.0)), randn(4, 2)
    expected = np.tanh(np.array([0.2, -0.5]) + np.exp([0.1, -1.0]) * noise.numpy())
    np.testing.assert_allclose(policy.explore(torch.zeros(4, 1), noise).numpy(), expected, rtol=1e-14)
    np.testing.assert_allclose(policy.rsample(torch.zeros(4, 1), noise)[0].numpy(), expected, rtol=1e-14)


def test_environment_action_reaches_both_bounds_and_is_never_beyond() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        center = random.normal(size=4) * 10.0 ** random.integers(-3, 4, size=4)
        width = 10.0 ** random.uniform(-3, 3, size=4)
        low, high = (center - width).astype(np.float32), (center + width).astype(np.float32)
        policy = SquashedGaussianActor(nn.Identity(), Box(low, high))
        normalised = np.float32([[1.0] * 4, [-1.0] * 4, *random.choice([-1, 1], (8, 4)) * (1 - 1e-7)])
        action = policy.to_environment(torch.from_numpy(normalised)).numpy()
        assert (action >= low).all()
        assert (action <= high).all()
        # scale, bias and their sum are each rounded by at most half a unit in the last place of the larger bound
        rounding = 1.5 * np.finfo(np.float32).eps * np.maximum(abs(low), abs(high))
        assert (high - action[0] <= rounding).all()
        assert (action[1] - low <= rounding).all()


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-2, 2), (0, 1), (-0.4, 0.4), (-1, 3)])
def test_environment_action_hits_common_bounds_exactly(low: float, high: float) -> None:
    space = Box(low, high, (1,))
    policy = SquashedGaussianActor(nn.Identity(), space)
    assert policy.to_environment(torch.tensor([-1.0, 1.0])).tolist() == [float(space.low[0]), float(space.high[0])]


def test_bounds_that_single_precision_does_not_hold_are_kept_in_double() -> None:
    space = Box(np.array([-0.1, -0.3, 1.1]), np.array([0.1, 0.7, 1.3]), dtype=np.float64)
    actor = SquashedGaussianActor(GaussianNetwork(2, 3, [], nn.ReLU), space)
    for extreme in (-1.0, 1.0):
        action = actor.to_environment(torch.full((3,), extreme)).numpy().astype(np.float64)
        assert space.contains(action)
        assert np.allclose(action, space.high if extreme > 0 else space.low, rtol=1e-6)


def test_reparametrised_sample_passes_gradients_to_mean_and_std() -> None:
    noise = randn(3, 2)

    def sample(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        return actor(mean, log_std).rsample(torch.zeros(3, 1), noise)

    # gradcheck compares with finite differences in float64
    assert gradcheck(sample, (float64(0.3, -1.0).requires_grad_(), float64(-0.7, 0.4).requires_grad_()))


def test_gaussian_network_is_two_heads_on_one_relu_trunk() -> None:
    network = GaussianNetwork(3, 2, [8, 6], nn.ReLU).double()
    observation = randn(5, 3)
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in network.trunk if isinstance(layer, nn.Linear))
    x = F.relu(F.relu(observation @ w1.T + b1) @ w2.T + b2)
    mean, log_std = network(observation)
    torch.testing.assert_close(mean, x @ network.mean.weight.T + network.mean.bias)
    torch.testing.assert_close(log_std, x @ network.log_std.weight.T + network.log_std.bias)
    assert mean.shape == log_std.shape == (5, 2)
