"""What may change while a module trains: functions of its updates alone, so that a resumed run goes on exactly."""

import math
from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_rl.experience import RolloutExperience
from lightning_rl.networks.gaussian_policy import GaussianPolicy


class ByUpdates(Callback):
    """Sets something before every item.

    Args:
        updates: after so many its last value is reached.
        begin: updates before it begins to change.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, updates: int, begin: int) -> None:
        if updates < 1:
            raise ValueError(f"updates={updates}: an integer of at least 1 was expected.")
        if not 0 <= begin < updates:
            raise ValueError(
                f"begin={begin}: an integer from 0 to updates={updates}, which it comes before, was expected."
            )
        self.updates = updates
        self.begin = begin

    @abstractmethod
    def change(self, module: Any, share: float) -> None:
        """Sets it, a share in [0, 1] of the way from its first value to its last.

        Raises:
            TypeError: the module has no such thing.
        """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets that with which training begins or goes on."""
        self._change(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sets the next item's."""
        self._change(trainer, pl_module)

    def _change(self, trainer: Trainer, module: LightningModule) -> None:
        share = (trainer.global_step - self.begin) / (self.updates - self.begin)
        self.change(module, min(1.0, max(0.0, share)))


class GrowingHorizon(ByUpdates):
    """Lets the horizon 1 / (1 − γ) grow linearly with a module's updates, from the module's own γ to another one.

    A short horizon learns a gait early; a long one weighs a fall by more of what it costs.

    Args:
        gamma: the discount that is reached, in [0, 1).
        updates: after so many.
        begin: updates before it begins to grow; one less than `updates` lets it change at once.

    Raises:
        ValueError: a discount or a number out of its range; or SAC with ``compile``, which compiles anew for every
            discount, and a change that is not made at once.
    """

    def __init__(self, gamma: float, updates: int, begin: int = 0) -> None:
        super().__init__(updates, begin)
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma={gamma}: a number in [0, 1) was expected.")
        self.gamma = gamma

    def change(self, module: Any, share: float) -> None:
        """Sets the discount."""
        if getattr(module, "compiles", False) and self.begin < self.updates - 1:
            raise ValueError(
                f"GrowingHorizon(begin={self.begin}, updates={self.updates}): with compile=True each discount is "
                f"compiled anew. Let it change at once, with begin={self.updates - 1}, or leave compile at False."
            )
        if module.hparams.gamma == 1:
            raise ValueError("GrowingHorizon: the module's gamma=1 is a horizon without end, which cannot grow.")
        begun, grown = 1 / (1 - module.hparams.gamma), 1 / (1 - self.gamma)
        module.gamma = 1 - 1 / (begun + (grown - begun) * share)


class FallingNoise(ByUpdates):
    """Lets the standard deviation of TRPO's Gaussian policy fall geometrically from one number to another, by a plan.

    The policy then does not learn it. Learned, it falls as soon as that pays, often before a good behaviour was found;
    planned, it gives exploration its time.

    Args:
        first: the standard deviation before the first update, in units of half the range of a bounded action.
        last: the one that is reached, and kept.
        updates: after so many.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, first: float, last: float, updates: int) -> None:
        super().__init__(updates, begin=0)
        for name, value in {"first": first, "last": last}.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value}: a finite number above zero was expected.")
        self.first = first
        self.last = last

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the standard deviation out of what is learned, before the optimizers are made.

        Raises:
            TypeError: the module's policy has no standard deviation of its own.
        """
        if stage == "fit":
            self._log_std(pl_module).requires_grad_(False)

    def change(self, module: Any, share: float) -> None:
        """Sets the deviation."""
        self._log_std(module).data.fill_(self.first * (self.last / self.first) ** share).log_()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets it be learned again."""
        if stage == "fit":
            self._log_std(pl_module).requires_grad_(True)

    def _log_std(self, module: Any) -> Tensor:
        return gaussian_policy(module, "FallingNoise").log_std


class RisingCorrelation(ByUpdates):
    """Lets the correlation of TRPO's sampling noise rise linearly with its updates, from the module's own to another.

    Noise that resembles itself for long pushes a walker further off its way than white noise of the same deviation.
    A policy that keeps its feet under it seldom falls without.

    Args:
        correlation: the ρ that is reached, in [0, 1).
        updates: after so many.
        begin: updates before it begins to rise.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, correlation: float, updates: int, begin: int = 0) -> None:
        super().__init__(updates, begin)
        if not 0 <= correlation < 1:
            raise ValueError(f"correlation={correlation}: a number in [0, 1) was expected.")
        self.correlation = correlation

    def change(self, module: Any, share: float) -> None:
        """Sets the correlation."""
        gaussian_policy(module, "RisingCorrelation")
        begun: float = module.hparams.noise_correlation
        module.experience.noise.correlation = begun + (self.correlation - begun) * share


class GrowingPenalty(ByUpdates):
    """Lets TRPO's penalties grow linearly with its updates, from mild ones to the environment's own.

    Until then rewards below a floor count as the floor. A fall that costs more than all that was ever gained teaches a
    walker to stand; one that costs little lets it run first, and then not fall. Logged and evaluated returns are the
    environment's own.

    Args:
        first: the floor at first, below zero, for the rewards of a step, or with `action_repeat` of an action.
        last: the floor that is reached, below `first`: the environment's worst reward, since from then on there is no
            floor.
        updates: after so many.
        begin: updates before it begins to fall.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, first: float, last: float, updates: int, begin: int = 0) -> None:
        super().__init__(updates, begin)
        if not -math.inf < last < first < 0:
            raise ValueError(
                f"first={first}, last={last}: finite numbers below zero were expected, and last the lower."
            )
        self.first = first
        self.last = last

    def change(self, module: Any, share: float) -> None:
        """Sets the floor.

        Raises:
            TypeError: the module has no rollouts.
        """
        if not isinstance(module.experience, RolloutExperience):
            kind = type(module).__name__
            raise TypeError(f"GrowingPenalty is for the rollouts of TRPOModule, and this {kind} has none.")
        floor = self.first + (self.last - self.first) * share
        module.experience.reward_floor = floor if share < 1 else -math.inf

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the floor away: a later run without this callback has none."""
        experience = pl_module.experience
        if stage == "fit" and isinstance(experience, RolloutExperience):
            experience.reward_floor = -math.inf

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Takes the floor away after an interruption as well, where Lightning leaves `teardown` out."""
        self.teardown(trainer, pl_module, "fit")


def gaussian_policy(module: Any, callback: str) -> GaussianPolicy:
    """The module's Gaussian policy.

    Raises:
        TypeError: it has another, or none.
    """
    policy = getattr(module, "policy", None)
    if not isinstance(policy, GaussianPolicy):
        acts = "no policy" if policy is None else f"a {type(policy).__name__}"
        raise TypeError(
            f"{callback} is for a Gaussian policy of TRPOModule, and this {type(module).__name__} has {acts}."
        )
    return policy
