import torch
from torch import Tensor

from lightning_rl.environments import Mask


class ExplorationNoise:
    """Standard normal noise correlated in time: ε_t = ρ ε_{t−1} + √(1 − ρ²) n_t.

    At an episode's first step ε is drawn afresh. Each ε_t is standard normal by itself, so that the policy's marginal
    is unchanged; only successive steps resemble each other (Eberhard et al. 2023, "Pink noise is all you need").

    Args:
        correlation: ρ in [0, 1); 0 gives white noise.
        num_envs: environments.
        action_size: numbers an action.
    """

    def __init__(self, correlation: float, num_envs: int, action_size: int) -> None:
        self.correlation = correlation
        self.value = torch.zeros(num_envs, action_size)

    def draw(self, first: Mask, random: torch.Generator) -> Tensor:
        """The next ε, ``[num_envs, action_size]``.

        Args:
            first: ``[num_envs]``: true at an episode's first step.
            random: where n_t comes from.
        """
        white = torch.randn(self.value.shape, generator=random)
        coloured = self.correlation * self.value + (1 - self.correlation**2) ** 0.5 * white
        self.value = torch.where(torch.from_numpy(first)[:, None], white, coloured)
        return self.value
