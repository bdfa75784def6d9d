from lightning_rl.algorithms.module import RLModule
from lightning_rl.algorithms.sac import SACModule
from lightning_rl.algorithms.trpo import TRPOModule

__all__ = ["RLModule", "SACModule", "TRPOModule"]
