from lightning_rl.experience.collector import Collector, Episode
from lightning_rl.experience.replay import (
    ExplorationNoise,
    Noise,
    ReplayBuffer,
    ReplayExperience,
    Transition,
    Updates,
)
from lightning_rl.experience.stream import EpochStream

__all__ = [
    "Collector",
    "Episode",
    "EpochStream",
    "ExplorationNoise",
    "Noise",
    "ReplayBuffer",
    "ReplayExperience",
    "Transition",
    "Updates",
]
