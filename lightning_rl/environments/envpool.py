import os
import warnings
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from lightning_rl.distributed import world_size
from lightning_rl.environments.arrays import Actions, Array, Mask
from lightning_rl.environments.single import EnvironmentSpec, FaultyEnvironmentError
from lightning_rl.environments.vector import Step


class EnvPoolEnvironments:
    """EnvPool's environments: compiled, and stepped by threads.

    EnvPool takes seeds only when it is made. Here it is made at the first `reset`, with that reset's seeds; the
    episodes after an environment's first one follow from that seed.

    Time limits are kept here, by an explicit reset: EnvPool calls an episode that ends by itself in the limit's last
    step a truncated one, beyond whose end there would be value.

    Args:
        spec: its environment must be an id that EnvPool has.
        observation_space: of one environment, as Gymnasium's has it.
        num_envs: how many.
        limit: steps after which an episode is truncated; ``None`` leaves EnvPool's own.
    """

    takes_seeds = False

    def __init__(self, spec: EnvironmentSpec, observation_space: Box, num_envs: int, limit: int | None) -> None:
        require_envpool(spec)
        self.num_envs = num_envs
        self._spec = spec
        self._limit = limit
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._shape = (num_envs, *(observation_space.shape or ()))
        self._pool: Any = None
        self._observation = np.zeros((num_envs, int(np.prod(self._shape[1:]))), dtype=np.float32)
        self._steps = 0

    def reset(self, seeds: Sequence[int], mask: Mask) -> Array:
        """Begins an episode where the mask is true; the first call's seeds are those of the environments."""
        self._lengths[mask] = 0
        if self._pool is None:
            self._pool = self._make(seeds)
            observation, _ = self._pool.reset()
            self._observation = self._checked(observation)
            return self._observation
        where = np.flatnonzero(mask).astype(np.int32)
        observation, info = self._pool.reset(where)
        all_observations = self._observation.reshape(self._shape).copy()
        all_observations[info["env_id"]] = observation
        self._observation = self._checked(all_observations)
        return self._observation

    def step(self, actions: Actions) -> Step:
        """Steps every environment, as often as an action is repeated."""
        self._steps += 1
        step = self._hold(actions)
        reward = step.reward.astype(np.float32)
        if not np.isfinite(reward).all():
            raise FaultyEnvironmentError(f"{self._where(~np.isfinite(reward))} returned a reward that is not finite.")
        self._observation = self._checked(step.observation)
        return Step(self._observation, reward, step.terminated, step.truncated)

    def _hold(self, actions: Actions) -> Step:
        """Takes actions for as many steps as they are held; an environment whose episode ends waits for the others."""
        step, _ = self._take(actions)
        if self._spec.action_repeat == 1:
            return step
        held = Step(step.observation.copy(), step.reward.copy(), step.terminated.copy(), step.truncated.copy())
        for _ in range(self._spec.action_repeat - 1):
            running = np.flatnonzero(~(held.terminated | held.truncated)).astype(np.int32)
            if not len(running):
                break
            step, where = self._take(actions[running], running)
            held.observation[where], held.terminated[where] = step.observation, step.terminated
            held.truncated[where] = step.truncated
            held.reward[where] += step.reward
        return held

    def _take(self, actions: Actions, running: Any = None) -> tuple[Step, Any]:
        """One step of all environments, or of those that run, and which ones its rows are of."""
        chosen = (actions,) if running is None else (actions, running)
        observation, reward, terminated, truncated, info = self._pool.step(*chosen)
        where = slice(None) if running is None else info["env_id"]
        self._lengths[where] += 1
        if self._limit is not None:
            truncated = (self._lengths[where] == self._limit) & ~terminated
        return Step(observation, reward, terminated, truncated), where

    def close(self) -> None:
        """Ends the environments."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _make(self, seeds: Sequence[int]) -> Any:
        import envpool

        threads = worker_threads(self.num_envs, os.sched_getaffinity(0), os.cpu_count(), world_size())
        kwargs = {**self._spec.env_kwargs, **threads}
        if self._limit is not None:
            kwargs["max_episode_steps"] = self._limit + 1  # which no episode reaches
        with warnings.catch_warnings():  # EnvPool writes its spaces' bounds in more digits than they have
            warnings.filterwarnings("ignore", message=".*precision lowered by casting")
            pool = envpool.make_gymnasium(self._spec.name, num_envs=self.num_envs, seed=list(seeds), **kwargs)
            _ = pool.observation_space, pool.action_space  # which EnvPool makes at the first look
        return pool

    def _checked(self, observation: Any) -> Array:
        if observation.shape != self._shape:
            raise FaultyEnvironmentError(
                f"EnvPool's {self._spec.name} returned observations of shape {observation.shape[1:]}, and Gymnasium's "
                f"has {self._shape[1:]}: use backend='sync'."
            )
        flat: Array = observation.reshape(self.num_envs, -1).astype(np.float32)
        if not np.isfinite(flat).all():
            faulty = np.atleast_1d(~np.isfinite(flat).all(axis=-1))
            raise FaultyEnvironmentError(f"{self._where(faulty)} returned an observation that is not finite.")
        return flat

    def _where(self, faulty: Mask) -> str:
        return f"EnvPool's {self._spec.name} (environment {int(np.flatnonzero(faulty)[0])}, its step {self._steps})"


def worker_threads(num_envs: int, cores: Set[int], machine_cores: int | None, ranks: int) -> dict[str, int]:
    """EnvPool's settings for its threads: one bound to each core, where this process has the machine to itself.

    Threads that went to sleep between two steps may wake on the same core, while another one idles; bound ones cannot.
    But those of two processes wait for each other, and EnvPool does not ask which cores a process may use: beside other
    ranks, or with some of the cores alone, no thread is bound, and a spare one takes the idle core instead.

    Args:
        num_envs: environments that the threads step.
        cores: which this process may use.
        machine_cores: how many the machine has, if that is known.
        ranks: of the run.
    """
    if ranks == 1 and machine_cores is not None and num_envs >= machine_cores and cores == set(range(machine_cores)):
        return {"num_threads": machine_cores, "thread_affinity_offset": 0}
    return {"num_threads": min(num_envs, len(cores) + len(cores) // 2)}


def require_envpool(spec: EnvironmentSpec) -> None:
    """Refuses what EnvPool cannot run.

    Raises:
        ImportError: the package is not installed.
        ValueError: EnvPool has no such environment.
    """
    try:
        import envpool
    except ImportError as error:
        raise ImportError(
            "backend='envpool' needs the package envpool: install lightning-rl[envpool] (Linux, Python 3.11 or "
            "newer), or use backend='sync'."
        ) from error
    if spec.env not in envpool.list_all_envs():
        raise ValueError(
            f"EnvPool has no environment {spec.name!r}: use backend='sync', or an id of envpool.list_all_envs()."
        )
