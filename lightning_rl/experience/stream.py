from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import IterableDataset

Item = TypeVar("Item")


class EpochStream(IterableDataset, Generic[Item]):  # type: ignore[type-arg]
    """One epoch of items, each made when it is asked for: a round of interaction by the policy of that moment.

    It has a length, because Lightning fetches one item ahead of a stream without: that item would come from an old
    policy. It has a (trivial) state, which tells Lightning that it can be entered mid-epoch: Lightning keeps count of
    the items, and the module's checkpoint carries the experience, which Lightning would give back to an unfinished
    epoch alone.

    Args:
        draw: makes the next item.
        items: of an epoch.
    """

    def __init__(self, draw: Callable[[], Item], items: int) -> None:
        self._draw = draw
        self._items = items

    def __len__(self) -> int:
        return self._items

    def __iter__(self) -> Iterator[Item]:
        for _ in range(self._items):
            yield self._draw()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see the class."""
