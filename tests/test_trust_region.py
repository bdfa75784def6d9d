import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.testing import assert_close

from lightning_rl.networks.categorical_policy import CategoricalPolicy
from lightning_rl.networks.gaussian_policy import GaussianPolicy
from lightning_rl.networks.policy import Policy
from lightning_rl.trust_region import (
    conjugate_gradient,
    fisher_vector_product,
    flatten,
    line_search,
    natural_step,
    unflatten,
)

SEEDS = st.integers(0, 2**32 - 1)
STATES = 6


def gaussian() -> Policy:
    policy = GaussianPolicy(3, Box(-1, 1, (2,)), hidden_sizes=(4,))
    nn.init.normal_(policy.log_std)
    return policy


def categorical() -> Policy:
    return CategoricalPolicy(3, MultiDiscrete([2, 3]), hidden_sizes=(4,), activation=nn.SiLU)


@pytest.fixture(params=["linearised", "anew"])
def forward_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether products trace the network once, or compute it anew every time."""
    states = STATES if request.param == "anew" else 0
    monkeypatch.setattr("lightning_rl.trust_region.WORTH_LINEARIZING", states + 1)


@pytest.fixture(params=[gaussian, categorical])
def policy(request: pytest.FixtureRequest, forward_mode: None) -> Policy:
    torch.manual_seed(0)
    policy: Policy = request.param().double()
    for layer in policy.network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return policy


@pytest.fixture
def observation() -> Tensor:
    return torch.randn(STATES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def size(policy: Policy) -> int:
    return sum(parameter.numel() for parameter in policy.parameters())


def product_at(policy: Policy, observation: Tensor, damping: float = 0.0, **options):
    def distribution(parameters: Sequence[Tensor]) -> Tensor:
        named = dict(zip(dict(policy.named_parameters()), parameters, strict=True))
        return functional_call(policy, named, (observation,))

    return fisher_vector_product(distribution, list(policy.parameters()), policy.fisher_product, damping, **options)


def matrix(product, n: int) -> Tensor:
    return torch.stack([product(column) for column in torch.eye(n, dtype=torch.float64)], dim=-1)


def per_state_jacobian(policy: Policy, function, *leading: int) -> Tensor:
    """Of a function of the policy's distribution, with respect to all of the policy's parameters: ``[*leading, n]``."""
    parameters = dict(policy.named_parameters())
    jacobians = jacrev(function)(parameters)
    return torch.cat([jacobians[name].reshape(*leading, -1) for name in parameters], dim=-1)


def random_positive_definite(seed: int, n: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    factor, b = torch.randn(n, n, dtype=torch.float64, generator=random), torch.randn(n, generator=random).double()
    return factor @ factor.T / n + torch.eye(n, dtype=torch.float64), b


def test_fisher_product_is_with_the_mean_outer_product_of_the_scores_over_all_actions(observation: Tensor) -> None:
    torch.manual_seed(0)
    policy = categorical().double()
    actions = torch.tensor(list(itertools.product(range(2), range(3))))

    def log_probs(parameters: dict[str, Tensor]) -> Tensor:
        distribution = functional_call(policy, parameters, (observation,))
        return policy.log_prob(distribution.unsqueeze(1).expand(-1, 6, -1), actions.expand(STATES, -1, -1))

    scores = per_state_jacobian(policy, log_probs, STATES, 6)
    probabilities = log_probs(dict(policy.named_parameters())).exp().detach()
    fisher = torch.einsum("sa,sai,saj->ij", probabilities, scores, scores) / STATES
    assert_close(matrix(product_at(policy, observation), size(policy)), fisher, rtol=1e-10, atol=1e-12)


def test_fisher_product_is_with_the_explicit_matrix(policy: Policy, observation: Tensor) -> None:
    distribution = policy(observation).detach()
    jacobian = per_state_jacobian(
        policy, lambda p: functional_call(policy, p, (observation,)), *distribution.shape
    ).detach()
    metric = torch.stack([jacrev(jacrev(lambda new, old=old: policy.kl(old, new)))(old) for old in distribution])
    fisher = torch.einsum("spi,spq,sqj->ij", jacobian, metric, jacobian) / STATES
    found = matrix(product_at(policy, observation, damping=0.3), size(policy))
    assert_close(found, fisher + 0.3 * torch.eye(len(fisher), dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_fisher_product_is_the_divergence_differentiated_twice(policy: Policy, observation: Tensor) -> None:
    parameters = list(policy.parameters())
    new = policy(observation)
    kl = policy.kl(new.detach(), new).mean()
    gradient = flatten(torch.autograd.grad(kl, parameters, create_graph=True))
    vector = torch.randn(size(policy), dtype=torch.float64)
    twice = flatten(torch.autograd.grad(gradient @ vector, parameters))
    assert_close(product_at(policy, observation)(vector), twice, rtol=1e-10, atol=1e-12)


def test_fisher_product_leaves_no_graph_and_repeats_itself(policy: Policy, observation: Tensor) -> None:
    product = product_at(policy, observation, damping=0.1)
    vector = torch.randn(size(policy), dtype=torch.float64)
    first = product(vector)
    assert not first.requires_grad
    assert torch.equal(product(vector), first)
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_the_product_has_the_same_digits_however_forward_mode_is_had(
    make: Callable[[], Policy], observation: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    policy, states = make().float(), observation.float()
    vector = torch.randn(size(policy))
    with monkeypatch.context() as without:
        without.setattr("lightning_rl.trust_region.linearize", None)  # a few states need none
        anew = product_at(policy, states)(vector)
    monkeypatch.setattr("lightning_rl.trust_region.WORTH_LINEARIZING", STATES)
    monkeypatch.setattr("lightning_rl.trust_region.jvp", None)
    assert torch.equal(product_at(policy, states)(vector), anew)


def test_states_may_have_any_leading_shape(policy: Policy, observation: Tensor) -> None:
    vector = torch.randn(size(policy), dtype=torch.float64)
    folded = product_at(policy, observation.reshape(2, 3, 3))(vector)
    assert_close(folded, product_at(policy, observation)(vector), rtol=1e-12, atol=1e-12)


def test_ranks_average_to_the_product_over_all_their_states(policy: Policy, observation: Tensor) -> None:
    ours, theirs = observation.chunk(2)
    vector = torch.randn(size(policy), dtype=torch.float64)
    from_the_other = product_at(policy, theirs)(vector)

    def average(tensors) -> list[Tensor]:
        (tensor,) = tensors
        return [(tensor + from_the_other) / 2]

    found = product_at(policy, ours, damping=0.1, average=average)(vector)
    assert_close(found, product_at(policy, observation, damping=0.1)(vector), rtol=1e-12, atol=1e-12)


def test_product_stays_where_it_was_taken_when_the_policy_moves(policy: Policy, observation: Tensor) -> None:
    product = product_at(policy, observation)
    vector = torch.ones(size(policy), dtype=torch.float64)
    before = product(vector)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1.0)
    assert torch.equal(product(vector), before)
    assert not torch.allclose(product_at(policy, observation)(vector), before)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 12))
def test_conjugate_gradient_solves_in_as_many_iterations_as_unknowns(seed: int, n: int) -> None:
    A, b = random_positive_definite(seed, n)
    found = conjugate_gradient(lambda v: A @ v, b, n, residual_tolerance=0.0)
    assert_close(found, torch.linalg.solve(A, b), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(1e-8, 1e8))
def test_conjugate_gradient_stops_at_the_relative_residual(seed: int, scale: float) -> None:
    A, b = random_positive_definite(seed, 30)
    b = scale * b
    calls = []
    found = conjugate_gradient(lambda v: calls.append(1) or A @ v, b, 1000, residual_tolerance=1e-6)
    assert len(calls) < 30
    assert (b - A @ found).norm() <= 1.001e-3 * b.norm()


def test_conjugate_gradient_of_nothing_is_nothing() -> None:
    assert torch.equal(conjugate_gradient(lambda v: v / 0, torch.zeros(3), 10), torch.zeros(3))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(1e-6, 1.0), st.integers(1, 5))
def test_natural_step_reaches_the_edge_of_the_trust_region(seed: int, max_kl: float, iterations: int) -> None:
    F, g = random_positive_definite(seed, 10)
    step = natural_step(lambda v: F @ v, g, iterations, max_kl)
    assert step is not None
    assert 0.5 * float(step @ F @ step) == pytest.approx(max_kl, rel=1e-12)
    assert step @ g > 0


def test_natural_step_points_along_the_inverse_fisher_times_the_gradient() -> None:
    F, g = random_positive_definite(0, 10)
    step = natural_step(lambda v: F @ v, g, 20, 0.01)
    natural = torch.linalg.solve(F, g)
    assert step is not None
    assert_close(step / step.norm(), natural / natural.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [-1.0, 0.0, math.nan, math.inf])
def test_unusable_curvature_gives_no_step(factor: float) -> None:
    assert natural_step(lambda v: factor * v, torch.ones(4), 10, 0.01) is None


@pytest.mark.parametrize("gradient", [0.0, math.nan, math.inf])
def test_unusable_gradient_gives_no_step(gradient: float) -> None:
    assert natural_step(lambda v: v, torch.full((4,), gradient), 10, 0.01) is None


def test_quadratic_model_of_the_divergence_holds_for_a_small_step(policy: Policy, observation: Tensor) -> None:
    parameters = list(policy.parameters())
    old = policy(observation).detach()
    gradient = torch.randn(size(policy), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = product_at(policy, observation, damping=1e-3)
    step = natural_step(product, gradient, 10, 1e-8)
    assert step is not None
    damped = 0.5 * 1e-3 * float(step @ step)
    with torch.no_grad():
        for parameter, change in zip(parameters, unflatten(step, parameters), strict=True):
            parameter.add_(change)
        kl = float(policy.kl(old, policy(observation)).mean())
    assert kl == pytest.approx(1e-8 - damped, rel=1e-2)


def test_line_search_takes_the_full_step_where_it_is_good() -> None:
    assert line_search(lambda fraction: (2.0, 0.01), 10, 0.8, 0.01) == (1.0, 2.0, 0.01, 1)


def test_line_search_goes_back_until_the_divergence_is_within_the_region() -> None:
    found = line_search(lambda fraction: (fraction, fraction**2), 10, 0.5, 0.1)
    assert found == (0.25, 0.25, 0.0625, 3)


def test_line_search_goes_back_until_the_objective_rises() -> None:
    found = line_search(lambda fraction: (0.3 * fraction - fraction**2, 0.0), 10, 0.5, 0.1)
    assert found == pytest.approx((0.25, 0.0125, 0.0, 3))


def test_line_search_gives_up_after_its_steps() -> None:
    tried: list[float] = []
    found = line_search(lambda fraction: tried.append(fraction) or (0.0, 0.0), 4, 0.5, 0.1)
    assert found == (0.0, 0.0, 0.0, 4)
    assert tried == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("gain", "kl"),
    [(math.nan, 0.0), (math.inf, 0.0), (1.0, math.nan), (1.0, -math.inf), (math.nan, math.nan)],
)
def test_line_search_never_accepts_what_is_not_finite(gain: float, kl: float) -> None:
    found = line_search(lambda fraction: (gain, kl) if fraction > 0.3 else (1.0, 0.0), 10, 0.5, 0.1)
    assert found.fraction == 0.25
    assert line_search(lambda fraction: (gain, kl), 10, 0.5, 0.1).fraction == 0.0


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4))
def test_unflatten_undoes_flatten(shapes: list[tuple[int, ...]]) -> None:
    tensors = [torch.randn(shape) for shape in shapes]
    vector = flatten(tensors)
    assert vector.shape == (sum(tensor.numel() for tensor in tensors),)
    assert all(torch.equal(a, b) for a, b in zip(unflatten(vector, tensors), tensors, strict=True))
