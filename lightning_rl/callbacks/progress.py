import time

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class RLProgressBar(RichProgressBar):
    """Lightning's Rich progress bar with the recent return, environment steps and steps a second.

    Args:
        refresh_rate: items between two refreshes; each costs time.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._began: tuple[float, int] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure speed anew with each epoch, so that evaluations do not count."""
        super().on_train_epoch_start(trainer, pl_module)
        self._began = None

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands to the right of the bar."""
        shown = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        for title, metric in {"return": "train/return", "evaluation": "val/return"}.items():
            if metric in trainer.callback_metrics:
                shown[title] = f"{float(trainer.callback_metrics[metric]):.1f}"
        steps = getattr(pl_module, "environment_steps", None)
        if trainer.training and steps is not None:
            now = time.monotonic()
            if self._began is None:
                self._began = (now, steps)
            began, first = self._began
            shown["steps"] = f"{steps:,}"
            if now > began + 0.1:
                shown["steps/s"] = f"{(steps - first) / (now - began):,.0f}"
        return shown
