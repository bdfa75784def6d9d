import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lightning_rl.callbacks.checkpoints import run_folder
from lightning_rl.callbacks.schedules import ByUpdates
from lightning_rl.curves import Curve, Point, draw, write_curve


class LearningCurve(Callback):
    """Draws the learning curve after every epoch: `curve.png` and `curve.csv` in the run's folder, and TensorBoard.

    The curve so far is part of every checkpoint, so that a resumed run draws all of it, whatever folder it writes to.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._minutes = 0.0
        self._since: float | None = None
        self._returns: list[float] = []  # of the training episodes of this epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to take the time; another run begins another curve."""
        module: Any = pl_module
        if self.points and self.points[-1].step > module.environment_steps:
            self.points, self._minutes, self._returns = [], 0.0, []
        self._since = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._minutes, self._since = self._passed(), None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stops the clock."""
        self._minutes, self._since = self._passed(), None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the training episodes that were reported."""
        self._returns += [episode.episode_return for episode in getattr(pl_module, "ended_episodes", ())]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds an epoch that was evaluated."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._add(trainer, pl_module, trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds an epoch that was not."""
        module: Any = pl_module
        if not self.points or self.points[-1].step < module.environment_steps:
            self._add(trainer, module, {})

    def state_dict(self) -> dict[str, Any]:
        """The curve so far."""
        points = [tuple(point) for point in self.points]
        return {"points": points, "minutes": self._passed(), "returns": list(self._returns)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with a curve."""
        self.points = [Point(*point) for point in state_dict["points"]]
        self._minutes, self._returns = state_dict["minutes"], list(state_dict["returns"])

    def _passed(self) -> float:
        return self._minutes + (0.0 if self._since is None else (time.monotonic() - self._since) / 60)

    def _add(self, trainer: Trainer, module: Any, evaluation: Mapping[str, Any]) -> None:
        evaluated = (float(evaluation.get(f"val/{name}", math.nan)) for name in ("return", "return_std", "length"))
        trained = sum(self._returns) / len(self._returns) if self._returns else math.nan
        self.points.append(Point(module.environment_steps, self._passed(), trained, *evaluated))
        self._returns = []
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # it leaves nothing behind
            return
        folder = run_folder(trainer)
        if folder is not None and trainer.is_global_zero:
            try:
                self._write(trainer, Curve(self.points, _settings(trainer, module)), folder)
            except OSError as error:  # a picture is no reason to end a run
                rank_zero_warn(f"The learning curve could not be written to {folder} ({error}).")

    def _write(self, trainer: Trainer, curve: Curve, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_curve(folder, curve)
        if not len(curve.measured("val_return", "steps")[0]):
            return  # nothing to draw yet
        canvas: Any = FigureCanvasAgg(draw([curve]))
        canvas.print_png(folder / "curve.png")
        picture = np.asarray(canvas.buffer_rgba())[..., :3]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("curve", picture, curve.points[-1].step, dataformats="HWC")


def _settings(trainer: Any, module: Any) -> dict[str, Any]:
    """The hyperparameters, and what else makes a run another one than a seed of the same."""
    schedules = {type(each).__name__: _public(each) for each in trainer.callbacks if isinstance(each, ByUpdates)}
    return {**module.hparams, "callbacks": schedules, "precision": trainer.precision}


def _public(callback: Callback) -> dict[str, Any]:
    return {name: value for name, value in vars(callback).items() if not name.startswith("_")}
