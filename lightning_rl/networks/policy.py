from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_rl.moments import Normalizer
from lightning_rl.networks.mirror import Reflections
from lightning_rl.networks.mlp import at_rest, orthogonal_mlp


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
