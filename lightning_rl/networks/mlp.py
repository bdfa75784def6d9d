import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers of the given sizes, an activation after each."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers)


def orthogonal_mlp(
    inputs: int, hidden_sizes: Sequence[int], activation: Callable[[], nn.Module], outputs: int, output_gain: float
) -> nn.Sequential:
    """Hidden layers and a linear output; weights orthogonal, with gain √2 in the hidden layers, biases zero."""
    sizes = [inputs, *hidden_sizes]
    output = nn.Linear(sizes[-1], outputs)
    network = nn.Sequential(*mlp(sizes, activation), output)
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, output_gain if layer is output else math.sqrt(2))
            nn.init.zeros_(layer.bias)
    return network
