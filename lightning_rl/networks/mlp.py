import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn


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


def has_hooks(network: nn.Module) -> bool:
    """Whether something is called before or after a part of it, as by whoever prunes it or looks at activations."""
    if network._forward_pre_hooks or network._forward_hooks:
        return True
    return any(has_hooks(part) for part in network._modules.values() if part is not None)


def at_rest(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A network's forward pass, to be used for as long as its parameters are not replaced; their values may change.

    A chain of layers is the same operations on the same tensors without the modules' own calls, which take longer than
    the products of a few rows do. A network of another kind, or with hooks, is given back as it is.

    Args:
        network: ``[…, inputs]`` to ``[…, outputs]``.
    """
    if type(network) is not nn.Sequential or has_hooks(network):
        return network
    return chain(network)


def chain(layers: Iterable[nn.Module]) -> Callable[[Tensor], Tensor]:
    """What layers without hooks do one after another, without the modules' own calls."""
    steps = [
        partial(nn.functional.linear, weight=layer.weight, bias=layer.bias)
        if type(layer) is nn.Linear
        else layer.forward
        for layer in layers
    ]

    def forward(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return forward
