import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from lightning_rl.environments.arrays import Actions, Array, Mask
from lightning_rl.environments.single import CheckedEnvironment, EnvironmentSpec
from lightning_rl.environments.vector import Step


class GymnasiumEnvironments:
    """Gymnasium's vector environments, in this process (`sync`) or a process each (`async`).

    Args:
        spec: how to make one environment.
        num_envs: how many.
        backend: `sync` steps them one after another, `async` in processes of their own.
    """

    takes_seeds = True

    def __init__(self, spec: EnvironmentSpec, num_envs: int, backend: Literal["sync", "async"]) -> None:
        factories = [partial(_make, spec, os.getpid())] * num_envs
        self._vector: Any
        if backend == "sync":
            self._vector = SyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED)
        else:
            self._vector = AsyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED)
        self.num_envs = num_envs

    def reset(self, seeds: Sequence[int], mask: Mask) -> Array:
        """Begins the episodes that the seeds name, where the mask is true."""
        observation: Array
        observation, _ = self._vector.reset(seed=list(seeds), options={"reset_mask": mask})
        return observation

    def step(self, actions: Actions) -> Step:
        """Steps every environment."""
        observation, reward, terminated, truncated, _ = self._vector.step(actions)
        return Step(observation, reward.astype(np.float32), terminated.copy(), truncated.copy())

    def close(self) -> None:
        """Ends the environments and their processes, also where one of them is gone already."""
        try:
            self._vector.close()
        except (EOFError, OSError):
            self._vector.close(terminate=True)


def _make(spec: EnvironmentSpec, training: int) -> CheckedEnvironment:
    """One environment; in a process of its own, signals that are meant for the training process are left to it."""
    if os.getpid() != training:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return spec.make_checked()
