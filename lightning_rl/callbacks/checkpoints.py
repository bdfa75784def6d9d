import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn


class ModelCheckpoint(lightning_callbacks.ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose ``every_n_train_steps`` fires when the number is crossed.

    One item carries several updates. Lightning's own fires only where an item happens to end on a multiple.
    """

    _crossed = 0
    _stage: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the folder; that it has checkpoints is no news in a run that goes on."""
        self._stage = stage
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over which checkpoint was best; that a test writes elsewhere than training did is no news."""
        with warnings.catch_warnings():
            if self._stage != "fit":
                warnings.filterwarnings("ignore", message="The dirpath has changed")
            super().load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to count where training begins or goes on."""
        super().on_train_start(trainer, pl_module)
        self._crossed = trainer.global_step // self._every_n_train_steps if self._every_n_train_steps else 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if this item crossed a multiple; an epoch's last item leaves it to the epoch's end."""
        if not trainer.is_last_batch and not evaluation_follows(trainer):
            self._save_if_crossed(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves as Lightning does, and what the item before an evaluation in the middle of an epoch crossed."""
        super().on_validation_end(trainer, pl_module)
        if is_mid_epoch(trainer):
            self._save_if_crossed(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves as Lightning does, and what the epoch's last item crossed."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_if_crossed(trainer)

    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        """Saves after the evaluation where an epoch is cut short: Lightning takes it for finished at its end."""
        return trainer.is_last_batch and super()._should_save_on_train_epoch_end(trainer)

    def _save_if_crossed(self, trainer: Trainer) -> None:
        every = self._every_n_train_steps
        if not every or trainer.global_step // every == self._crossed:
            return
        self._crossed = trainer.global_step // every
        if not self._should_skip_saving_checkpoint(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`: the checkpoint with the highest mean return in validation.

    Args:
        monitor: the metric, the higher the better.
        filename: without its extension.
    """

    def __init__(self, monitor: str = "val/return", filename: str = "best") -> None:
        super().__init__(monitor=monitor, mode="max", filename=filename, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if there was an evaluation; ``max_steps`` may end a run before its first."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`: written after every epoch, of pure warm-up too, and where a run is stopped in the middle."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if ``max_steps`` or a Timer stops the run here: Lightning then takes the epoch for a finished one."""
        if not trainer.is_last_batch and not evaluation_follows(trainer) and stops_here(trainer):
            save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if the run stops after an evaluation in the middle of an epoch."""
        if is_mid_epoch(trainer) and stops_here(trainer):
            save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after the epoch's evaluation."""
        if trainer.is_last_batch:
            save_last(trainer)


def evaluation_follows(trainer: Trainer) -> bool:
    """Whether an evaluation comes right after this item: a checkpoint before it would lose it, resumed."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)


def is_mid_epoch(trainer: Trainer) -> bool:
    """Whether this evaluation is training's, and more items of its epoch follow."""
    fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    return fitting and not trainer.is_last_batch


def stops_here(trainer: Trainer) -> bool:
    """Whether the run ends with this item; ``min_epochs`` and ``min_steps`` overrule who wants to stop it."""
    reached = 0 <= trainer.max_steps <= trainer.global_step
    return reached or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def save_last(trainer: Trainer) -> None:
    """Writes `last.ckpt`; a ``fast_dev_run`` leaves nothing behind."""
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.save_checkpoint(checkpoint_folder(trainer) / "last.ckpt", weights_only=False)


def checkpoint_folder(trainer: Trainer) -> Path:
    """Where this run's checkpoints are: beside the best one, or else in the folder of its logs."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, lightning_callbacks.ModelCheckpoint) and callback.dirpath is not None:
            return Path(callback.dirpath)
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"


def run_folder(trainer: Trainer) -> Path | None:
    """Where this run's files are: its TensorBoard or CSV logger's folder, or else beside its checkpoints; if anywhere.

    Every rank has to call it.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger | CSVLogger):
            return Path(trainer.strategy.broadcast(logger.log_dir))
    return checkpoint_folder(trainer).parent if trainer.loggers else None
