"""Reinforcement learning the Lightning way."""

from lightning_rl.algorithms import RLModule, SACModule
from lightning_rl.environments import EnvironmentSpec, FaultyEnvironmentError
from lightning_rl.evaluation import Trajectory

__version__ = "0.1.0"

__all__ = ["EnvironmentSpec", "FaultyEnvironmentError", "RLModule", "SACModule", "Trajectory", "__version__"]
