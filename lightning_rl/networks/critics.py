import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class TwinLinear(nn.Module):
    """Two linear layers side by side, evaluated as one batched product.

    Each is initialised as ``torch.nn.Linear`` is.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``[2, batch, inputs]`` to ``[2, batch, outputs]``."""
        return torch.bmm(x, self.weight) + self.bias


class DoubleCritic(nn.Module):
    """Two Q functions in one module: ``q1, q2 = critic(observation, action)``.

    Args:
        observation_size: numbers an observation.
        action_size: numbers an action.
        hidden_sizes: widths of the hidden layers of each.
        activation: makes the activation after each of them.
    """

    def __init__(
        self, observation_size: int, action_size: int, hidden_sizes: Sequence[int], activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        sizes = [observation_size + action_size, *hidden_sizes]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [TwinLinear(inputs, outputs), activation()]
        self.layers = nn.Sequential(*layers, TwinLinear(sizes[-1], 1))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Both Q(s, a).

        Args:
            observation: ``[batch, observation_size]``.
            action: ``[batch, action_size]``, normalised.

        Returns:
            ``[2, batch]``.
        """
        x = torch.cat([observation, action], dim=-1)
        q: Tensor = self.layers(x.expand(2, *x.shape))
        return q.squeeze(-1)

    def Q1(self, observation: Tensor, action: Tensor) -> Tensor:  # noqa: N802 (the slides' name)
        """The first Q(s, a), ``[batch]``."""
        q: Tensor = self(observation, action)[0]
        return q

    def Q2(self, observation: Tensor, action: Tensor) -> Tensor:  # noqa: N802 (the slides' name)
        """The second Q(s, a), ``[batch]``."""
        q: Tensor = self(observation, action)[1]
        return q


@torch.no_grad()
def track(follower: nn.Module, leader: nn.Module, rate: float) -> None:
    """Moves the follower's parameters towards the leader's: θ⁻ ← (1 − rate) θ⁻ + rate θ.

    Buffers, such as the statistics of a network of one's own, are taken over as they are.
    """
    for slow, fast in zip(follower.parameters(), leader.parameters(), strict=True):
        slow.lerp_(fast, rate)
    for theirs, ours in zip(follower.buffers(), leader.buffers(), strict=True):
        theirs.copy_(ours)
