from lightning_rl.experience.collector import Collector, Episode
from lightning_rl.experience.noise import ExplorationNoise
from lightning_rl.experience.replay import (
    Noise,
    ReplayBuffer,
    ReplayExperience,
    Transition,
    Updates,
)
from lightning_rl.experience.rollout import Rollout, RolloutExperience, RolloutMemory
from lightning_rl.experience.stream import EpochStream

__all__ = [
    "Collector",
    "Episode",
    "EpochStream",
    "ExplorationNoise",
    "Noise",
    "ReplayBuffer",
    "ReplayExperience",
    "Rollout",
    "RolloutExperience",
    "RolloutMemory",
    "Transition",
    "Updates",
]
