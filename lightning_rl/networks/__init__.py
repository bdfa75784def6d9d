from lightning_rl.networks.actors import GaussianNetwork, SquashedGaussianActor, squashed_log_prob
from lightning_rl.networks.critics import DoubleCritic, track

__all__ = ["DoubleCritic", "GaussianNetwork", "SquashedGaussianActor", "squashed_log_prob", "track"]
