import itertools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.testing import assert_close

from lightning_rl.networks.gaussian_policy import GaussianPolicy

UNBOUNDED = Box(-np.inf, np.inf, (3,))


def test_kl_of_close_gaussians_keeps_its_digits_in_single_precision() -> None:
    policy = GaussianPolicy(5, UNBOUNDED)
    old, new = torch.zeros(6), torch.full((6,), 2.0**-10)
    expected = policy.kl(old.double(), new.double()).float()
    assert_close(policy.kl(old, new), expected, rtol=1e-4, atol=0)


def test_bounded_actions_are_scaled_from_plus_minus_one_and_clipped() -> None:
    space = Box(np.array([-2, 1], dtype=np.float32), np.array([2, 5], dtype=np.float32))
    policy = GaussianPolicy(5, space)
    u = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [-7.0, 7.0], [0.5, 0.5]])
    expected = [[-2.0, 1.0], [0.0, 3.0], [2.0, 5.0], [-2.0, 5.0], [1.0, 4.0]]
    assert policy.to_environment(u).tolist() == expected


def test_unbounded_actions_are_left_as_they_are_and_half_bounded_ones_clipped_on_one_side() -> None:
    low = np.array([-np.inf, 0, -np.inf, 5, -1], dtype=np.float32)
    high = np.array([np.inf, np.inf, 3, np.inf, 3], dtype=np.float32)
    policy = GaussianPolicy(5, Box(low, high))
    u = torch.tensor([[-100.0] * 5, [0.0] * 5, [2.0] * 5, [100.0] * 5])
    expected = [[-100, 0, -100, 5, -1], [0, 0, 0, 5, 1], [2, 2, 2, 7, 3], [100, 100, 3, 105, 3]]
    assert policy.to_environment(u).tolist() == expected


def test_squashed_actions_approach_their_bounds_and_never_pass_them() -> None:
    low, high = np.array([-2, 1, 0.1], dtype=np.float32), np.array([2, 5, 0.7], dtype=np.float32)
    policy = GaussianPolicy(5, Box(low, high), squash_actions=True)
    u = torch.linspace(-20, 20, 4001).unsqueeze(-1).expand(-1, 3)
    expected = (low + high) / 2 + (high - low) / 2 * np.tanh(u.numpy().astype(np.float64))
    actions = policy.to_environment(u).numpy()
    assert_close(actions, expected, rtol=0, atol=1e-6, check_dtype=False)
    assert ((low <= actions) & (actions <= high)).all()
    with pytest.raises(ValueError, match=r"squash_actions=True: .* has no bounds"):
        GaussianPolicy(5, UNBOUNDED, squash_actions=True)


@pytest.mark.parametrize("squash_actions", [False, True])
def test_bounds_that_single_precision_does_not_hold_are_kept_in_double(squash_actions: bool) -> None:
    space = Box(np.array([-0.1, -0.3]), np.array([0.1, 0.7]), dtype=np.float64)
    policy = GaussianPolicy(3, space, squash_actions=squash_actions)
    for extreme in (-50.0, 50.0):
        assert space.contains(policy.to_environment(torch.full((2,), extreme)).numpy().astype(np.float64))


def test_actions_of_a_box_of_any_shape_are_one_vector() -> None:
    policy = GaussianPolicy(5, Box(-1, 1, (2, 3)))
    assert policy.action_size == 6
    assert policy(torch.zeros(4, 5)).shape == (4, 12)


@pytest.mark.parametrize(
    ("squashes", "low", "high"),
    [*itertools.product([False, True], [-1, -2], [1, 3]), (False, 0, np.inf)],
)
def test_a_gaussian_at_rest_brings_actions_into_bounds_as_it_always_does(
    squashes: bool, low: float, high: float
) -> None:
    policy = GaussianPolicy(5, Box(np.float32([low, -1]), np.float32([high, 1])), squash_actions=squashes)
    action = 2 * torch.randn(64, 2)
    assert torch.equal(policy.to_environment_at_rest()(action), policy.to_environment(action))
