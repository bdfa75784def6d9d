from lightning_rl.algorithms.module import RLModule
from lightning_rl.algorithms.sac import SACModule

__all__ = ["RLModule", "SACModule"]
