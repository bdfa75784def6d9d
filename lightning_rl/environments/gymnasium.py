import multiprocessing
import os
import signal
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from lightning_rl.environments.arrays import Actions, Array, Mask
from lightning_rl.environments.single import CheckedEnvironment, EnvironmentSpec, FaultyEnvironmentError
from lightning_rl.environments.vector import EnvironmentLostError, Step


class GymnasiumEnvironments:
    """Gymnasium's vector environments, in this process (`sync`) or a process each (`async`).

    Args:
        spec: how to make one environment.
        num_envs: how many.
        backend: `sync` steps them one after another, `async` in processes of their own.
        timeout: seconds that a process may take to answer; ``None`` waits for ever.
    """

    takes_seeds = True

    def __init__(
        self, spec: EnvironmentSpec, num_envs: int, backend: Literal["sync", "async"], timeout: float | None = None
    ) -> None:
        factories = [partial(_make, spec, os.getpid())] * num_envs
        self._vector: Any
        make = SyncVectorEnv if backend == "sync" else AsyncVectorEnv
        # Gymnasium would copy its observations as objects of any kind are, which takes longer than copying an array.
        self._vector = make(factories, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        self.num_envs = num_envs
        self._in_processes = backend == "async"
        self._timeout = timeout
        self._lost = False

    def reset(self, seeds: Sequence[int], mask: Mask) -> Array:
        """Begins the episodes that the seeds name, where the mask is true."""
        observation: Array
        observation, _ = self._ask("reset", seed=list(seeds), options={"reset_mask": mask})
        return observation.copy()

    def step(self, actions: Actions) -> Step:
        """Steps every environment."""
        observation, reward, terminated, truncated, _ = self._ask("step", actions)
        # Gymnasium hands out copies of all but the observation.
        return Step(observation.copy(), reward.astype(np.float32), terminated, truncated)

    def close(self) -> None:
        """Ends the environments and their processes, also those that are gone or hang."""
        if self._lost:  # a polite close would wait for all of them
            for process in self._vector.processes:
                process.kill()  # SIGTERM would not end one that is stopped
            self._vector._state = AsyncState.DEFAULT  # else it asks for the answer that never comes
        try:
            self._vector.close(**({"terminate": True} if self._lost else {}))
        except (EOFError, OSError):
            self._vector.close(terminate=True)

    def _ask(self, what: Literal["reset", "step"], *arguments: Any, **settings: Any) -> Any:
        if not self._in_processes:
            return getattr(self._vector, what)(*arguments, **settings)
        try:
            getattr(self._vector, f"{what}_async")(*arguments, **settings)
            return getattr(self._vector, f"{what}_wait")(timeout=self._timeout)
        except Exception as error:
            self._lost = True
            # Numbers that cannot be used are no accident of a process: they stop the run wherever they come from.
            reasons = {} if isinstance(error, FaultyEnvironmentError) else self._reasons(error)
            if not reasons:
                raise
            raise EnvironmentLostError(reasons, self.num_envs) from error

    def _reasons(self, error: Exception) -> dict[int, str]:
        """Which environments failed, and how."""
        pipes, processes = self._vector.parent_pipes, self._vector.processes
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [index for index, pipe in enumerate(pipes) if not pipe.poll(0)]
            return dict.fromkeys(silent, f"did not answer within {self._timeout} seconds")
        if isinstance(error, EOFError | OSError):
            ending = wait([process.sentinel for process in processes], timeout=1)
            ended = [index for index, process in enumerate(processes) if process.sentinel in ending]
            for index in ended:
                processes[index].join()  # the exit code comes a moment after the end
            return {index: f"ended with exit code {processes[index].exitcode}" for index in ended}
        # Gymnasium closes the pipes of those that raised.
        raised = [index for index, pipe in enumerate(pipes) if pipe is None]
        return {index: f"raised {type(error).__name__}: {error}" for index in raised}


def _make(spec: EnvironmentSpec, training: int) -> CheckedEnvironment:
    """One environment; in a process of its own, signals that are meant for the training process are left to it."""
    if os.getpid() != training:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return spec.make_checked()
