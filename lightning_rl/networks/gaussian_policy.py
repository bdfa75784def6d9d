import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_rl.networks.bounds import inner_bounds
from lightning_rl.networks.mirror import Mirror, Reflection, Reflections
from lightning_rl.networks.mlp import has_hooks
from lightning_rl.networks.policy import Policy

Bound = NDArray[np.float64]


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
