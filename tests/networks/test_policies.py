import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence
from torch.func import jacrev
from torch.nn.utils import prune
from torch.testing import assert_close

from lightning_rl.moments import moments
from lightning_rl.networks.categorical_policy import CategoricalPolicy
from lightning_rl.networks.gaussian_policy import GaussianPolicy
from lightning_rl.networks.mlp import at_rest
from lightning_rl.networks.policy import Policy
from lightning_rl.networks.value import ValueNetwork

UNBOUNDED = Box(-np.inf, np.inf, (3,))
POLICIES = {
    "gaussian": lambda: GaussianPolicy(5, UNBOUNDED),
    "discrete": lambda: CategoricalPolicy(5, Discrete(4)),
    "multi-discrete": lambda: CategoricalPolicy(5, MultiDiscrete([2, 3, 4])),
}


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    torch.manual_seed(0)
    return POLICIES[request.param]().double()


def random_parameters(policy: Policy, *shape: int, seed: int = 0) -> Tensor:
    size = policy(torch.zeros(5, dtype=torch.float64)).shape[-1]
    return torch.randn(*shape, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torch_distributions(policy: Policy, parameters: Tensor) -> list[Distribution]:
    """What PyTorch has for it; one a component."""
    if isinstance(policy, CategoricalPolicy):
        return [Categorical(logits=logits) for logits in parameters.split(policy.choices, -1)]
    mean, log_std = parameters.chunk(2, -1)
    return [Independent(Normal(mean, log_std.exp()), 1)]


def drawn_actions(policy: Policy, parameters: Tensor) -> Tensor:
    noise = policy.draw_noise(parameters.shape[:-1], torch.Generator().manual_seed(1))
    return policy.sample(parameters, noise.to(parameters.dtype))


def exact(policy: Policy, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Actions and weights that give expectations exactly, of what a Fisher matrix is made of.

    All actions and their probabilities; for normal numbers Gauss-Hermite points, exact for polynomials of the ninth
    degree.
    """
    if isinstance(policy, CategoricalPolicy):
        actions = torch.tensor(list(itertools.product(*map(range, policy.choices))))
        components = torch_distributions(policy, parameters)
        return actions, torch.stack([d.probs[a] for d, a in zip(components, actions.T, strict=True)]).prod(0)
    points, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(5))
    mean, log_std = parameters.chunk(2, -1)
    noise = torch.cartesian_prod(*[points] * len(mean))
    weight = torch.cartesian_prod(*[weights / weights.sum()] * len(mean)).prod(-1)
    return mean + log_std.exp() * noise, weight


def test_log_prob_agrees_with_torch_distributions(policy: Policy) -> None:
    parameters = random_parameters(policy, 6, 7)
    action = drawn_actions(policy, parameters)
    if isinstance(policy, CategoricalPolicy):
        components = zip(torch_distributions(policy, parameters), action.unbind(-1), strict=True)
        expected = sum(d.log_prob(a) for d, a in components)
    else:
        expected = torch_distributions(policy, parameters)[0].log_prob(action)
    found = policy.log_prob(parameters, action)
    assert found.shape == (6, 7)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_entropy_agrees_with_torch_distributions(policy: Policy) -> None:
    parameters = random_parameters(policy, 6, 7)
    expected = sum(d.entropy() for d in torch_distributions(policy, parameters))
    assert_close(policy.entropy(parameters), expected, rtol=1e-12, atol=1e-12)


def test_kl_is_that_of_the_old_distribution_from_the_new(policy: Policy) -> None:
    old, new = random_parameters(policy, 6, 7), random_parameters(policy, 6, 7, seed=1)
    pairs = zip(torch_distributions(policy, old), torch_distributions(policy, new), strict=True)
    expected = sum(kl_divergence(o, n) for o, n in pairs)
    assert_close(policy.kl(old, new), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(policy.kl(old, new), policy.kl(new, old))
    assert torch.equal(policy.kl(old, old), torch.zeros(6, 7, dtype=torch.float64))


def test_fisher_product_is_with_the_expected_outer_product_of_the_score(policy: Policy) -> None:
    parameters = random_parameters(policy)
    actions, weights = exact(policy, parameters)
    assert_close(weights.sum(), torch.ones((), dtype=torch.float64))
    score = jacrev(lambda p: policy.log_prob(p.expand(len(actions), -1), actions))(parameters)
    fisher = (weights[:, None, None] * score[:, :, None] * score[:, None, :]).sum(0)
    tangent = random_parameters(policy, 8, seed=1)
    found = policy.fisher_product(parameters.expand_as(tangent), tangent)
    assert_close(found, tangent @ fisher, rtol=1e-11, atol=1e-12)


def test_fisher_product_is_with_the_hessian_of_the_divergence(policy: Policy) -> None:
    parameters = random_parameters(policy)
    identity = torch.eye(len(parameters), dtype=torch.float64)
    fisher = policy.fisher_product(parameters.expand_as(identity), identity)
    by_autograd = jacrev(jacrev(lambda new: policy.kl(parameters, new)))(parameters)
    assert_close(fisher, by_autograd, rtol=1e-12, atol=1e-12)


def test_fisher_product_is_with_the_second_differences_of_the_divergence(policy: Policy) -> None:
    parameters, tangent = random_parameters(policy), random_parameters(policy, seed=1)
    step = 1e-3
    forth, back = (policy.kl(parameters, parameters + h * tangent) for h in (step, -step))
    curvature = (forth + back) / step**2  # the divergence is zero in the middle
    assert_close(tangent @ policy.fisher_product(parameters, tangent), curvature, rtol=1e-5, atol=0)


def test_entropy_is_the_expected_negative_log_prob(policy: Policy) -> None:
    parameters = random_parameters(policy)
    actions, weights = exact(policy, parameters)
    log_prob = policy.log_prob(parameters.expand(len(actions), -1), actions)
    assert_close(-(weights * log_prob).sum(), policy.entropy(parameters), rtol=1e-12, atol=1e-12)


def test_mode_is_the_most_probable_action(policy: Policy) -> None:
    parameters = random_parameters(policy)
    actions, _ = exact(policy, parameters)
    mode = policy.mode(parameters)
    assert mode.shape == (policy.action_size,)
    highest = policy.log_prob(parameters.expand(len(actions), -1), actions).max()
    assert_close(policy.log_prob(parameters, mode), highest, rtol=1e-12, atol=0)


def test_gaussian_samples_have_the_parameters_mean_and_deviation() -> None:
    policy = GaussianPolicy(5, UNBOUNDED)
    parameters = torch.tensor([1.0, -2.0, 0.0, -1.0, 0.0, 1.0])
    mean, std = parameters[:3], parameters[3:].exp()
    count = 100_000
    actions = drawn_actions(policy, parameters.expand(count, -1))
    standard_error = std / math.sqrt(count)
    assert ((actions.mean(0) - mean).abs() < 4 * standard_error).all()
    assert ((actions.std(0) - std).abs() < 4 * standard_error / math.sqrt(2)).all()


def test_categorical_samples_have_the_frequencies_of_the_softmax() -> None:
    policy = CategoricalPolicy(5, MultiDiscrete([2, 3]))
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, -2.0])
    count = 100_000
    actions = drawn_actions(policy, logits.expand(count, -1))
    joint = torch.outer(logits[:2].softmax(0), logits[2:].softmax(0)).flatten()
    frequency = (actions[:, 0] * 3 + actions[:, 1]).bincount(minlength=6) / count
    assert ((frequency - joint).abs() < 4 * (joint * (1 - joint) / count).sqrt()).all()


def test_sampled_actions_are_within_the_space() -> None:
    for space in (Discrete(3, start=4), MultiDiscrete([[2, 3], [4, 5]], start=[[1, 2], [3, 4]])):
        policy = CategoricalPolicy(5, space)
        actions = policy.to_environment(drawn_actions(policy, policy(torch.randn(50, 5))))
        shaped = actions.numpy().reshape(-1, *space.shape).astype(space.dtype)
        assert all(space.contains(action) for action in shaped)


def test_noise_comes_from_the_generator_alone(policy: Policy) -> None:
    draws = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        draws.append(policy.draw_noise((4, 2), torch.Generator().manual_seed(7)))
    assert draws[0].shape == (4, 2, policy.noise_size)
    assert torch.equal(*draws)
    assert draws[0].unique().numel() == draws[0].numel()


def test_policy_sees_normalised_observations_and_its_state_dict_holds_their_statistics(policy: Policy) -> None:
    observation = 3 + 2 * torch.randn(100, 5, dtype=torch.float64)
    assert policy.normalizer is not None
    policy.normalizer.update(moments(observation))
    normalised = (observation - observation.mean(0)) / observation.std(0, correction=0)
    assert_close(policy.normalize(observation), normalised, rtol=1e-7, atol=1e-7)
    mean = policy.network(normalised)
    assert_close(policy(observation)[:, : mean.shape[-1]], mean, rtol=1e-6, atol=1e-8)
    assert {"normalizer.mean", "normalizer.variance", "normalizer.count"} <= policy.state_dict().keys()


def test_policy_without_normalisation_sees_the_observations_themselves() -> None:
    policy = GaussianPolicy(5, UNBOUNDED, normalize_observations=False)
    observation = 1e6 * torch.randn(4, 5)
    assert policy.normalize(observation) is observation
    assert not any(name.startswith("normalizer") for name in policy.state_dict())


def test_first_policy_is_nearly_the_same_everywhere(policy: Policy) -> None:
    parameters = policy(torch.randn(200, 5, dtype=torch.float64))
    assert parameters.abs().max() < 0.1
    assert parameters.std(0).max() > 0


def test_weights_are_orthogonal_with_their_gains() -> None:
    def gains(network: nn.Module) -> list[float]:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        assert all((layer.bias == 0).all() for layer in layers)
        squares = [
            w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w for w in (layer.weight.detach() for layer in layers)
        ]
        for square in squares:
            assert_close(square, square[0, 0] * torch.eye(len(square)), rtol=1e-5, atol=1e-5)
        return [float(square[0, 0].sqrt()) for square in squares]

    assert gains(GaussianPolicy(5, UNBOUNDED)) == pytest.approx([math.sqrt(2), math.sqrt(2), 0.01], rel=1e-5)
    assert gains(ValueNetwork(5)) == pytest.approx([math.sqrt(2), math.sqrt(2), 1.0], rel=1e-5)


class Bent(nn.Tanh):
    """An activation of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * x


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, Bent])
@pytest.mark.parametrize("kind", [GaussianPolicy, CategoricalPolicy])
def test_a_policy_at_rest_acts_as_it_always_does(
    kind: type[Policy], activation: type[nn.Module], rows: int, normalize: bool
) -> None:
    torch.manual_seed(0)
    space = UNBOUNDED if kind is GaussianPolicy else MultiDiscrete([2, 3, 4])
    policy = kind(5, space, activation=activation, normalize_observations=normalize)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    if policy.normalizer is not None:
        policy.normalizer.update(moments(3 + 2 * torch.randn(100, 5)))
    observation, noise = torch.randn(rows, 5), policy.draw_noise([rows], torch.default_generator)
    assert torch.equal(policy.at_rest()(observation, noise), policy.explore(observation, noise))
    assert torch.equal(policy.mode_at_rest()(observation), policy.mode(policy(observation)))


def test_networks_of_another_kind_act_at_rest_by_themselves() -> None:
    network = nn.Bilinear(2, 2, 2)
    assert at_rest(network) is network


@pytest.mark.parametrize("kind", [GaussianPolicy, CategoricalPolicy])
def test_a_pruned_policy_at_rest_acts_as_it_always_does(kind: type[Policy]) -> None:
    """Pruning computes a layer's weight anew whenever the layer is called, in a hook."""
    torch.manual_seed(0)
    policy = kind(5, UNBOUNDED if kind is GaussianPolicy else MultiDiscrete([2, 3, 4]))
    prune.random_unstructured(policy.network[0], "weight", 0.5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    observation, noise = torch.randn(64, 5), policy.draw_noise([64], torch.default_generator)
    assert torch.equal(policy.at_rest()(observation, noise), policy.explore(observation, noise))
    assert torch.equal(policy.mode_at_rest()(observation), policy.mode(policy(observation)))
