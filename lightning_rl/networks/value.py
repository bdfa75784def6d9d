from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_rl.moments import Normalizer
from lightning_rl.networks.mlp import orthogonal_mlp


class ValueNetwork(nn.Module):
    """V(s), as a network of its own.

    Args:
        observation_size: numbers an observation.
        hidden_sizes: widths of the hidden layers.
        activation: makes the activation after each of them.
        normalize_observations: whether it holds a `Normalizer` and looks through it.
    """

    def __init__(
        self,
        observation_size: int,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.Tanh,
        normalize_observations: bool = False,
    ) -> None:
        super().__init__()
        self.normalizer = Normalizer(observation_size) if normalize_observations else None
        self.network = orthogonal_mlp(observation_size, hidden_sizes, activation, 1, output_gain=1.0)

    def forward(self, observation: Tensor) -> Tensor:
        """``[…, observation_size]`` to ``[…]``."""
        value: Tensor = self.network(observation if self.normalizer is None else self.normalizer(observation))
        return value.squeeze(-1)
