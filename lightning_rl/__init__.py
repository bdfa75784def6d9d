"""Reinforcement learning the Lightning way."""

import warnings

from lightning_rl.algorithms import RLModule, SACModule, TRPOModule
from lightning_rl.environments import EnvironmentSpec, FaultyEnvironmentError, check_environment
from lightning_rl.evaluation import Trajectory
from lightning_rl.networks.mirror import Mirror

# Lightning asks PyTorch in a way that recent versions of it warn of, in every run.
warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning, module="lightning")
# torch.func.linearize warns of a graph that it makes itself.
warnings.filterwarnings("ignore", message="Attempted to insert a get_attr Node", category=UserWarning, module="torch")

__version__ = "0.1.0"

__all__ = [
    "EnvironmentSpec",
    "FaultyEnvironmentError",
    "Mirror",
    "RLModule",
    "SACModule",
    "TRPOModule",
    "Trajectory",
    "__version__",
    "check_environment",
]
