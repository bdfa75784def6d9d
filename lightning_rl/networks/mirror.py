"""Bodies that look the same in a mirror."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Mirror:
    """A mirror in which the environment looks the same: which numbers change places there, and which their signs.

    A body with two legs that are alike walks as well with the legs exchanged. With E what the mirror makes of an
    observation s and A what it makes of an action a, it looks the same if E s follows on E s₀ and A a wherever s
    follows on s₀ and a, for the same reward (van der Pol et al. 2020, 2006.16908).

    Args:
        observation_pairs: places in the flat observation that are exchanged.
        action_pairs: places in the flat action that are exchanged.
        observation_negated: places whose sign changes, as that of a speed to the side; of a pair both or none.
        action_negated: the same for actions, counted from the middle of their bounds.
    """

    observation_pairs: list[tuple[int, int]]
    action_pairs: list[tuple[int, int]]
    observation_negated: list[int] = field(default_factory=list)
    action_negated: list[int] = field(default_factory=list)


class Reflection(nn.Module):
    """What a mirror makes of vectors: places exchanged in pairs, then signs changed. Done twice it changes nothing.

    Args:
        what: the vectors' name, for messages.
        size: numbers a vector.
        pairs: places that are exchanged.
        negated: places whose sign changes.

    Raises:
        ValueError: what is no pair, a place that is not there, or twice, or a pair of which one sign alone changes.
    """

    index: Tensor
    sign: Tensor

    def __init__(self, what: str, size: int, pairs: Sequence[Sequence[int]], negated: Sequence[int]) -> None:
        super().__init__()
        if not all(len(pair) == 2 for pair in pairs):
            raise ValueError(f"mirror: {what}_pairs={pairs}: pairs of two places were expected.")
        index, sign = torch.arange(size), torch.ones(size)
        exchanged = [place for pair in pairs for place in pair]
        for name, places in {f"{what}_pairs": exchanged, f"{what}_negated": list(negated)}.items():
            if not all(type(place) is int and 0 <= place < size for place in places) or len(set(places)) < len(places):
                raise ValueError(
                    f"mirror: {name} names the places {places}: each at most once, an integer from 0 to {size - 1}, "
                    "was expected."
                )
        sign[list(negated)] = -1
        for one, other in pairs:
            if sign[one] != sign[other]:
                raise ValueError(
                    f"mirror: of the pair {[one, other]} of {what}_pairs one place alone is in {what}_negated: both or "
                    "none were expected, since what is mirrored twice is what it was."
                )
            index[one], index[other] = other, one
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("sign", sign, persistent=False)
        self._negates = bool(negated)

    def forward(self, x: Tensor) -> Tensor:
        """``[…, size]`` to ``[…, size]``."""
        exchanged = x.index_select(-1, self.index)
        return exchanged * self.sign if self._negates else exchanged


class Reflections(nn.Module):
    """A mirror's two reflections, E and A, and what a policy that looks the same in it is made of.

    Args:
        mirror: names the places.
        observation_size: numbers an observation.
        action_size: numbers an action.

    Raises:
        ValueError: the mirror does not fit.
    """

    def __init__(self, mirror: Mirror, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.of_observation = Reflection(
            "observation", observation_size, mirror.observation_pairs, mirror.observation_negated
        )
        self.of_action = Reflection("action", action_size, mirror.action_pairs, mirror.action_negated)

    def symmetric(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """F to s ↦ ½ (f(s) + A f(E s)), with f from ``[…, observation_size]`` to ``[…, action_size]``.

        F(E s) is A F(s), as of every function that is averaged over a group (Yarotsky 2018, 1804.10306).
        """

        def symmetric(observation: Tensor) -> Tensor:
            here, there = function(torch.stack([observation, self.of_observation(observation)]))
            mean: Tensor = 0.5 * (here + self.of_action(there))
            return mean

        return symmetric

    def shared(self, log_std: Tensor) -> Tensor:
        """The means over the pairs of exchanged actions, ``[action_size]``."""
        return 0.5 * (log_std + log_std[self.of_action.index])
