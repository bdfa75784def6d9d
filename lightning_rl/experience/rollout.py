from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rl.environments import Array, Mask


class ValueSamples(NamedTuple):
    """Observations and what V was to be there, as a rollout was valued when it was lived through."""

    observation: Tensor
    """``[n, observation_size]``."""
    elapsed: Tensor
    """``[n]``: steps since the episode's first observation."""
    value_target: Tensor
    """``[n]``."""


class Rollout(NamedTuple):
    """What the current policy lived through: the slides' arrays, ``[steps, num_envs, …]`` in the order of time."""

    observation: Tensor
    """``[steps, num_envs, observation_size]``."""
    elapsed: Tensor
    """``[steps, num_envs]``: steps since the episode's first observation."""
    action: Tensor
    """``[steps, num_envs, action_size]``, as the policy sampled it."""
    log_prob: Tensor
    """``[steps, num_envs]``: log π_old(a|s), under the policy that acted."""
    value: Tensor
    """``[steps, num_envs]``: V(s) of the value function that the rollout began with."""
    value_target: Tensor
    """``[steps, num_envs]``: what V(s) is fitted to."""
    advantage: Tensor
    """``[steps, num_envs]``: GAE(γ, λ)."""
    order: Tensor
    """``[epochs, steps · num_envs]``: the order in which each epoch of the value function's fit goes through this
    rollout's transitions, the first in number, and the earlier ones."""
    earlier: ValueSamples | None = None
    """Of the rollouts before, the oldest first, which the value function is fitted to as well."""

    def value_samples(self) -> ValueSamples:
        """What its own value targets belong to, in memory of their own."""
        observation, elapsed = self.observation.flatten(0, 1).clone(), self.elapsed.flatten().clone()
        return ValueSamples(observation, elapsed, self.value_target.flatten())


class RolloutMemory:
    """One rollout's transitions in preallocated blocks ``[steps, num_envs, …]``.

    Args:
        steps: per environment.
        num_envs: environments.
        observation_size: numbers an observation.
        action_size: numbers an action.
        action_dtype: integers for choices.
    """

    def __init__(
        self, steps: int, num_envs: int, observation_size: int, action_size: int, action_dtype: torch.dtype
    ) -> None:
        self.observation = torch.zeros(steps, num_envs, observation_size)
        self.elapsed = torch.zeros(steps, num_envs)
        self.next_observation = torch.zeros(steps, num_envs, observation_size)
        self.action = torch.zeros(steps, num_envs, action_size, dtype=action_dtype)
        self.reward = torch.zeros(steps, num_envs)
        self.terminated = torch.zeros(steps, num_envs, dtype=torch.bool)
        self.ended = torch.zeros(steps, num_envs, dtype=torch.bool)
        # The same memory as NumPy sees it, which writes a row in a tenth of the time.
        self._rows = {name: block.numpy() for name, block in vars(self).items()}

    def blocks(self) -> list[Tensor]:
        """All blocks."""
        return [getattr(self, name) for name in self._rows]

    def write(
        self,
        step: int,
        observation: Array,
        elapsed: Array,
        action: Tensor,
        reward: Array,
        next_observation: Array,
        terminated: Mask,
        ended: Mask,
    ) -> None:
        """Writes one step of all environments; `next_observation` is an ended episode's true last one."""
        rows = self._rows
        rows["observation"][step] = observation
        rows["elapsed"][step] = elapsed
        rows["action"][step] = action.numpy()
        rows["reward"][step] = reward
        rows["next_observation"][step] = next_observation
        rows["terminated"][step] = terminated
        rows["ended"][step] = ended
