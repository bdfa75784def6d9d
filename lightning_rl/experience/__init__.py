from lightning_rl.experience.collector import Collector, Episode
from lightning_rl.experience.noise import ExplorationNoise
from lightning_rl.experience.replay import ReplayBuffer, Transition
from lightning_rl.experience.replay_experience import Noise, ReplayExperience, Updates
from lightning_rl.experience.rollout import Rollout, RolloutMemory
from lightning_rl.experience.rollout_experience import RolloutExperience
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
