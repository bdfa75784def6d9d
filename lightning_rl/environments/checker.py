"""Whether an environment can be learned in, and what to change in it if not."""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from lightning_rl.environments.arrays import Array
from lightning_rl.environments.single import CheckedEnvironment, EnvironmentSpec, FaultyEnvironmentError, spaces

Episode = tuple[list[Array], list[float]]


def check_environment(
    env: str | Callable[..., Any],
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    steps: int = 1000,
) -> list[str]:
    """Plays random episodes and tells what keeps an environment from being learned in, or a run from resuming.

    Args:
        env: an id registered with Gymnasium, a callable that makes an environment, or such a callable's import path.
        env_kwargs: keyword arguments for the environment.
        max_episode_steps: truncates episodes after so many steps.
        steps: of an episode, at most.

    Returns:
        What to change, a sentence or two each; nothing if all is well.

    Raises:
        ValueError: Gymnasium does not know the environment.
        TypeError: what makes it takes no such arguments, or makes no environment.
        ImportError: a package that it needs is missing.
    """
    spec = EnvironmentSpec(env, dict(env_kwargs or {}), max_episode_steps)
    spec.make().close()  # what cannot be made is the caller's error
    try:
        _, action_space, _ = spaces(spec)
    except (TypeError, ValueError) as error:
        return [str(error)]
    problems = _of_actions(spec.name, action_space)
    action_space.seed(0)
    actions = [action_space.sample() for _ in range(steps)]
    with closing(CheckedEnvironment(spec)) as used, closing(CheckedEnvironment(spec)) as fresh:
        try:
            first = _play(used, 0, actions)
            _play(used, 1, actions)
            again, anew = _play(used, 0, actions), _play(fresh, 0, actions)
        except FaultyEnvironmentError as error:
            return [*problems, str(error)]
        except Exception as error:  # whatever it is, it would end a training run
            return [*problems, f"{spec.name} raised {type(error).__name__} in a random episode: {error}"]
        problems += _of_bounds(spec.name, used.observation_space, first)
    if not _same(first, anew):
        problems.append(
            f"{spec.name}: two episodes with the same seed and the same actions differ, so that no run can be "
            "repeated: call super().reset(seed=seed) in reset, and draw random numbers from self.np_random alone."
        )
    elif not _same(first, again):
        problems.append(
            f"{spec.name}: an episode depends on those before it, so that a resumed run begins its episodes anew: let "
            "reset set everything that step changes."
        )
    return problems


def _of_actions(name: str, space: Any) -> list[str]:
    if isinstance(space, Discrete | MultiDiscrete):
        return []  # in which TRPO learns, as it does in a Box without bounds
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        return [
            f"{name} has the action space {space}: SAC learns in Box of real numbers, TRPO in Box, Discrete and "
            "MultiDiscrete. Wrap the environment so that it takes one of them."
        ]
    return []


def _of_bounds(name: str, space: Any, episode: Episode) -> list[str]:
    observations = np.stack(episode[0])
    low, high = space.low, space.high
    outside = np.argwhere((observations < low) | (observations > high))
    if not len(outside):
        return []
    step, index = outside[0]
    return [
        f"{name}: the observation of step {step} has {observations[step, index]} at index {index}, outside its space's "
        f"bounds {low[index]} to {high[index]}: correct the bounds, or the observation."
    ]


def _play(environment: CheckedEnvironment, seed: int, actions: list[Any]) -> Episode:
    observations, rewards = [environment.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, terminated, truncated, _ = environment.step(action)
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return observations, rewards


def _same(one: Episode, other: Episode) -> bool:
    return len(one[0]) == len(other[0]) and bool((np.stack(one[0]) == np.stack(other[0])).all()) and one[1] == other[1]
