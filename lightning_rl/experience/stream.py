from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import IterableDataset

Item = TypeVar("Item")


class EpochStream(IterableDataset, Generic[Item]):  # type: ignore[type-arg]
    """One epoch of rounds of interaction, each made when it is asked for, by the policy of that moment.

    It has a length, because Lightning fetches one item ahead of a stream without: that item would come from an old
    policy. It has a (trivial) state, which tells Lightning that it can be entered mid-epoch: Lightning keeps count of
    the rounds, and the module's checkpoint carries the experience, which Lightning would give back to an unfinished
    epoch alone.

    Args:
        draw: makes the next item.
        rounds: items an epoch.
    """

    def __init__(self, draw: Callable[[], Item], rounds: int) -> None:
        self._draw = draw
        self._rounds = rounds

    def __len__(self) -> int:
        return self._rounds

    def __iter__(self) -> Iterator[Item]:
        for _ in range(self._rounds):
            yield self._draw()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see the class."""
