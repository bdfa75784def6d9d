"""Reinforcement learning the Lightning way."""

from lightning_rl.algorithms import RLModule, SACModule, TRPOModule
from lightning_rl.environments import EnvironmentSpec, FaultyEnvironmentError
from lightning_rl.evaluation import Trajectory

__version__ = "0.1.0"

__all__ = [
    "EnvironmentSpec",
    "FaultyEnvironmentError",
    "RLModule",
    "SACModule",
    "TRPOModule",
    "Trajectory",
    "__version__",
]
