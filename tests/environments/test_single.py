from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.wrappers import FlattenObservation, TimeLimit

from lightning_rl.environments import CheckedEnvironment, EnvironmentSpec, FaultyEnvironmentError
from lightning_rl.environments.single import time_limit


class Told(gym.Env):
    """Returns what it was told to: one observation at each reset and step, and a reward at each step."""

    action_space = Box(-1, 1, (1,))

    def __init__(self, space: gym.Space, observations: list[Any], rewards: list[Any]) -> None:
        self.observation_space = space
        self._observations, self._rewards = iter(observations), iter(rewards)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        return next(self._observations), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        return next(self._observations), next(self._rewards), False, False, {}


def told(
    observations: list[Any], rewards: list[Any] | None = None, space: gym.Space | None = None
) -> CheckedEnvironment:
    space = space or Box(-np.inf, np.inf, (2,))
    return CheckedEnvironment(
        EnvironmentSpec(Told, {"space": space, "observations": observations, "rewards": rewards or []})
    )


def run(environment: CheckedEnvironment, steps: int, seed: int = 7) -> None:
    environment.reset(seed=seed)
    for _ in range(steps):
        environment.step(np.zeros(1))


GOOD = np.zeros(2, dtype=np.float32)


# How an environment is named and made.


@pytest.mark.parametrize("name", ["Nonesuch-v0", "BipedalWalker-v99", "no_such_module:Nonesuch-v0", "math:Nonesuch-v0"])
def test_unknown_id_is_refused_with_the_three_ways_to_name_an_environment(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"env='{name}' is not an environment that Gymnasium knows \(.+\)\. Give"
    ) as e:
        EnvironmentSpec(name).make()
    for way in ("a registered id such as", "'module:id' for an id", "the import path of a callable"):
        assert way in str(e.value)


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize("name", ["BipedalWalker-v2", "bipedal walker"])
def test_outdated_or_malformed_id_is_refused_with_the_three_ways_to_name_an_environment(name: str) -> None:
    with pytest.raises(ValueError, match=f"env='{name}' is not an environment that Gymnasium knows"):
        EnvironmentSpec(name).make()


def test_import_path_of_a_callable_makes_an_environment() -> None:
    spec = EnvironmentSpec("gymnasium.envs.classic_control.PendulumEnv", {"g": 3.0})
    environment = spec.make()
    assert isinstance(environment, PendulumEnv)
    assert environment.g == 3.0
    assert spec.name == "gymnasium.envs.classic_control.PendulumEnv"


@pytest.mark.parametrize("path", ["no_such_module.Env", "gymnasium.envs.classic_control.Nonesuch"])
def test_import_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=f"env='{path}' is neither an id that Gymnasium knows nor the import path"):
        EnvironmentSpec(path).make()


def test_callable_is_given_the_keyword_arguments() -> None:
    spec = EnvironmentSpec(PendulumEnv, {"g": 3.0})
    assert spec.make().g == 3.0
    assert spec.name == "gymnasium.envs.classic_control.pendulum.PendulumEnv"
    assert gym.make("Pendulum-v1").unwrapped.g == 10.0
    assert EnvironmentSpec("Pendulum-v1", {"g": 3.0}).make().unwrapped.g == 3.0


@pytest.mark.parametrize("limit", [None, 5])
def test_callable_that_makes_no_environment_is_refused(limit: int | None) -> None:
    with pytest.raises(TypeError, match=r"env=builtins.dict made a dict, and a gymnasium\.Env was expected"):
        EnvironmentSpec(dict, max_episode_steps=limit).make()


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        (EnvironmentSpec("Pendulum-v1"), 200),
        (EnvironmentSpec("Pendulum-v1", max_episode_steps=7), 7),
        (EnvironmentSpec(PendulumEnv), None),
        (EnvironmentSpec(PendulumEnv, max_episode_steps=9), 9),
        (EnvironmentSpec(lambda: FlattenObservation(TimeLimit(PendulumEnv(), 11))), 11),
        (EnvironmentSpec(lambda: FlattenObservation(PendulumEnv())), None),
    ],
)
def test_time_limit_is_the_step_that_truncates(spec: EnvironmentSpec, limit: int | None) -> None:
    environment = spec.make()
    assert time_limit(environment) == limit
    environment.reset(seed=0)
    truncated = [environment.step(np.zeros(1))[3] for _ in range(limit or 300)]
    assert truncated.count(True) == (limit is not None)
    assert truncated[-1] == (limit is not None)


def test_time_limit_may_be_declared_by_the_environment_itself() -> None:
    environment = PendulumEnv()
    environment.spec = EnvSpec("OwnLimit-v0", max_episode_steps=13)
    assert time_limit(environment) == time_limit(FlattenObservation(environment)) == 13


def test_time_limit_is_the_tightest_of_several() -> None:
    assert time_limit(EnvironmentSpec(lambda: gym.make("Pendulum-v1"), max_episode_steps=500).make()) == 200


def test_a_repeated_action_is_held_until_the_episode_ends_and_its_rewards_are_summed_up() -> None:
    repeated, plain = EnvironmentSpec("CartPole-v1", action_repeat=4).make_checked(), gym.make("CartPole-v1")
    repeated.reset(seed=3)
    plain.reset(seed=3)
    held = []
    ended = False
    while not ended:
        observation, reward, ended, _, _ = repeated.step(1)
        steps = [plain.step(1) for _ in range(int(reward))]  # CartPole's reward is 1 a step
        held.append(len(steps))
        assert (observation == steps[-1][0]).all()
        assert [terminated for _, _, terminated, _, _ in steps] == [False] * (len(steps) - 1) + [ended]
    assert set(held[:-1]) == {4}
    assert 1 <= held[-1] < 4


@pytest.mark.parametrize(("limit", "held"), [(8, [3, 3, 2]), (9, [3, 3, 3])])
def test_a_limit_counts_the_steps_that_an_action_is_held_for(limit: int, held: list[int]) -> None:
    environment = EnvironmentSpec(PendulumEnv, max_episode_steps=limit, action_repeat=3).make()
    environment.reset(seed=0)
    plain = PendulumEnv()
    plain.reset(seed=0)
    for steps in held:
        observation, reward, _, truncated, _ = environment.step(np.ones(1))
        rewards = [plain.step(np.ones(1))[1] for _ in range(steps)]
        np.testing.assert_array_equal(observation, plain._get_obs())
        assert reward == pytest.approx(sum(rewards))
    assert truncated


@pytest.mark.parametrize("reward", [None, np.nan])
def test_a_repeated_step_without_a_reward_is_told_of(reward: Any) -> None:
    settings = {"space": Box(-1, 1, (2,)), "observations": [GOOD] * 3, "rewards": [1.0, reward]}
    environment = CheckedEnvironment(EnvironmentSpec(Told, settings, action_repeat=2))
    with pytest.raises(FaultyEnvironmentError, match=r"\(episode seed 7, step 1\) returned the reward nan"):
        run(environment, 1)


# What leaves a checked environment.


def test_dict_observations_are_refused_with_the_wrapper_that_helps() -> None:
    space = Dict({"place": Box(-1, 1, (2,)), "gear": Discrete(3)})
    with pytest.raises(
        TypeError, match=r"test_single.Told has the observation space Dict.*gymnasium\.wrappers\.FlattenObservation"
    ):
        told([], space=space)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_observations_of_any_box_become_flat_float32(dtype: type) -> None:
    space = Box(0, 200, (2, 3), dtype=dtype)
    observation = np.arange(6, dtype=dtype).reshape(2, 3) + 190
    environment = told([observation, observation + 1], [np.float64(0.5)], space)
    for found, first in ((environment.reset(seed=0)[0], 190), (environment.step(np.zeros(1))[0], 191)):
        assert found.dtype == np.float32
        assert found.tolist() == [first + i for i in range(6)]
    assert environment.observation_space == Box(0, 200, (6,), dtype=np.float32)


def test_bounds_beyond_float32_become_infinite() -> None:
    space = Box(-1e300, 1e300, (2,), dtype=np.float64)
    assert told([], space=space).observation_space == Box(-np.inf, np.inf, (2,), dtype=np.float32)


def test_observation_is_a_copy_that_the_environment_does_not_change() -> None:
    kept = np.zeros(2, dtype=np.float32)
    environment = told([kept, kept], [0.0])
    first, _ = environment.reset(seed=0)
    kept += 1
    assert first.tolist() == [0, 0]
    assert environment.step(np.zeros(1))[0].tolist() == [1, 1]


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_faulty_observation_is_named_with_episode_seed_step_and_index(fault: float) -> None:
    environment = told([GOOD, GOOD, GOOD, np.float32([0, fault])], [0.0] * 3)
    message = rf"^test_single.Told \(episode seed 7, step 3\) returned {fault} at index 1 of its observation"
    with pytest.raises(FaultyEnvironmentError, match=message):
        run(environment, 3)


def test_faulty_first_observation_is_named_as_step_0_of_the_present_episode() -> None:
    environment = told([GOOD, GOOD, np.float32([np.nan, 0])], [0.0])
    run(environment, 1)
    with pytest.raises(
        FaultyEnvironmentError, match=r"^test_single.Told \(episode seed 8, step 0\) returned nan at index 0"
    ):
        environment.reset(seed=8)


def test_observation_beyond_float32_is_named_without_a_warning_of_numpys() -> None:
    environment = told([np.array([0, 1e300])], space=Box(-np.inf, np.inf, (2,), dtype=np.float64))
    with pytest.raises(FaultyEnvironmentError, match=r"returned 1e\+300 at index 1 of its observation; finite float32"):
        environment.reset(seed=0)


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_faulty_reward_is_named_with_episode_seed_and_step(fault: float) -> None:
    environment = told([GOOD] * 3, [0.0, np.float64(fault)])
    with pytest.raises(
        FaultyEnvironmentError,
        match=rf"^test_single.Told \(episode seed 7, step 2\) returned the reward {fault}; a finite",
    ):
        run(environment, 2)


def test_a_reward_beyond_float32_is_refused() -> None:
    with pytest.raises(FaultyEnvironmentError, match=r"returned the reward 1e\+39; a finite float32 number"):
        run(told([GOOD] * 2, [1e39]), 1)


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((1, 2)), np.zeros((2, 1)), 0.0])
def test_observation_of_another_shape_is_named_with_episode_seed_and_step(wrong: Any) -> None:
    with pytest.raises(FaultyEnvironmentError) as e:
        run(told([GOOD, wrong], [0.0]), 1)
    assert str(e.value) == (
        f"test_single.Told (episode seed 7, step 1) returned an observation of shape {np.shape(wrong)}; its "
        "observation space promises (2,)."
    )


class Setting:
    pass


def test_the_name_of_a_partial_environment_is_the_same_in_another_process() -> None:
    settings = {"g": 5.0, "names": ["a", 1], "of": {"by": max, "object": Setting()}, "cls": Setting}
    others = {"goal": np.array([1.0, 2.0]), "among": {3}, "inner": partial(max, 1)}
    assert EnvironmentSpec(partial(gym.make, "Pendulum-v1", **settings, **others)).name == (
        "gymnasium.envs.registration.make('Pendulum-v1', g=5.0, names=['a', 1], "
        "of={'by': builtins.max, 'object': test_single.Setting}, cls=test_single.Setting, goal=array([1., 2.]), "
        "among={3}, inner=builtins.max(1))"
    )


# An episode is a function of its seed and its actions.


def episode(environment: CheckedEnvironment, seed: int, steps: int = 60) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    observations = [environment.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, _, terminated, _, _ = environment.step(random.uniform(-1, 1, environment.action_space.shape))
        observations.append(observation)
        if terminated:
            break
    return observations


@pytest.mark.parametrize("make", [EnvironmentSpec("BipedalWalker-v3"), EnvironmentSpec("BipedalWalker-v3", {}, 500)])
def test_walkers_episode_is_the_same_to_the_bit_whatever_ran_before(make: EnvironmentSpec) -> None:
    used = make.make_checked()
    for seed in (101, 102, 103):
        episode(used, seed)
    for seed in (1, 2, 3, 4):
        expected, found = episode(make.make_checked(), seed), episode(used, seed)
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))


@pytest.mark.parametrize("wrap", [FlattenObservation, partial(TimeLimit, max_episode_steps=80)])
def test_wrapped_walker_is_the_same_to_the_bit_whatever_ran_before(wrap: Callable[[gym.Env], gym.Env]) -> None:
    spec = EnvironmentSpec(lambda: wrap(gym.make("BipedalWalker-v3")))
    used = spec.make_checked()
    for seed in (101, 102, 103):
        episode(used, seed)
    np.testing.assert_array_equal(np.stack(episode(used, 1)), np.stack(episode(spec.make_checked(), 1)))
