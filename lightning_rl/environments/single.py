"""One environment: made from an id or a callable, and watched at every step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit

from lightning_rl.environments.arrays import Array

FLOAT32_MAX = float(np.finfo(np.float32).max)


class FaultyEnvironmentError(RuntimeError):
    """An environment returned what cannot be learned from."""


@dataclass(frozen=True)
class EnvironmentSpec:
    """What is needed to make an environment, any number of times and in any process.

    Args:
        env: an id registered with Gymnasium, a callable that makes an environment, or such a callable's import path.
        env_kwargs: keyword arguments for the environment.
        max_episode_steps: truncates episodes after so many steps of the environment; ``None`` leaves its own limit.
        action_repeat: steps of the environment that each action is held for.
    """

    env: str | Callable[..., gym.Env[Any, Any]]
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    action_repeat: int = 1

    @property
    def name(self) -> str:
        """How messages and checkpoints call this environment: its id, or its callable's import path."""
        if isinstance(self.env, str):
            return self.env
        if isinstance(self.env, partial):
            named = (f"{name}={_described(value)}" for name, value in self.env.keywords.items())
            return f"{EnvironmentSpec(self.env.func).name}({', '.join([*map(_described, self.env.args), *named])})"
        return _qualified_name(self.env)

    def make(self) -> gym.Env[Any, Any]:
        """Makes one environment as Gymnasium knows it, observations in their own shape.

        Raises:
            ValueError: the id is not known to Gymnasium.
            ImportError: a package that the environment needs is missing.
        """
        environment = self._make()
        return environment if self.action_repeat == 1 else ActionRepeat(environment, self.action_repeat)

    def _make(self) -> gym.Env[Any, Any]:
        if isinstance(self.env, str) and not _is_import_path(self.env):
            return _make_registered(self.env, self.max_episode_steps, self.env_kwargs)
        factory = _import(self.env) if isinstance(self.env, str) else self.env
        environment = factory(**self.env_kwargs)
        if not isinstance(environment, gym.Env):
            raise TypeError(
                f"env={self.name} made a {type(environment).__name__}, and a gymnasium.Env was expected: let the "
                "callable return an environment."
            )
        return environment if self.max_episode_steps is None else TimeLimit(environment, self.max_episode_steps)

    def make_checked(self) -> CheckedEnvironment:
        """Makes one environment for training or evaluation: flat float32 observations, every number checked."""
        return CheckedEnvironment(self)


def _described(value: Any) -> str:
    """A setting, in words that are the same in another process: an object's own may hold where it lies in memory."""
    if isinstance(value, partial):
        return EnvironmentSpec(value).name
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_described(item)}' for key, item in value.items())}}}"
    text = repr(value)
    return _qualified_name(value) if hasattr(value, "__qualname__") or " at 0x" in text else text


def _qualified_name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _make_registered(name: str, max_episode_steps: int | None, kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    try:
        # Our own checks run at every step; Gymnasium's checker looks at the first alone.
        return gym.make(name, max_episode_steps=max_episode_steps, disable_env_checker=True, **kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f"env={name!r} needs a package that is not installed: {error}") from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ValueError(
            f"env={name!r} is not an environment that Gymnasium knows ({error}). Give a registered id such as "
            "'BipedalWalker-v3', 'module:id' for an id that importing a module registers, or the import path of a "
            "callable that makes an environment."
        ) from error


def _is_import_path(name: str) -> bool:
    return name not in gym.registry and ":" not in name and "." in name


def _import(path: str) -> Callable[..., Any]:
    module, _, attribute = path.rpartition(".")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"env={path!r} is neither an id that Gymnasium knows nor the import path of a callable ({error})."
        ) from error
    return factory


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any]):
    """Holds each action for several steps, or until the episode ends, and sums their rewards up.

    Args:
        env: whose steps they are.
        times: steps an action.
    """

    def __init__(self, env: gym.Env[Any, Any], times: int) -> None:
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes the action; what is returned beside the reward is the last step's."""
        total = 0.0
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += math.nan if reward is None else float(reward)  # whoever checks the sum tells of it
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def keeps_hidden_state(environment: gym.Env[Any, Any]) -> bool:
    """Whether an episode of this environment depends on the ones before it.

    Gymnasium's BipedalWalker keeps one physics world over resets, and with it contact caches that change the course
    of a seeded episode.
    """
    return any(base.__module__ == "gymnasium.envs.box2d.bipedal_walker" for base in type(environment.unwrapped).__mro__)


def time_limit(environment: gym.Env[Any, Any]) -> int | None:
    """The number of steps after which an episode is truncated, if a limit is declared; the tightest of several."""
    declared = environment.spec.max_episode_steps if environment.spec is not None else None
    limits = [] if declared is None else [declared]
    layer: gym.Env[Any, Any] = environment
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, TimeLimit):
            limits.append(int(layer._max_episode_steps))
        layer = layer.env
    return min(limits, default=None)


class CheckedEnvironment(gym.Env[Array, Any]):
    """An environment whose observations are flat float32 vectors, and whose numbers are known to be usable.

    An environment that keeps hidden state is made anew for each episode, so that an episode is a function of its seed
    and its actions. Every error names the environment, the episode's seed and the step.

    Args:
        spec: how to make the environment.
    """

    def __init__(self, spec: EnvironmentSpec) -> None:
        self.name = spec.name
        self._make = spec.make
        self._env = spec.make()
        self._remake = keeps_hidden_state(self._env)
        if not isinstance(self._env.observation_space, Box):
            raise TypeError(unusable_observations(self.name, self._env.observation_space))
        self._shape = self._env.observation_space.shape
        low, high = (bound.reshape(-1) for bound in (self._env.observation_space.low, self._env.observation_space.high))
        with np.errstate(over="ignore"):  # float64 bounds may lie beyond float32's: then they are infinite
            self.observation_space = Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.action_space = self._env.action_space
        self.metadata = self._env.metadata
        self._used = False
        self._seed: int | None = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Starts the episode that the seed names."""
        if self._remake and self._used:
            self._env.close()
            self._env = self._make()
        self._used, self._seed, self._steps = True, seed, 0
        observation, _ = self._env.reset(seed=seed, options=options)
        return self._checked(observation), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; infos are left behind, because nothing downstream reads them."""
        self._steps += 1
        observation, reward, terminated, truncated, _ = self._env.step(action)
        number = math.nan if reward is None else float(reward)
        if not abs(number) <= FLOAT32_MAX:  # false for NaN as well
            raise FaultyEnvironmentError(
                f"{self._where()} returned the reward {reward}; a finite float32 number was expected."
            )
        return self._checked(observation), number, bool(terminated), bool(truncated), {}

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _checked(self, observation: Any) -> Array:
        array = np.asarray(observation)
        if array.shape != self._shape:
            raise FaultyEnvironmentError(
                f"{self._where()} returned an observation of shape {array.shape}; its observation space promises "
                f"{self._shape}."
            )
        if array.dtype == np.float32:
            flat = array.flatten()
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is named below
                flat = array.reshape(-1).astype(np.float32)
        if np.count_nonzero(np.isfinite(flat)) < flat.size:  # in half of the time that .all() takes, at every step
            index = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise FaultyEnvironmentError(
                f"{self._where()} returned {array.reshape(-1)[index]} at index {index} of its observation; finite "
                "float32 numbers were expected."
            )
        return flat

    def _where(self) -> str:
        return f"{self.name} (episode seed {self._seed}, step {self._steps})"


def unusable_observations(name: str, space: gym.Space[Any]) -> str:
    """What to say of an observation space that is no ``Box``."""
    return (
        f"{name} has the observation space {type(space).__name__}, and Box was expected: wrap the environment in "
        "gymnasium.wrappers.FlattenObservation, which turns Dict, Tuple and Discrete observations into a vector."
    )


def spaces(spec: EnvironmentSpec) -> tuple[Box, gym.Space[Any], int]:
    """Observation space, action space and time limit of one environment, which is made and closed.

    Raises:
        TypeError: the observations are no ``Box``.
        ValueError: no limit to an episode's length is declared.
    """
    environment = spec.make()
    try:
        if not isinstance(environment.observation_space, Box):
            raise TypeError(unusable_observations(spec.name, environment.observation_space))
        limit = time_limit(environment)
        if limit is None:
            raise ValueError(
                f"{spec.name} sets no limit to its episodes' length, and an evaluation might never end: give "
                "max_episode_steps (more than its longest episode, if every episode ends by itself)."
            )
        return environment.observation_space, environment.action_space, limit
    finally:
        environment.close()
