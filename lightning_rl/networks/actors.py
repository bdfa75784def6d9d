import math
from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that the field knows it by)

from lightning_rl.networks.bounds import inner_bounds
from lightning_rl.networks.mlp import chain, has_hooks, mlp

LOG_STD_MIN = -20.0
LOG_STD_MAX = 2.0


class GaussianNetwork(nn.Module):
    """Mean and logarithm of the standard deviation of a Gaussian, from two heads on one trunk.

    Args:
        observation_size: numbers an observation.
        action_size: numbers an action.
        hidden_sizes: widths of the hidden layers.
        activation: makes the activation after each of them.
    """

    def __init__(
        self, observation_size: int, action_size: int, hidden_sizes: Sequence[int], activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.trunk = mlp([observation_size, *hidden_sizes], activation)
        width = hidden_sizes[-1] if hidden_sizes else observation_size
        self.mean = nn.Linear(width, action_size)
        self.log_std = nn.Linear(width, action_size)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """``[…, observation_size]`` to μ and log σ, both ``[…, action_size]``."""
        if torch.compiler.is_dynamo_compiling():
            return self._compiled_forward(observation)
        features = self.trunk(observation)
        return self.mean(features), self.log_std(features)

    def _compiled_forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` in fewer kernels, but for layers of one's own and where somebody waits for a part to be called."""
        layers = self.trunk if type(self.trunk) is nn.Sequential and not _listens(self.trunk) else [self.trunk]
        features = observation
        for layer in layers:
            features = _linear(features, layer.weight, layer.bias) if _is_plain_linear(layer) else layer(features)
        heads = self.mean, self.log_std
        if not all(map(_is_plain_linear, heads)):
            return self.mean(features), self.log_std(features)
        # A narrow product takes as long to call as to compute: both heads are one.
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        mean, log_std = _linear(features, weight, bias).split([len(head.weight) for head in heads], dim=-1)
        return mean, log_std


class SquashedGaussianActor(nn.Module):
    """The policy a = tanh(u), u ~ N(μ(s), σ(s)), learned in normalised actions in (−1, 1)^D.

    The environment's bounds are buffers of the actor, so that a checkpoint or an exported file knows its units.

    Args:
        network: observation ``[…, observation_size]`` to μ and log σ, both ``[…, action_size]``.
        action_space: a bounded ``Box``; its bounds may be asymmetric and differ by dimension.
    """

    low: Tensor
    high: Tensor
    action_scale: Tensor
    action_bias: Tensor

    def __init__(self, network: nn.Module, action_space: Box) -> None:
        super().__init__()
        self.network = network
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (action_space.low, action_space.high))
        for name, bound in zip(("low", "high"), inner_bounds(low, high), strict=True):
            self.register_buffer(name, bound)
        for name, value in {"action_scale": (high - low) / 2, "action_bias": (high + low) / 2}.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.get_default_dtype()))

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ of u, ``[…, action_size]`` each, log σ clipped to [−20, 2] as in Haarnoja's implementation."""
        mean, log_std = self.network(observation)
        # What follows the network is computed in the parameters' own precision, also under autocast.
        return mean.to(self.low.dtype), log_std.to(self.low.dtype).clamp(LOG_STD_MIN, LOG_STD_MAX)

    def rsample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A reparametrised sample, through which gradients reach μ and σ, and its log-probability.

        Args:
            observation: ``[…, observation_size]``.
            noise: ε ~ N(0, 1), ``[…, action_size]``; u = μ + σ ε.

        Returns:
            The normalised action tanh(u), ``[…, action_size]``, and its log-density, ``[…]``.
        """
        mean, log_std = self.distribution(observation)
        u = mean + log_std.exp() * noise
        return u.tanh(), squashed_log_prob(u, noise, log_std)

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """The normalised action that goes with the noise, ``[…, action_size]``."""
        mean, log_std = self.distribution(observation)
        return (mean + log_std.exp() * noise).tanh()

    def greedy(self, observation: Tensor) -> Tensor:
        """The normalised action tanh(μ), ``[…, action_size]``."""
        return self.distribution(observation)[0].tanh()

    def at_rest(self) -> Callable[[Tensor], Tensor]:
        """`forward`, to be used for as long as no parameter is replaced: the same numbers in less time.

        Returns:
            ``[…, observation_size]`` to ``[…, action_size]``.
        """
        network = self._plain_network()
        if network is None:
            return self
        mean, to_environment = chain([*network.trunk, network.mean]), self.to_environment_at_rest()
        return lambda observation: to_environment(mean(observation).to(self.low.dtype).tanh())

    def explore_at_rest(self) -> Callable[[Tensor, Tensor], Tensor]:
        """`explore`, to be used for as long as no parameter is replaced: the same numbers in less time.

        Returns:
            ``[…, observation_size]`` and ``[…, action_size]`` to ``[…, action_size]``.
        """
        network = self._plain_network()
        if network is None:
            return self.explore
        trunk, mean, log_std = chain(network.trunk), chain([network.mean]), chain([network.log_std])

        def explore(observation: Tensor, noise: Tensor) -> Tensor:
            features = trunk(observation)
            return (mean(features) + log_std(features).clamp(LOG_STD_MIN, LOG_STD_MAX).exp() * noise).tanh()

        return explore

    def to_environment_at_rest(self) -> Callable[[Tensor], Tensor]:
        """`to_environment`, to be used for as long as the bounds stay."""
        if type(self) is not SquashedGaussianActor:
            return self.to_environment
        low, high, scale, bias = self.low, self.high, self.action_scale, self.action_bias
        return lambda action: (bias + scale * action).clamp(low, high)

    def _plain_network(self) -> GaussianNetwork | None:
        """The network, if nothing of the actor is of one's own and nobody waits for a part to be called."""
        network = self.network
        if type(self) is not SquashedGaussianActor or type(network) is not GaussianNetwork:
            return None
        return network if type(network.trunk) is nn.Sequential and not has_hooks(self) else None

    def to_environment(self, action: Tensor) -> Tensor:
        """A normalised action in the environment's units, never beyond its bounds by a rounding."""
        return (self.action_bias + self.action_scale * action).clamp(self.low, self.high)

    def environment_log_prob(self, log_prob: Tensor) -> Tensor:
        """The density in the environment's units: the normalised one's minus Σ log scale."""
        return log_prob - self.action_scale.log().sum()

    def forward(self, observation: Tensor) -> Tensor:
        """The greedy action in the environment's units."""
        return self.to_environment(self.greedy(observation))


def _is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return type(layer) is nn.Linear and layer.bias is not None and not _listens(layer)


def _listens(layer: nn.Module) -> bool:
    return bool(has_hooks(layer) or layer._backward_hooks or layer._backward_pre_hooks)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer in a compiled function, whose bias is added in the pass of whatever follows.

    A product with a bias first copies the bias to every row, in a pass of its own. The compiler would merge a product
    and a sum into that again; a difference it leaves alone.
    """
    return F.linear(x, weight) - (-bias)


def squashed_log_prob(u: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """The log-density of tanh(u) for u = μ + σ ε: Σ log N(u; μ, σ) − Σ 2 (log 2 − u − softplus(−2u)).

    The second sum is Σ log(1 − tanh² u), written so that no large u makes it log 0 (Haarnoja et al. 2018, appendix C;
    the stable form is the slides').

    Args:
        u: ``[…, action_size]``.
        noise: ε, ``[…, action_size]``.
        log_std: log σ, ``[…, action_size]``.

    Returns:
        ``[…]``.
    """
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    squashing = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return (gaussian - squashing).sum(-1)
