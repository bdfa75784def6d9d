from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_rl.environments import Array, Mask


class Transition(NamedTuple):
    """Steps of a Markov decision process; any leading dimensions, the same for all."""

    observation: Tensor
    """``[…, observation_size]``."""
    action: Tensor
    """``[…, action_size]``, normalised to (−1, 1)."""
    reward: Tensor
    """``[…]``."""
    next_observation: Tensor
    """``[…, observation_size]``: at an episode's end its true last observation."""
    terminated: Tensor
    """``[…]``, bool: true where no value lies beyond; a time limit is no termination."""


class ReplayBuffer:
    """The most recent transitions of several environments, each observation stored once.

    A ring of rows, one column an environment. A transition's next observation is the next row's observation; where an
    episode ended it lies in a store of last observations instead, which no transition starts from. What says where an
    observation lies stays in the host's memory, where batches are drawn: no value is read back from a device.

    Args:
        capacity: transitions, over all environments.
        num_envs: columns; divides the capacity.
        observation_size: numbers an observation.
        action_size: numbers an action.
        device: where the transitions lie, and the batches drawn from them.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        rows = capacity // num_envs + 1  # the row being written holds the present observation, and no transition yet
        self.num_envs = num_envs
        self.observation = torch.zeros(rows, num_envs, observation_size, device=device)
        self.action = torch.zeros(rows, num_envs, action_size, device=device)
        self.reward = torch.zeros(rows, num_envs, device=device)
        self.terminated = torch.zeros(rows, num_envs, dtype=torch.bool, device=device)
        # The number of the last observation that ended this transition's episode, counted over the run; −1 if none did.
        self.ending = torch.full((rows, num_envs), -1, dtype=torch.int32)
        self.last_observation = torch.zeros(num_envs, observation_size, device=device)
        self._endings_begin = 0  # numbers below were forgotten with their transitions
        self._endings_end = 0
        self._head = 0
        self._filled = 0

    @property
    def rows(self) -> int:
        """Rows of the ring."""
        return self.reward.shape[0]

    @property
    def size(self) -> int:
        """Transitions held."""
        return self._filled * self.num_envs

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._rings().values()) + self.last_observation.nbytes

    def add(
        self, observation: Array, action: Tensor, reward: Array, next_observation: Array, terminated: Mask, ended: Mask
    ) -> None:
        """Appends one transition of every environment, forgetting the oldest ones if the buffer is full.

        Args:
            observation: ``[num_envs, observation_size]``.
            action: ``[num_envs, action_size]``, normalised; on the CPU.
            reward: ``[num_envs]``.
            next_observation: ``[num_envs, observation_size]``, an ended episode's true last one.
            terminated: ``[num_envs]``.
            ended: ``[num_envs]``: terminated or truncated, so that the next transition starts elsewhere.
        """
        row, following = self._head, (self._head + 1) % self.rows
        if self._filled == self.rows - 1:  # the following row holds the oldest transitions
            self._endings_begin += int((self.ending[following] >= 0).sum())
            self._filled -= 1
        _write(self.observation, row, observation)
        _write(self.action, row, action.numpy())
        _write(self.reward, row, reward)
        _write(self.terminated, row, terminated)
        self.ending.numpy()[row] = -1
        _write(self.observation, following, next_observation)
        self._head = following
        self._filled += 1
        self.cut(ended)

    def cut(self, ended: Mask) -> None:
        """Ends the episodes at their newest transition, whose next observation is put aside.

        Args:
            ended: ``[num_envs]``.
        """
        if self._filled == 0 or not np.count_nonzero(ended):  # as in `Collector.step`
            return
        where = torch.from_numpy(np.flatnonzero(ended))
        numbers = torch.arange(self._endings_end, self._endings_end + len(where))
        self._make_room(len(where))
        self.last_observation[numbers % len(self.last_observation)] = self.observation[self._head, where]
        self.ending[self._head - 1, where] = numbers.to(torch.int32)
        self._endings_end += len(where)

    def clear(self) -> None:
        """Forgets all transitions."""
        self._head = self._filled = self._endings_begin = self._endings_end = 0

    def sample(self, updates: int, batch_size: int, random: torch.Generator) -> Transition:
        """Draws transitions uniformly and independently.

        Returns:
            ``[updates, batch_size, …]``.
        """
        # In NumPy, where a few hundred indices take a third of the time that PyTorch's calls do.
        drawn = torch.randint(self.size, (updates * batch_size,), generator=random).numpy()
        row = (self._head - self._filled + drawn // self.num_envs) % self.rows
        column = drawn % self.num_envs
        start = row * self.num_envs + column
        following = (row + 1) % self.rows * self.num_envs + column
        ending = self.ending.numpy().reshape(-1)[start]
        (ended,) = np.nonzero(ending >= 0)
        last = ending[ended].astype(np.int64) % len(self.last_observation)
        here, there, at_end, its_last = (
            torch.from_numpy(index).to(self.reward.device) for index in (start, following, ended, last)
        )
        next_observation = _gather(self.observation, there)
        next_observation.index_copy_(0, at_end, self.last_observation.index_select(0, its_last))
        shape = (updates, batch_size)
        return Transition(
            observation=_gather(self.observation, here).unflatten(0, shape),
            action=_gather(self.action, here).unflatten(0, shape),
            reward=_gather(self.reward, here).unflatten(0, shape),
            next_observation=next_observation.unflatten(0, shape),
            terminated=_gather(self.terminated, here).unflatten(0, shape),
        )

    def state_dict(self) -> dict[str, Any]:
        """The rows in use and the positions, as tensors and plain values."""
        used = self._rows_used()
        return {
            **{name: array[:used].to("cpu", copy=True) for name, array in self._rings().items()},
            "last_observation": self.last_observation.to("cpu", copy=True),
            "endings": [self._endings_begin, self._endings_end],
            "head": self._head,
            "filled": self._filled,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a buffer of the same size.

        Raises:
            ValueError: the checkpoint's buffer has another size.
        """
        if state["rows"] != self.rows:
            theirs, ours = ((rows - 1) * self.num_envs for rows in (state["rows"], self.rows))
            raise ValueError(
                f"the checkpoint's replay buffer has buffer_size={theirs} and this module {ours}: resume with "
                f"buffer_size={theirs}."
            )
        for name, array in self._rings().items():
            if state[name].shape[1:] != array.shape[1:]:
                raise ValueError(
                    f"the checkpoint's replay buffer has {name}s of shape {tuple(state[name].shape[1:])} a row, and "
                    f"this module {tuple(array.shape[1:])}: give the module the checkpoint's settings."
                )
        self._head, self._filled = state["head"], state["filled"]
        self._endings_begin, self._endings_end = state["endings"]
        self.last_observation = state["last_observation"].to(self.reward.device, copy=True)
        for name, array in self._rings().items():
            array[: len(state[name])] = state[name]

    def _rings(self) -> dict[str, Tensor]:
        names = ("observation", "action", "reward", "terminated", "ending")
        return {name: getattr(self, name) for name in names}

    def _rows_used(self) -> int:
        return self.rows if self._filled == self.rows - 1 else self._head + 1

    def _make_room(self, count: int) -> None:
        """Doubles the store of last observations until `count` more fit."""
        held = torch.arange(self._endings_begin, self._endings_end)
        old = self.last_observation
        room = len(old)
        while room < len(held) + count:
            room *= 2
        if room > len(old):
            self.last_observation = old.new_zeros(room, old.shape[1])
            self.last_observation[held % room] = old[held % len(old)]


def _write(ring: Tensor, row: int, values: Array | Mask) -> None:
    """Sets a row, ``[num_envs, …]``, of ``[rows, num_envs, …]``; on the CPU by way of NumPy, in a third of the time."""
    if ring.device.type == "cpu":
        ring.numpy()[row] = values
    else:
        ring[row] = torch.from_numpy(values)


def _gather(ring: Tensor, index: Tensor) -> Tensor:
    """Of ``[rows, num_envs, …]`` the ``[n, …]`` at ``row · num_envs + column``, which takes less time than indexing."""
    return ring.flatten(0, 1).index_select(0, index)
