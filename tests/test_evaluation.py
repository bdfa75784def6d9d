from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from lightning_rl import SACModule, TRPOModule
from lightning_rl.environments import EnvironmentSpec
from lightning_rl.evaluation import EpisodeStatistics, SeedBatches, Trajectory, play

SEEDS = [11, 12, 13, 14, 15]
PENDULUM = EnvironmentSpec("Pendulum-v1", max_episode_steps=25)


class Countdown(gym.Env):
    """Counts down from a number of 1 to 12 that its seed draws; odd ones are truncated at 0, even ones terminate."""

    observation_space = Box(0, 12, (1,))
    action_space = Box(-100, 100, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.first = self.left = int(self.np_random.integers(1, 13))
        return np.float32([self.left]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        over, odd = self.left == 0, self.first % 2 == 1
        return np.float32([self.left]), self.left / 3, over and not odd, over and odd, {}


def row_by_row(observations: np.ndarray) -> np.ndarray:
    return np.stack([np.float32([2 * np.sin(3 * row.sum())]) for row in observations])


def played(spec: EnvironmentSpec, seeds: list[int], side_by_side: int) -> list[Trajectory]:
    environments = [spec.make_checked() for _ in range(side_by_side)]
    batches = [seeds[start : start + side_by_side] for start in range(0, len(seeds), side_by_side)]
    return [trajectory for batch in batches for trajectory in play(environments, batch, row_by_row)]


@pytest.mark.parametrize("spec", [PENDULUM, EnvironmentSpec(Countdown)])
@pytest.mark.parametrize("side_by_side", [2, 5, 7])
def test_episode_is_the_same_to_the_bit_however_many_run_beside_it(spec: EnvironmentSpec, side_by_side: int) -> None:
    alone, together = played(spec, SEEDS, 1), played(spec, SEEDS, side_by_side)
    for one, other in zip(alone, together, strict=True):
        for field, same in zip(one, other, strict=True):
            assert torch.equal(field, same) if isinstance(field, torch.Tensor) else field == same


def test_trajectory_is_what_a_bare_environment_gives() -> None:
    (trajectory,) = played(PENDULUM, [11], 1)
    environment = gym.make("Pendulum-v1", max_episode_steps=25)
    observations, actions, rewards, truncated = [environment.reset(seed=11)[0]], [], [], False
    while not truncated:
        actions.append(row_by_row(observations[-1][None])[0])
        observation, reward, _, truncated, _ = environment.step(actions[-1])
        observations.append(observation)
        rewards.append(float(reward))
    assert trajectory.seed == 11
    assert trajectory.observations.tolist() == np.stack(observations).tolist()
    assert trajectory.actions.tolist() == np.stack(actions).tolist()
    assert trajectory.rewards.tolist() == rewards
    assert (trajectory.rewards.dtype, trajectory.observations.dtype) == (torch.float64, torch.float32)
    assert len(trajectory.observations) == len(trajectory.actions) + 1 == 26
    assert (trajectory.terminated, trajectory.truncated) == (False, True)


def test_episodes_that_end_at_different_times_are_each_played_to_their_own_end() -> None:
    seeds = list(range(20))
    trajectories = played(EnvironmentSpec(Countdown), seeds, 20)
    assert [trajectory.seed for trajectory in trajectories] == seeds
    lengths = [int(np.random.default_rng(np.random.SeedSequence(seed)).integers(1, 13)) for seed in seeds]
    assert len(set(lengths)) > 5
    for trajectory, length in zip(trajectories, lengths, strict=True):
        assert trajectory.observations[:, 0].tolist() == list(range(length, -1, -1))
        assert trajectory.rewards.tolist() == [left / 3 for left in range(length - 1, -1, -1)]
        assert trajectory.actions.tolist() == row_by_row(trajectory.observations[:-1].numpy()).tolist()
        assert (trajectory.terminated, trajectory.truncated) == (length % 2 == 0, length % 2 == 1)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("episodes", "batch_size"), [(1, 4), (7, 2), (10, 3), (12, 12), (5, 1)])
def test_every_seed_is_evaluated_exactly_once_over_all_ranks(episodes: int, batch_size: int, world_size: int) -> None:
    everyones: list[int] = []
    for rank in range(world_size):
        batches = SeedBatches(range(1000, 2000), episodes, rank, world_size, batch_size)
        listed = [batch.tolist() for batch in batches]
        assert len(listed) == len(batches)
        assert all(0 < len(batch) <= batch_size for batch in listed)
        assert all(len(batch) == batch_size for batch in listed[:-1])
        assert listed == [batch.tolist() for batch in batches]  # the same at the next evaluation
        everyones += [seed for batch in listed for seed in batch]
    assert sorted(everyones) == list(range(1000, 1000 + episodes))


def test_ranks_share_the_episodes_evenly() -> None:
    shares = [sum(len(batch) for batch in SeedBatches(range(100), 11, rank, 3, 2)) for rank in range(3)]
    assert sorted(shares) == [3, 4, 4]


def test_statistics_are_those_of_numpy() -> None:
    random = np.random.default_rng(0)
    returns, lengths = random.normal(-50, 120, 37).astype(np.float32), random.integers(1, 1600, 37)
    statistics = EpisodeStatistics()
    for start in (0, 10, 11, 30):
        end = {0: 10, 10: 11, 11: 30, 30: 37}[start]
        statistics.update(returns[start:end].tolist(), lengths[start:end].tolist())
    found = {name: float(value) for name, value in statistics.compute().items()}
    exact = returns.astype(np.float64)
    assert found == pytest.approx(
        {
            "return": exact.mean(),
            "return_std": exact.std(),
            "return_min": exact.min(),
            "return_max": exact.max(),
            "length": lengths.mean(),
        },
        rel=1e-13,
    )


def test_statistics_do_not_depend_on_the_order_of_episodes_to_the_bit() -> None:
    random = np.random.default_rng(0)
    returns, lengths = random.normal(-50, 120, 200), random.integers(1, 1600, 200)
    results = []
    for _ in range(20):
        order, statistics = random.permutation(200), EpisodeStatistics()
        for part in np.array_split(order, random.integers(1, 10)):
            statistics.update(returns[part].tolist(), lengths[part].tolist())
        results.append({name: float(value) for name, value in statistics.compute().items()})
    assert all(result == results[0] for result in results)


def test_statistics_of_one_episode_have_no_spread() -> None:
    statistics = EpisodeStatistics()
    statistics.update([3.5], [8])
    found = {name: float(value) for name, value in statistics.compute().items()}
    assert found == {"return": 3.5, "return_std": 0.0, "return_min": 3.5, "return_max": 3.5, "length": 8.0}


def test_statistics_begin_anew_after_a_reset() -> None:
    statistics = EpisodeStatistics()
    statistics.update([100.0], [8])
    statistics.compute()
    statistics.reset()
    statistics.update([2.0, 4.0], [1, 2])
    assert statistics.compute()["return"] == 3
    assert statistics.compute()["length"] == 1.5


@pytest.mark.parametrize("averaging", [0.0, 0.1])
def test_evaluations_act_as_the_greedy_policy_to_the_bit(
    small_sac: Callable[..., SACModule], small_trpo: Callable[..., TRPOModule], averaging: float
) -> None:
    modules = [small_sac(actor_averaging=averaging), small_trpo(policy_averaging=averaging)]
    modules += [small_trpo(policy_averaging=averaging, squash_actions=True, normalize_observations="value")]
    for module in modules:
        observation = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            expected = [module.greedy_policy()(torch.from_numpy(row)[None])[0].numpy() for row in observation]
        np.testing.assert_array_equal(module.act(observation), np.stack(expected))


class Still(torch.nn.Module):
    """A policy of one's own."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.full((len(observation), 1), 0.25)


def test_evaluations_follow_a_greedy_policy_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SACModule(env="Pendulum-v1")
    monkeypatch.setattr(module, "greedy_policy", Still)
    assert module.act(np.ones(3, dtype=np.float32)).tolist() == [0.25]
