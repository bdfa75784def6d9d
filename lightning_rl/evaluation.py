from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_rl.environments import Actions, Array, CheckedEnvironment


class Trajectory(NamedTuple):
    """One whole episode of T actions; ``trajectory._asdict()`` gives tensors and plain values to save."""

    seed: int
    observations: Tensor
    """``[T + 1, observation_size]``, the last one included."""
    actions: Tensor
    """``[T, *action_shape]``, in the environment's units."""
    rewards: Tensor
    """``[T]``, float64 as the environment gave them; summed up over the steps that an action was held for."""
    terminated: bool
    truncated: bool


class SeedBatches:
    """The seeds of a rank's evaluation episodes, so many at a time; each episode runs on exactly one rank.

    Args:
        seeds: where the episodes' seeds are taken from, the first ones first.
        episodes: how many, over all ranks.
        rank: of this process.
        world_size: number of ranks.
        batch_size: episodes that run side by side.
    """

    def __init__(self, seeds: Sequence[int], episodes: int, rank: int, world_size: int, batch_size: int) -> None:
        self._seeds = [seeds[index] for index in range(rank, episodes, world_size)]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._seeds) // self._batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._seeds), self._batch_size):
            yield torch.tensor(self._seeds[start : start + self._batch_size])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module as an evaluation has it, afterwards as it was, every part of it."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def play(
    environments: Sequence[CheckedEnvironment], seeds: Sequence[int], policy: Callable[[Array], Actions]
) -> list[Trajectory]:
    """Plays one episode a seed, side by side.

    Args:
        environments: at least as many as seeds.
        seeds: of the episodes.
        policy: observations ``[n, observation_size]`` to actions ``[n, *action_shape]``. For an episode that does not
            depend on how many run beside it, row i of the result must depend on row i alone, to the bit.

    Returns:
        The episodes, in the order of their seeds.
    """
    running = dict(enumerate(environments[: len(seeds)]))
    observations = [[running[i].reset(seed=seed)[0]] for i, seed in enumerate(seeds)]
    actions: list[list[Any]] = [[] for _ in seeds]
    rewards: list[list[float]] = [[] for _ in seeds]
    ends = [(False, False)] * len(seeds)
    while running:
        chosen = policy(np.stack([observations[i][-1] for i in running]))
        for action, (i, environment) in zip(chosen, list(running.items()), strict=True):
            observation, reward, terminated, truncated, _ = environment.step(action)
            observations[i].append(observation)
            actions[i].append(action)
            rewards[i].append(reward)
            ends[i] = (terminated, truncated)
            if terminated or truncated:
                del running[i]
    return [
        Trajectory(
            seed=seed,
            observations=torch.from_numpy(np.stack(observations[i])),
            actions=torch.from_numpy(np.stack(actions[i])),
            rewards=torch.tensor(rewards[i], dtype=torch.float64),
            terminated=ends[i][0],
            truncated=ends[i][1],
        )
        for i, seed in enumerate(seeds)
    ]


class EpisodeStatistics(Metric):
    """Mean, standard deviation (of the population), minimum and maximum of returns, and the mean length.

    The episodes are gathered and sorted before they are summed up, so that their order, and with it the number of
    ranks and of parallel environments, leaves no trace.
    """

    full_state_update = False
    returns: list[Tensor]
    lengths: list[Tensor]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("returns", default=[], dist_reduce_fx="cat")
        self.add_state("lengths", default=[], dist_reduce_fx="cat")

    def update(self, returns: Sequence[float], lengths: Sequence[int]) -> None:
        """Adds episodes."""
        self.returns.append(torch.tensor(returns, dtype=torch.float32, device=self.device))
        self.lengths.append(torch.tensor(lengths, dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """`return`, `return_std`, `return_min`, `return_max` and `length`."""
        returns = dim_zero_cat(self.returns).cpu().double().sort().values
        return {
            "return": returns.mean(),
            "return_std": returns.std(correction=0),
            "return_min": returns.min(),
            "return_max": returns.max(),
            "length": dim_zero_cat(self.lengths).cpu().double().mean(),
        }
