import math
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn
from rich.progress import ProgressColumn, TextColumn

from lightning_rl.callbacks.curve import LearningCurve

BAR_WIDTH = 8


class RLProgressBar(RichProgressBar):
    """Lightning's Rich progress bar with returns, environment steps, steps a second and the time left of the run.

    Args:
        refresh_rate: refreshes a second; 0 shows no bar.
    """

    def __init__(self, refresh_rate: int = 4) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._refreshed = -math.inf
        self._began: tuple[float, int] | None = None
        self._run_began: tuple[float, int] | None = None
        self._best: float | None = None

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """The epoch and its bar, short, because a line of a terminal is; the rest is told by `get_metrics`."""
        bar = CustomBarColumn(
            bar_width=BAR_WIDTH, complete_style=self.theme.progress_bar, finished_style=self.theme.progress_bar_finished
        )
        return [TextColumn("[progress.description]{task.description}"), bar]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to take the run's time."""
        super().on_train_start(trainer, pl_module)
        self._run_began = None
        module: Any = pl_module
        before = (each.points for each in trainer.callbacks if isinstance(each, LearningCurve))  # type: ignore[attr-defined]
        lived = [point for points in before for point in points if point.step <= module.environment_steps]
        self._best = max((point.val_return for point in lived if not math.isnan(point.val_return)), default=None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure speed anew with each epoch, so that evaluations do not count."""
        super().on_train_epoch_start(trainer, pl_module)
        self._began = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Brings the bar up to date, no more often than it is drawn: an item may take but a few milliseconds."""
        if self.is_disabled:
            return
        now = time.monotonic()
        if trainer.is_last_batch or now >= self._refreshed + 1 / self.refresh_rate:
            self._refreshed = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands to the right of the bar."""
        shown = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        metrics = trainer.callback_metrics
        if "train/return" in metrics:
            shown["return"] = f"{float(metrics['train/return']):.4g}"
        if "val/return" in metrics:
            evaluation = float(metrics["val/return"])
            self._best = evaluation if self._best is None else max(self._best, evaluation)
            shown["eval"] = f"{evaluation:.4g}"
        if self._best is not None:
            shown["best"] = f"{self._best:.4g}"
        steps = getattr(pl_module, "environment_steps", None)
        if trainer.training and steps is not None:
            shown["steps"] = f"{steps:,}"
            shown.update(self._speed(trainer, steps))
        return shown

    def _speed(self, trainer: Trainer, steps: int) -> dict[str, str]:
        now = time.monotonic()
        if self._began is None:
            self._began = (now, steps)
        if self._run_began is None:
            self._run_began = (now, steps)
        (began, first), (run_began, run_first) = self._began, self._run_began
        told = {}
        if now > began + 0.1:
            told["steps/s"] = f"{(steps - first) / (now - began):,.0f}"
        if trainer.max_epochs and trainer.max_epochs > 0 and steps > run_first:
            module: Any = trainer.lightning_module
            items = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            epochs = trainer.max_epochs - trainer.current_epoch - items / trainer.num_training_batches
            actions = module.experience.steps_per_round * module.rounds_per_item * trainer.world_size
            an_item = actions * module.environment.action_repeat
            left = max(0.0, epochs * trainer.num_training_batches * an_item)
            # Evaluations count here, which time left has to.
            told["left"] = str(timedelta(seconds=round(left * (now - run_began) / (steps - run_first))))
        return told
