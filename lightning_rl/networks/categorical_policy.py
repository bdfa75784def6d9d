from collections.abc import Callable, Sequence

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor, nn

from lightning_rl.networks.mlp import has_hooks
from lightning_rl.networks.policy import Policy


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
