from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_rl.experience.returns import generalized_advantages, monte_carlo_returns


class Rollout(NamedTuple):
    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    ended: Tensor


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 3)))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    reward, value, next_value = torch.randn(3, *shape, generator=random, dtype=torch.float64)
    terminated, truncated = torch.rand(2, *shape, generator=random) < draw(st.sampled_from([0.0, 0.2, 0.9]))
    return Rollout(reward, value, next_value, terminated, terminated | truncated)


DISCOUNTS = st.floats(0, 1)


def episode_end(rollout: Rollout, step: int, env: int) -> int:
    """The last row of the episode that the row is part of."""
    end = step
    while end < len(rollout.reward) - 1 and not rollout.ended[end, env]:
        end += 1
    return end


def summed_advantages(rollout: Rollout, gamma: float, gae_lambda: float) -> Tensor:
    advantage = torch.zeros_like(rollout.reward)
    for step, env in torch.cartesian_prod(*map(torch.arange, rollout.reward.shape)).reshape(-1, 2).tolist():
        for k in range(step, episode_end(rollout, step, env) + 1):
            beyond = 0.0 if rollout.terminated[k, env] else float(rollout.next_value[k, env])
            delta = float(rollout.reward[k, env]) + gamma * beyond - float(rollout.value[k, env])
            advantage[step, env] += (gamma * gae_lambda) ** (k - step) * delta
    return advantage


def summed_returns(rollout: Rollout, gamma: float) -> Tensor:
    returns = torch.zeros_like(rollout.reward)
    for step, env in torch.cartesian_prod(*map(torch.arange, rollout.reward.shape)).reshape(-1, 2).tolist():
        end = episode_end(rollout, step, env)
        returns[step, env] = sum(gamma ** (k - step) * float(rollout.reward[k, env]) for k in range(step, end + 1))
        if not rollout.terminated[end, env]:
            returns[step, env] += gamma ** (end + 1 - step) * float(rollout.next_value[end, env])
    return returns


@settings(deadline=None, max_examples=60)
@given(rollouts(), DISCOUNTS, DISCOUNTS)
def test_advantages_are_the_weighted_sums_of_their_definition(
    rollout: Rollout, gamma: float, gae_lambda: float
) -> None:
    found = generalized_advantages(*rollout, gamma, gae_lambda)
    assert_close(found, summed_advantages(rollout, gamma, gae_lambda), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(rollouts(), DISCOUNTS)
def test_returns_are_the_discounted_sums_of_their_definition(rollout: Rollout, gamma: float) -> None:
    reward, _, next_value, terminated, ended = rollout
    found = monte_carlo_returns(reward, next_value, terminated, ended, gamma)
    assert_close(found, summed_returns(rollout, gamma), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(rollouts(), DISCOUNTS)
def test_lambda_zero_gives_the_temporal_difference(rollout: Rollout, gamma: float) -> None:
    reward, value, next_value, terminated, _ = rollout
    delta = reward + gamma * torch.where(terminated, 0.0, next_value) - value
    assert_close(generalized_advantages(*rollout, gamma, 0.0), delta, rtol=1e-14, atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(rollouts(), DISCOUNTS)
def test_lambda_one_gives_the_return_less_the_value_where_values_follow_each_other(
    rollout: Rollout, gamma: float
) -> None:
    reward, value, next_value, terminated, ended = rollout
    following = torch.cat([value[1:], next_value[-1:]])  # V of the next row, which an unfinished episode leads to
    next_value = torch.where(ended, next_value, following)
    advantage = generalized_advantages(reward, value, next_value, terminated, ended, gamma, 1.0)
    returns = monte_carlo_returns(reward, next_value, terminated, ended, gamma)
    assert_close(advantage, returns - value, rtol=1e-12, atol=1e-12)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def test_truncated_episode_bootstraps_from_its_true_last_observation() -> None:
    reward, value, next_value = column(1, 2, 4), column(0, 0, 0), column(8, 16, 32)
    terminated, ended = column(0, 0, 0).bool(), column(0, 1, 0).bool()
    returns = monte_carlo_returns(reward, next_value, terminated, ended, 0.5)
    assert returns.squeeze(-1).tolist() == [1 + 0.5 * (2 + 0.5 * 16), 2 + 0.5 * 16, 4 + 0.5 * 32]
    advantages = generalized_advantages(reward, value, next_value, terminated, ended, 0.5, 0.5)
    assert advantages.squeeze(-1).tolist() == [1 + 4 + 0.25 * (2 + 8), 2 + 8, 4 + 16]


def test_terminated_episode_ends_without_a_value_even_one_that_is_not_finite() -> None:
    reward, value, next_value = column(1, 2), column(0, 0), column(8, float("nan"))
    terminated = column(0, 1).bool()
    returns = monte_carlo_returns(reward, next_value, terminated, terminated, 0.5)
    assert returns.squeeze(-1).tolist() == [2.0, 2.0]
    advantages = generalized_advantages(reward, value, next_value, terminated, terminated, 0.5, 0.5)
    assert advantages.squeeze(-1).tolist() == [1 + 4 + 0.25 * 2, 2.0]


def test_returns_read_no_value_inside_of_an_episode() -> None:
    next_value = column(float("nan"), 16, float("nan"), 32)
    ended = column(0, 1, 0, 0).bool()
    returns = monte_carlo_returns(column(1, 2, 3, 4), next_value, torch.zeros_like(ended), ended, 0.5)
    assert returns.squeeze(-1).tolist() == [6.0, 10.0, 13.0, 20.0]
