import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_rl.moments import Normalizer
from lightning_rl.networks.bounds import inner_bounds
from lightning_rl.networks.mirror import Mirror, Reflection, Reflections
from lightning_rl.networks.mlp import at_rest, has_hooks, orthogonal_mlp

Bound = NDArray[np.float64]


class Policy(nn.Module, ABC):
    """A distribution of actions for every observation, as a trust region needs it.

    ``policy(observation)`` gives the distribution's parameters, ``[…, P]``; everything else is a function of them. All
    numbers of one distribution lie in one vector, so that its Fisher matrix is one matrix.

    Args:
        observation_size: numbers an observation.
        parameter_size: numbers that the network has to give.
        hidden_sizes: widths of the hidden layers.
        activation: makes the activation after each of them.
        normalize_observations: whether the policy holds a `Normalizer` and looks through it.
    """

    action_size: int
    """Numbers an action."""
    noise_size: int
    """Random numbers that sampling an action takes."""

    def __init__(
        self,
        observation_size: int,
        parameter_size: int,
        hidden_sizes: Sequence[int],
        activation: Callable[[], nn.Module],
        normalize_observations: bool,
    ) -> None:
        super().__init__()
        self.normalizer = Normalizer(observation_size) if normalize_observations else None
        self.reflections: Reflections | None = None
        # Parameters near zero: the first actions are spread evenly, whatever the observation.
        self.network = orthogonal_mlp(observation_size, hidden_sizes, activation, parameter_size, output_gain=0.01)

    def normalize(self, observation: Tensor) -> Tensor:
        """The observation ``[…, observation_size]`` as the network sees it."""
        return observation if self.normalizer is None else self.normalizer(observation)

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """The sampled action that goes with the noise, ``[…, action_size]``."""
        return self.sample(self(observation), noise)

    def at_rest(self) -> Callable[[Tensor, Tensor], Tensor]:
        """`explore`, to be used for as long as nothing of the policy changes: the same numbers in less time.

        Returns:
            ``[…, observation_size]`` and ``[…, noise_size]`` to ``[…, action_size]``.
        """
        parameters = self._parameters_at_rest()
        return lambda observation, noise: self.sample(parameters(observation), noise)

    def to_environment_at_rest(self) -> Callable[[Tensor], Tensor]:
        """`to_environment`, to be used for as long as nothing of the policy changes."""
        return self.to_environment

    def mode_at_rest(self) -> Callable[[Tensor], Tensor]:
        """The mode, to be used for as long as nothing changes, ``[…, observation_size]`` to ``[…, action_size]``."""
        parameters = self._parameters_at_rest()
        return lambda observation: self.mode(parameters(observation))

    def _parameters_at_rest(self) -> Callable[[Tensor], Tensor]:
        return self

    def _network_at_rest(self) -> Callable[[Tensor], Tensor]:
        network = at_rest(self.network)
        if self.normalizer is None:
            return network
        normalize = self.normalizer.at_rest()
        return lambda observation: network(normalize(observation))

    def mode(self, parameters: Tensor) -> Tensor:
        """The most probable action, ``[…, action_size]``: the one that goes with no noise."""
        return self.sample(parameters, parameters.new_zeros(*parameters.shape[:-1], self.noise_size))

    @abstractmethod
    def forward(self, observation: Tensor) -> Tensor:
        """``[…, observation_size]`` to the distribution's parameters, ``[…, P]``."""

    @abstractmethod
    def draw_noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What `sample` takes for actions of the leading shape, ``[*shape, noise_size]``."""

    @abstractmethod
    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """The action that goes with the noise, ``[…, action_size]``, as `log_prob` takes it."""

    @abstractmethod
    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """The logarithm of the action's probability or density, ``[…]``."""

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """The distribution's entropy, in nats, ``[…]``."""

    @abstractmethod
    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old ‖ new) of two distributions, in nats, ``[…]``."""

    @abstractmethod
    def fisher_product(self, parameters: Tensor, tangent: Tensor) -> Tensor:
        """M · tangent, ``[…, P]``, with M the distribution's Fisher matrix with respect to its parameters."""

    @abstractmethod
    def to_environment(self, action: Tensor) -> Tensor:
        """A sampled action in the environment's units, ``[…, action_size]``."""


class GaussianPolicy(Policy):
    """Independent normal distributions, whose standard deviations do not depend on the observation.

    The parameters are μ and log σ, ``P = 2 · action_size``. An action is the u that was sampled, without bounds; the
    environment gets bias + scale · u clipped to its bounds. Where a dimension is bounded on both sides, u = ±1 are the
    bounds; where it is not, the scale is one and u = 0 the number nearest to zero that is allowed.

    With `squash_actions` the environment gets bias + scale · tanh u instead. Beyond a clipped bound a change of u
    changes nothing, so that a policy that acts at full force finds no way back; a squashed one feels every change. The
    density stays that of u, because the ratio of two densities is the same for u and for tanh u.

    Args:
        observation_size: numbers an observation.
        action_space: its bounds may be asymmetric, infinite, and differ by dimension.
        hidden_sizes: widths of the hidden layers.
        activation: makes the activation after each of them.
        normalize_observations: whether the policy holds a `Normalizer` and looks through it.
        squash_actions: whether tanh brings actions into their bounds, instead of clipping.
        mirror: in which the policy looks the same: μ(s) is ½ (f(s) + A f(E s)) with f the network's, and the deviations
            of exchanged actions are one, their geometric mean.

    Raises:
        TypeError: the space holds integers.
        ValueError: actions without bounds are to be squashed into them, or the mirror does not fit.
    """

    low: Tensor
    high: Tensor
    action_scale: Tensor
    action_bias: Tensor

    def __init__(
        self,
        observation_size: int,
        action_space: Box,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.Tanh,
        normalize_observations: bool = True,
        squash_actions: bool = False,
        mirror: Mirror | None = None,
    ) -> None:
        if not np.issubdtype(action_space.dtype, np.floating):
            raise TypeError(f"the action space {action_space} holds integers, and a Gaussian acts in real numbers.")
        if squash_actions and not action_space.is_bounded():
            raise ValueError(
                f"squash_actions=True: the action space {action_space} has no bounds to squash actions into; leave "
                "squash_actions at False."
            )
        size = math.prod(action_space.shape)
        super().__init__(observation_size, size, hidden_sizes, activation, normalize_observations)
        self.action_size = self.noise_size = size
        self.squash_actions = squash_actions
        self.log_std = nn.Parameter(torch.zeros(size))
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (action_space.low, action_space.high))
        scale, bias = _scale_and_bias(low, high)
        for name, bound in zip(("low", "high"), inner_bounds(low, high), strict=True):
            self.register_buffer(name, bound)
        for name, value in {"action_scale": scale, "action_bias": bias}.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.get_default_dtype()))
        self.reflections = None if mirror is None else Reflections(mirror, observation_size, size)
        if self.reflections is not None:
            require_symmetric_bounds(self.reflections.of_action, action_space)

    def forward(self, observation: Tensor) -> Tensor:
        """``[…, observation_size]`` to μ and log σ, ``[…, 2 · action_size]``."""
        mean = self._symmetric(self._mean)(observation)
        return torch.cat([mean, self._shared_log_std().expand_as(mean)], dim=-1)

    def _mean(self, observation: Tensor) -> Tensor:
        mean: Tensor = self.network(self.normalize(observation))
        return mean

    def _symmetric(self, mean: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return mean if self.reflections is None else self.reflections.symmetric(mean)

    def _shared_log_std(self) -> Tensor:
        return self.log_std if self.reflections is None else self.reflections.shared(self.log_std)

    def draw_noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """ε ~ N(0, 1), ``[*shape, action_size]``."""
        return torch.randn(*shape, self.noise_size, generator=generator)

    def mode(self, parameters: Tensor) -> Tensor:
        """The mean μ, ``[…, action_size]``."""
        return parameters.chunk(2, dim=-1)[0]

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """The sample u = μ + σ ε, ``[…, action_size]``."""
        mean, log_std = parameters.chunk(2, dim=-1)
        return mean + log_std.exp() * noise

    def at_rest(self) -> Callable[[Tensor, Tensor], Tensor]:
        """`explore`, to be used for as long as nothing of the policy changes: σ is then computed once."""
        if has_hooks(self):
            return self.explore
        mean, std = self._symmetric(self._network_at_rest()), self._shared_log_std().detach().exp()
        return lambda observation, noise: mean(observation) + std * noise

    def to_environment_at_rest(self) -> Callable[[Tensor], Tensor]:
        """`to_environment`, to be used for as long as nothing changes: scaling is left out where it does nothing."""
        if type(self) is not GaussianPolicy:  # which may have its own
            return self.to_environment
        low, high, scale, bias = self.low, self.high, self.action_scale, self.action_bias
        squashes, scales = self.squash_actions, bool((scale != 1).any() or (bias != 0).any())

        def to_environment(action: Tensor) -> Tensor:
            squashed = action.tanh() if squashes else action
            return (bias + scale * squashed if scales else squashed).clamp(low, high)

        return to_environment

    def mode_at_rest(self) -> Callable[[Tensor], Tensor]:
        """The mean μ, to be used for as long as nothing changes."""
        return super().mode_at_rest() if has_hooks(self) else self._symmetric(self._network_at_rest())

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Σ log N(u; μ, σ), ``[…]``."""
        mean, log_std = parameters.chunk(2, dim=-1)
        deviation = (action - mean) * (-log_std).exp()
        return (-0.5 * deviation.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Σ log σ + ½ log 2πe, ``[…]``."""
        _, log_std = parameters.chunk(2, dim=-1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Σ log σ'/σ + (σ² + (μ − μ')²) / 2σ'² − ½ for (μ, σ) old and (μ', σ') new, ``[…]``."""
        (old_mean, old_log_std), (new_mean, new_log_std) = old.chunk(2, dim=-1), new.chunk(2, dim=-1)
        log_ratio = old_log_std - new_log_std
        # Written with expm1, (σ² / σ'² − 1) / 2 loses no digits where the two are close, as in a trust region.
        spread = 0.5 * (2 * log_ratio).expm1() - log_ratio
        return (spread + 0.5 * ((old_mean - new_mean) * (-new_log_std).exp()).square()).sum(-1)

    def fisher_product(self, parameters: Tensor, tangent: Tensor) -> Tensor:
        """M = diag(1/σ², 2): one block for μ, one for log σ."""
        _, log_std = parameters.chunk(2, dim=-1)
        mean_tangent, log_std_tangent = tangent.chunk(2, dim=-1)
        return torch.cat([(-2 * log_std).exp() * mean_tangent, 2 * log_std_tangent], dim=-1)

    def to_environment(self, action: Tensor) -> Tensor:
        """Bias + scale · u clipped to the bounds, or bias + scale · tanh u, ``[…, action_size]``."""
        if self.squash_actions:
            action = action.tanh()
        # Rounding may carry a squashed action over its bound by the last bit.
        return (self.action_bias + self.action_scale * action).clamp(self.low, self.high)


class CategoricalPolicy(Policy):
    """Independent choices, one a component of the action; a ``Discrete`` space has one component.

    The parameters are the logits of all components, one component after the other. An action holds the index of each
    choice, from zero; the environment gets it counted from the space's own start.

    Args:
        observation_size: numbers an observation.
        action_space: ``Discrete`` or ``MultiDiscrete``.
        hidden_sizes: widths of the hidden layers.
        activation: makes the activation after each of them.
        normalize_observations: whether the policy holds a `Normalizer` and looks through it.
    """

    start: Tensor

    def __init__(
        self,
        observation_size: int,
        action_space: Discrete | MultiDiscrete,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.Tanh,
        normalize_observations: bool = True,
    ) -> None:
        nvec = action_space.n if isinstance(action_space, Discrete) else action_space.nvec
        choices: list[int] = np.reshape(nvec, -1).tolist()
        super().__init__(observation_size, sum(choices), hidden_sizes, activation, normalize_observations)
        self.choices = choices
        self.action_size, self.noise_size = len(choices), sum(choices)
        self.register_buffer("start", torch.tensor(np.reshape(action_space.start, -1), dtype=torch.int64))

    def forward(self, observation: Tensor) -> Tensor:
        """``[…, observation_size]`` to the logits, ``[…, sum of choices]``."""
        logits: Tensor = self.network(self.normalize(observation))
        return logits

    def _parameters_at_rest(self) -> Callable[[Tensor], Tensor]:
        return self if has_hooks(self) else self._network_at_rest()

    def draw_noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise −log(−log U), ``[*shape, sum of choices]``."""
        return -torch.empty(*shape, self.noise_size).exponential_(generator=generator).log()

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """The argmax of logits + noise, which is distributed as the logits' softmax, ``[…, action_size]``."""
        return torch.stack([logits.argmax(-1) for logits in self._components(parameters + noise)], dim=-1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Σ log p of the chosen, ``[…]``."""
        chosen = [
            log_p.gather(-1, index)
            for log_p, index in zip(self._log_probabilities(parameters), action.split(1, dim=-1), strict=True)
        ]
        return torch.cat(chosen, dim=-1).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """−Σ p log p, ``[…]``."""
        log_p = torch.cat(self._log_probabilities(parameters), dim=-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Σ p (log p − log p') for p old and p' new, ``[…]``."""
        old_log_p, new_log_p = (torch.cat(self._log_probabilities(logits), dim=-1) for logits in (old, new))
        return (old_log_p.exp() * (old_log_p - new_log_p)).sum(-1)

    def fisher_product(self, parameters: Tensor, tangent: Tensor) -> Tensor:
        """M = diag(p) − p pᵀ, one block a component."""
        blocks = [
            log_p.exp() * (v - (log_p.exp() * v).sum(-1, keepdim=True))
            for log_p, v in zip(self._log_probabilities(parameters), self._components(tangent), strict=True)
        ]
        return torch.cat(blocks, dim=-1)

    def to_environment(self, action: Tensor) -> Tensor:
        """The indices counted from the space's start, integers, ``[…, action_size]``."""
        return self.start + action

    def _components(self, x: Tensor) -> list[Tensor]:
        return list(x.split(self.choices, dim=-1))

    def _log_probabilities(self, parameters: Tensor) -> list[Tensor]:
        return [logits.log_softmax(-1) for logits in self._components(parameters)]


class GreedyPolicy(nn.Module):
    """A policy's most probable actions.

    Args:
        policy: whose distributions are asked.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        """``[…, observation_size]`` to actions in the environment's units, ``[…, action_size]``."""
        return self.policy.to_environment(self.policy.mode(self.policy(observation)))

    def at_rest(self) -> Callable[[Tensor], Tensor]:
        """`forward`, to be used for as long as nothing of the policy changes."""
        mode, to_environment = self.policy.mode_at_rest(), self.policy.to_environment_at_rest()
        return lambda observation: to_environment(mode(observation))


def require_symmetric_bounds(reflect: Reflection, action_space: Box) -> None:
    """Refuses bounds that look different in a mirror.

    Raises:
        ValueError: those of a pair differ, or a place that is negated has one bound alone, and so no middle.
    """
    low, high = (torch.from_numpy(bound.reshape(-1)) for bound in (action_space.low, action_space.high))
    half_open = (low.isfinite() != high.isfinite()) & (reflect.sign < 0)
    if not (low[reflect.index].equal(low) and high[reflect.index].equal(high)) or half_open.any():
        raise ValueError(
            f"mirror: the action space {action_space} has bounds that look different in it: the same ones were "
            "expected for both places of a pair, and two or none for a place that is negated."
        )


def _scale_and_bias(low: Bound, high: Bound) -> tuple[Bound, Bound]:
    """Half the range and its middle; one and the number nearest to zero where a bound is infinite."""
    scale, bias = np.ones_like(low), np.clip(0.0, low, high)
    bounded = np.isfinite(low) & np.isfinite(high)
    scale[bounded] = (high[bounded] - low[bounded]) / 2
    bias[bounded] = (high[bounded] + low[bounded]) / 2
    return scale, bias
