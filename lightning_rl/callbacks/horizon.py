from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class GrowingHorizon(Callback):
    """Lets TRPO's horizon 1 / (1 − γ) grow linearly with its updates, from the module's own γ to another one.

    A short horizon learns a gait early; a long one weighs a fall by more of what it costs. The discount is a function
    of ``trainer.global_step`` alone, so that a resumed run goes on exactly.

    Args:
        gamma: the discount that is reached, in [0, 1).
        updates: after so many.
        begin: updates before it begins to grow.

    Raises:
        ValueError: a discount or a number out of its range.
    """

    def __init__(self, gamma: float, updates: int, begin: int = 0) -> None:
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma={gamma}: a number in [0, 1) was expected.")
        if updates < 1:
            raise ValueError(f"updates={updates}: an integer of at least 1 was expected.")
        if not 0 <= begin < updates:
            raise ValueError(
                f"begin={begin}: an integer from 0 to updates={updates}, which it comes before, was expected."
            )
        self.gamma = gamma
        self.updates = updates
        self.begin = begin

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the discount with which training begins or goes on.

        Raises:
            TypeError: the module's discount cannot change while it trains.
        """
        if getattr(pl_module, "algorithm", None) != "TRPO":
            raise TypeError(f"GrowingHorizon is for TRPOModule, and the module is {type(pl_module).__name__}.")
        self._set(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sets the next rollout's discount."""
        self._set(trainer, pl_module)

    def _set(self, trainer: Trainer, module: Any) -> None:
        begun = 1 / (1 - module.hparams.gamma)
        grown = 1 / (1 - self.gamma)
        share = (trainer.global_step - self.begin) / (self.updates - self.begin)
        horizon = begun + (grown - begun) * min(1.0, max(0.0, share))
        module.gamma = 1 - 1 / horizon
