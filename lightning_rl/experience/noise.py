from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_rl.environments import Mask


def standard_normal(shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(*shape, generator=random)


class ExplorationNoise:
    """Standard normal noise correlated in time: ε_t = ρ ε_{t−1} + √(1 − ρ²) n_t.

    At an episode's first step ε is drawn afresh. Each ε_t is standard normal by itself, so that the policy's marginal
    is unchanged; only successive steps resemble each other (Eberhard et al. 2023, "Pink noise is all you need";
    Hollenstein et al. 2024, 2312.11091, on-policy).

    Args:
        correlation: ρ in [0, 1); 0 gives white noise.
        num_envs: environments.
        size: numbers of noise an action.
        white: a shape and a generator to the n_t; only standard normal ones may be correlated.
    """

    def __init__(
        self,
        correlation: float,
        num_envs: int,
        size: int,
        white: Callable[[Sequence[int], torch.Generator], Tensor] = standard_normal,
    ) -> None:
        self.correlation = correlation
        self.value = torch.zeros(num_envs, size)
        self._white = white

    def draw(self, first: Mask, random: torch.Generator) -> Tensor:
        """The next ε, ``[num_envs, size]``.

        Args:
            first: ``[num_envs]``: true at an episode's first step.
            random: where n_t comes from.
        """
        white = self._white(self.value.shape, random)
        if self.correlation == 0:
            self.value = white
            return white
        # In NumPy, which takes a third of the time that PyTorch's calls do for so few numbers.
        correlation = float(self.correlation)  # NumPy's own number, as of a sweep, would make float64 of the noise
        fresh = white.numpy()
        coloured = (1 - correlation**2) ** 0.5 * fresh + correlation * self.value.numpy()
        if np.count_nonzero(first):  # as in `Collector.step`
            coloured = np.where(first[:, None], fresh, coloured)
        self.value = torch.from_numpy(coloured)
        return self.value
