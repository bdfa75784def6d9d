"""What every backend of vectorised environments offers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lightning_rl.environments.arrays import Actions, Array, Mask


class EnvironmentLostError(RuntimeError):
    """Environments died, did not answer, or raised: no environment's step counts, and all have to be made again.

    Args:
        reasons: what happened, by the environment's index.
        num_envs: how many there are.
        rank: whose environments failed, if the error is raised on another one.
    """

    def __init__(self, reasons: Mapping[int, str], num_envs: int, rank: int | None = None) -> None:
        of_rank = "" if rank is None else f"rank {rank}: "
        super().__init__(of_rank + "; ".join(f"environment {index} {reason}" for index, reason in reasons.items()))
        self.reasons = dict(reasons)
        self.everywhere = False
        """Whether all ranks have stopped with it, at the same place."""
        self.where: Mask = np.isin(np.arange(num_envs), list(reasons))
        """``[num_envs]``."""


class Step(NamedTuple):
    """What one step of all environments returned.

    After an episode's end `observation` is the episode's true last one: nothing is reset behind the scenes.
    """

    observation: Array
    """``[num_envs, observation_size]``."""
    reward: Array
    """``[num_envs]``."""
    terminated: Mask
    """``[num_envs]``: the decision process ended, there is no value beyond."""
    truncated: Mask
    """``[num_envs]``: a time limit cut the episode, the value beyond is bootstrapped."""


class VectorEnvironment(Protocol):
    """Several environments of one kind, stepped together and reset only when asked."""

    num_envs: int
    takes_seeds: bool
    """Whether `reset` begins the episode that the seed names, so that a seed and its actions bring an episode back."""

    def reset(self, seeds: Sequence[int], mask: Mask) -> Array:
        """Begins an episode where the mask is true.

        Args:
            seeds: one an environment; those where the mask is false are not read.
            mask: ``[num_envs]``.

        Returns:
            ``[num_envs, observation_size]``, the present observation of every environment.

        Raises:
            EnvironmentLostError: an environment of a process of its own failed.
        """
        ...

    def step(self, actions: Actions) -> Step:
        """Steps every environment.

        Args:
            actions: ``[num_envs, *action_shape]``, in the environment's units.

        Raises:
            EnvironmentLostError: an environment of a process of its own failed.
        """
        ...

    def close(self) -> None:
        """Ends the environments and their processes."""
        ...
