"""Where every random number of a run comes from: its seed, the rank, and what the number is for."""

from enum import IntEnum

import numpy as np
import torch

# An episode's seed tells what the episode is for, so that no episode is ever trained on, validated and tested on.
TRAINING_SEEDS = range(0, 2**30)
VALIDATION_SEEDS = range(2**30, 2**30 + 2**29)
TEST_SEEDS = range(2**30 + 2**29, 2**31)


class Purpose(IntEnum):
    """What a random stream is for; two purposes never share a stream."""

    EPISODES = 0
    EXPLORATION = 1
    REPLAY = 2
    UPDATE = 3


def _sequence(run_seed: int, rank: int, purpose: Purpose, *more: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((run_seed, rank, int(purpose), *more))


def generator(run_seed: int, rank: int, purpose: Purpose) -> torch.Generator:
    """A CPU generator of its own for one rank and one purpose."""
    seed = int(_sequence(run_seed, rank, purpose).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(seed)


class TrainingSeeds:
    """The seed of every training episode, a function of (run seed, rank, environment, episode number) alone."""

    def __init__(self, run_seed: int, rank: int) -> None:
        self.run_seed = run_seed
        self.rank = rank

    def __call__(self, environment: int, episode: int) -> int:
        """The seed of one environment's n-th episode."""
        sequence = _sequence(self.run_seed, self.rank, Purpose.EPISODES, environment, episode)
        return int(sequence.generate_state(1)[0]) % len(TRAINING_SEEDS)
