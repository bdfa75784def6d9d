from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
from gymnasium.spaces import Box
from torch import Tensor

from lightning_rl.environments import EnvironmentLostError, Step, TrainingSeeds
from lightning_rl.experience import Collector, ReplayBuffer, ReplayExperience, Updates


class Counting:
    """Environments without an end and without seeds: each observation is a number never seen before."""

    takes_seeds = False
    observation_space = Box(0, np.inf, (1,))
    action_space = Box(-1, 1, (1,))
    seen = 0

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> np.ndarray:
        self.observation = self._new()
        return self.observation

    def step(self, actions: np.ndarray) -> Step:
        no = np.zeros(self.num_envs, dtype=bool)
        self.observation = self._new()
        return Step(self.observation, np.zeros(self.num_envs, dtype=np.float32), no, no)

    def close(self) -> None: ...

    def _new(self) -> np.ndarray:
        Counting.seen += self.num_envs
        return np.arange(Counting.seen - self.num_envs, Counting.seen, dtype=np.float32)[:, None]


class Experience(ReplayExperience):
    """Rounds of one step of every environment, which remember the noise that the policy was given."""

    def __init__(self, num_envs: int, buffer_size: int, learning_starts: int) -> None:
        self.noises: list[Tensor] = []
        super().__init__(
            Collector(lambda: Counting(num_envs), TrainingSeeds(0, 0), num_envs),
            ReplayBuffer(buffer_size, num_envs, 1, 1),
            self._remember,
            lambda action: action.numpy(),
            batch_size=64,
            learning_starts=learning_starts,
            train_freq=num_envs,
            gradient_steps=2,
            noise_correlation=0.9,
            run_seed=0,
            rank=0,
        )

    def round(self) -> Updates:
        self.interact()
        return self.draw()

    def _remember(self, observation: Tensor, noise: Tensor) -> Tensor:
        self.noises.append(noise.clone())
        return noise.tanh()


def test_updates_begin_with_the_round_that_fills_the_warm_up() -> None:
    experience = Experience(num_envs=2, buffer_size=20, learning_starts=6)
    items = [experience.round() for _ in range(4)]
    assert [len(item.batch.reward) for item in items] == [0, 0, 2, 2]
    assert [item.noise.actor.shape for item in items] == [(0, 64, 1)] * 2 + [(2, 64, 1)] * 2
    assert len(experience.noises) == 1  # the policy acts from the fourth round on


@pytest.mark.parametrize(("steps", "by_whom"), [(4, ""), (6, " with the policy")])
def test_ranks_that_take_over_a_trained_policy_collect_with_it(steps: int, by_whom: str) -> None:
    before = Experience(num_envs=2, buffer_size=20, learning_starts=6)
    while before.collector.steps < steps:
        before.round()
    after = Experience(num_envs=2, buffer_size=20, learning_starts=6)
    after.collector.steps = steps // 2  # as many as each of two ranks has of them
    assert after.take_over(before.state_dict()) == f"6 transitions a rank are collected{by_whom} before updates go on"
    again = Experience(num_envs=2, buffer_size=20, learning_starts=6)
    again.load_state_dict(after.state_dict())
    items = [again.round() for _ in range(3)]
    assert [len(item.batch.reward) for item in items] == [0, 0, 2]
    assert len(again.noises) == (3 if steps == 6 else 1)


def test_transition_before_a_lost_episode_keeps_its_true_next_observation() -> None:
    experience = Experience(num_envs=2, buffer_size=20, learning_starts=0)
    for _ in range(3):
        experience.round()
    last_seen = experience.collector.observation.copy()
    resumed = Experience(num_envs=2, buffer_size=20, learning_starts=0)
    resumed.load_state_dict(experience.state_dict())
    with pytest.warns(match="2 of 2 episodes in flight could not be brought back"):
        batch = resumed.round().batch
    pairs = set(zip(batch.observation.flatten().tolist(), batch.next_observation.flatten().tolist(), strict=True))
    first = [before for before, after in pairs if after in last_seen]
    assert sorted(first) == (last_seen[:, 0] - 2).tolist()  # from the observation made just before
    assert not any(before in last_seen for before, _ in pairs)  # no transition leads from the old life to the new
    assert len(pairs) == 8


def test_an_episode_lost_while_it_is_brought_back_ends_with_its_last_transition() -> None:
    experience = Experience(num_envs=2, buffer_size=20, learning_starts=0)
    for _ in range(3):
        experience.round()
    last_seen = experience.collector.observation.copy()

    def lost() -> None:
        raise EnvironmentLostError({1: "did not come back"}, 2)

    with mock.patch.object(experience.collector, "open", lost), pytest.raises(EnvironmentLostError):
        experience.interact()
    ending = experience.buffer.ending[experience.buffer._head - 1]
    assert (ending >= 0).tolist() == [False, True]
    assert experience.buffer.last_observation[int(ending[1])].tolist() == last_seen[1].tolist()


def test_exploration_noise_has_variance_1_from_the_policys_first_step_on() -> None:
    lanes = 20_000
    experience = Experience(num_envs=lanes, buffer_size=10 * lanes, learning_starts=2 * lanes)
    for _ in range(4):
        experience.round()
    for noise in experience.noises:  # the standard error of a variance is √(2 / lanes)
        assert noise.var().item() == pytest.approx(1, abs=5 * (2 / lanes) ** 0.5)


def test_checkpoint_with_another_number_of_environments_is_refused_with_that_number() -> None:
    state = Experience(num_envs=4, buffer_size=40, learning_starts=0).state_dict()
    with pytest.raises(ValueError, match="resume with num_envs=4"):
        Experience(num_envs=2, buffer_size=40, learning_starts=0).load_state_dict(state)
