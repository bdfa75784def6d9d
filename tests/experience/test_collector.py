import io
import itertools
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from lightning_rl.environments import EnvironmentSpec, GymnasiumEnvironments, Step, TrainingSeeds
from lightning_rl.experience import Collector, Episode

RUN_SEED = 5


class Wanderer(gym.Env):
    """Walks by its actions and by chance, for 2 to 9 steps; episodes of an odd length are truncated."""

    observation_space = Box(-np.inf, np.inf, (4,))
    action_space = Box(-1, 1, (1,))
    hidden = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.length, self.place = 0, int(self.np_random.integers(2, 10)), self.np_random.normal()
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        self.place += float(action[0]) + 0.1 * self.np_random.normal()
        ended, odd = self.t == self.length, self.length % 2 == 1
        return self._look(), self.place, ended and not odd, ended and odd, {}

    def _look(self) -> np.ndarray:
        return np.float32([self.t, self.length, self.place, self.hidden])


class Haunted(Wanderer):
    """A wanderer that counts the resets of all its kind, and shows the number."""

    births = itertools.count(1)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        self.hidden = next(self.births)
        return super().reset(**kwargs)


class Careful(Wanderer):
    """A wanderer that refuses actions out of its bounds."""

    action_space = Box(0.5, 1, (1,))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        return super().step(action)


class Seedless(GymnasiumEnvironments):
    """Environments that cannot bring an episode back."""

    takes_seeds = False


def collector(
    env: type[gym.Env] = Wanderer,
    num_envs: int = 3,
    backend: Literal["sync", "async"] = "sync",
    run_seed: int = RUN_SEED,
    kind: type[GymnasiumEnvironments] = GymnasiumEnvironments,
) -> Collector:
    return Collector(lambda: kind(EnvironmentSpec(env), num_envs, backend), TrainingSeeds(run_seed, 0), num_envs)


def some_actions(steps: int, num_envs: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1, (steps, num_envs, 1)).astype(np.float32)


def walk(collector: Collector, actions: np.ndarray) -> list[tuple[Step, np.ndarray]]:
    """The steps, each with the observation from which the collector then goes on."""
    return [(collector.step(action), collector.observation.copy()) for action in actions]


def assert_same(ours: list[tuple[Step, np.ndarray]], theirs: list[tuple[Step, np.ndarray]]) -> None:
    for (step, observation), (other_step, other_observation) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(observation, other_observation)
        for field, other in zip(step, other_step, strict=True):
            np.testing.assert_array_equal(field, other)


def walk_alone(lane: int, actions: np.ndarray) -> tuple[list[tuple], list[tuple[int, Episode]]]:
    """One lane's steps and finished episodes (each with the step that finished it), by a bare environment."""
    environment, seeds, episode = Wanderer(), TrainingSeeds(RUN_SEED, 0), 0
    environment.reset(seed=seeds(lane, 0))
    steps, finished, rewards = [], [], []
    for now, action in enumerate(actions):
        reached, reward, terminated, truncated, _ = environment.step(action)
        rewards.append(reward)
        observation = reached
        if terminated or truncated:
            finished.append((now, Episode(sum(rewards), len(rewards))))
            episode, rewards = episode + 1, []
            observation, _ = environment.reset(seed=seeds(lane, episode))
        steps.append((reached, np.float32(reward), terminated, truncated, observation))
    return steps, finished


def test_steps_are_those_of_bare_environments_with_their_true_last_observations() -> None:
    ours, actions = collector(), some_actions(60)
    ours.open()
    walked = walk(ours, actions)
    for lane in range(3):
        expected, _ = walk_alone(lane, actions[:, lane])
        for (step, observation), (reached, reward, terminated, truncated, present) in zip(
            walked, expected, strict=True
        ):
            np.testing.assert_array_equal(step.observation[lane], reached)
            assert step.reward[lane] == reward
            assert (step.terminated[lane], step.truncated[lane]) == (terminated, truncated)
            np.testing.assert_array_equal(observation[lane], present)
    assert ours.steps == 180
    np.testing.assert_array_equal(ours.lengths, ours.observation[:, 0])


def test_finished_episodes_are_told_once_with_return_and_length() -> None:
    ours, actions = collector(), some_actions(60)
    ours.open()
    found: list[tuple[int, Episode]] = []
    for now, action in enumerate(actions):
        ours.step(action)
        found += [(now, episode) for episode in ours.finished()]
    lanes = [walk_alone(lane, actions[:, lane])[1] for lane in range(3)]
    expected = sorted((now, lane, episode) for lane, finished in enumerate(lanes) for now, episode in finished)
    assert [(now, episode.length) for now, episode in found] == [(now, e.length) for now, _, e in expected]
    # a return adds up rewards that were rounded to float32
    for (_, ours_told), (_, _, theirs) in zip(found, expected, strict=True):
        assert ours_told.episode_return == pytest.approx(theirs.episode_return, rel=1e-6, abs=1e-6)
    assert ours.finished() == []


def test_first_open_begins_every_environments_first_episode() -> None:
    ours = collector()
    assert not ours.open().any()
    first = ours.observation
    for lane in range(3):
        expected, _ = Wanderer().reset(seed=TrainingSeeds(RUN_SEED, 0)(lane, 0))
        np.testing.assert_array_equal(first[lane], expected)
    assert not ours.open().any()  # what is open stays as it is
    assert ours.observation is first


@pytest.mark.parametrize("steps", [0, 1, 13, 25, 40])
def test_checkpoint_brings_the_episodes_in_flight_back_exactly(steps: int) -> None:
    ours = collector()
    ours.open()
    walk(ours, some_actions(steps))
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    twin = collector(run_seed=99)  # the run's seed is the checkpoint's
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert not twin.open().any()
    np.testing.assert_array_equal(twin.observation, ours.observation)
    np.testing.assert_array_equal(twin.lengths, ours.lengths)
    later = some_actions(30, seed=1)
    assert_same(walk(twin, later), walk(ours, later))
    assert twin.finished() == ours.finished()
    assert twin.steps == ours.steps == 3 * (steps + 30)


def test_checkpoint_holds_episodes_of_different_lengths_without_environments_once_closed() -> None:
    ours = collector()
    ours.open()
    walk(ours, some_actions(25))
    assert len(set(ours.lengths.tolist())) == 3  # what the test above restores is not all alike
    ours.close()
    state = ours.state_dict()
    assert [len(history) for history in state["actions"]] == ours.lengths.tolist()


def test_closed_environments_come_back_as_they_were() -> None:
    ours, other, actions = collector(), collector(), some_actions(40)
    ours.open()
    other.open()
    expected = walk(other, actions)
    for now, action in enumerate(actions):
        assert_same(walk(ours, action[None]), expected[now : now + 1])
        ours.close()
        assert not ours.open().any()
        np.testing.assert_array_equal(ours.observation, expected[now][1])
    assert ours.finished() == other.finished()


def test_environment_with_a_state_of_its_own_begins_anew_with_a_warning_and_a_new_seed() -> None:
    ours = collector(Haunted)
    ours.open()
    walk(ours, some_actions(25))
    finished, state = list(ours._finished), ours.state_dict()
    in_flight = ours.lengths > 0
    ours.close()
    with pytest.warns(match=f"{in_flight.sum()} of 3 episodes in flight could not be brought back"):
        lost = ours.open()
    np.testing.assert_array_equal(lost, in_flight)
    for lane in np.flatnonzero(lost):
        expected, _ = Wanderer().reset(seed=TrainingSeeds(RUN_SEED, 0)(lane, state["episodes"][lane] + 1))
        np.testing.assert_array_equal(ours.observation[lane, :3], expected[:3])
    assert not ours.lengths[lost].any()
    assert ours.finished() == finished  # a lost episode did not finish


def test_episodes_of_environments_without_seeds_begin_anew_with_a_warning() -> None:
    ours = collector(kind=Seedless)
    ours.open()
    walk(ours, some_actions(25))
    in_flight = ours.lengths > 0
    twin = collector(kind=Seedless)
    twin.load_state_dict(ours.state_dict())
    with pytest.warns(match=f"{in_flight.sum()} of 3 episodes in flight could not be brought back"):
        np.testing.assert_array_equal(twin.open(), in_flight)
    assert not twin.lengths.any()
    assert twin.steps == 75


def test_environments_are_only_ever_given_actions_that_were_taken() -> None:
    ours = collector(Careful)
    ours.open()
    walk(ours, some_actions(25))
    twin = collector(Careful)
    twin.load_state_dict(ours.state_dict())
    assert not twin.open().any()


# From Python 3.12 on, a fork of a process that has threads is warned of; Gymnasium forks.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_async_environments_give_the_same_transitions_to_the_bit() -> None:
    here, there, actions = collector(backend="sync"), collector(backend="async"), some_actions(40)
    here.open()
    there.open()
    try:
        np.testing.assert_array_equal(there.observation, here.observation)
        assert_same(walk(there, actions), walk(here, actions))
        assert there.finished() == here.finished()
        there.close()
        assert not there.open().any()
        assert_same(walk(there, actions), walk(here, actions))
    finally:
        there.close()


def test_checkpoint_with_another_number_of_environments_is_refused() -> None:
    ours = collector(num_envs=3)
    ours.open()
    with pytest.raises(ValueError, match=r"has 3 environments in flight and num_envs is 2: resume with num_envs=3\."):
        collector(num_envs=2).load_state_dict(ours.state_dict())
