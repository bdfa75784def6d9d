import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_rl.callbacks.checkpoints import checkpoint_folder, evaluation_follows, is_mid_epoch, save_last
from lightning_rl.environments import EnvironmentLostError


class Interrupted(SystemExit):
    """The run was asked to leave by a signal, and leaves with 128 plus its number, as shells expect."""


class Interruption(Checkpoint):
    """Lets SIGINT (Ctrl-C) and SIGTERM end a run between two items, so that resuming from `last.ckpt` is exact.

    The first signal lets the current item finish, and the evaluation that follows it, if one does. A second one has its
    usual effect at once. A signal to one rank ends all of them, and so does the end of one's ``torchrun`` agent, which
    would leave its ranks behind when it is killed. It is a Checkpoint so that it comes after the others: what they have
    to save or to count is done when the run leaves.

    Args:
        saves: whether `last.ckpt` is written.
    """

    def __init__(self, saves: bool = True) -> None:
        self.saves = saves
        self._received: int | None = None
        self._before: dict[int, Any] = {}
        self._agent: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over; Python allows that in the main thread alone."""
        self._received = None
        self._agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leaves after this item, unless an evaluation or the epoch's end belongs to it."""
        if self._may_leave(trainer) and not trainer.is_last_batch and not evaluation_follows(trainer):
            self._leave(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves after an evaluation in the middle of an epoch."""
        if is_mid_epoch(trainer):
            self._leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves after the epoch."""
        self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back, saves if an environment is at fault, and ends the environments' processes."""
        self._give_back()
        if isinstance(exception, EnvironmentLostError) and exception.everywhere and self.saves:
            forget_broken_off(trainer)
            save_last(trainer)
            rank_zero_info(f"What was learned until then is in {checkpoint_folder(trainer) / 'last.ckpt'}.")
        pl_module.teardown("fit")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        then = "saving last.ckpt and leaving" if self.saves else "leaving; no checkpoint is kept"
        rank_zero_info(f"\n{signal.Signals(number).name}: finishing the current item, then {then}. Once more: at once.")
        self._give_back()

    def _may_leave(self, trainer: Trainer) -> bool:
        """Whether there is anything to ask: this is known at once where there is one rank, and no agent to lose."""
        return self._received is not None or self._agent is not None or trainer.world_size > 1

    def _leave(self, trainer: Trainer) -> None:
        if self._agent is not None and os.getppid() != self._agent:
            raise RuntimeError("the torchrun agent that started this process is gone, and with it the run.")
        received = self._received_anywhere(trainer)
        if received:
            if self.saves:
                save_last(trainer)
            raise Interrupted(128 + received)

    def _received_anywhere(self, trainer: Trainer) -> int:
        received = self._received or 0
        if trainer.world_size == 1:
            return received
        # Every rank has to save, or none: a checkpoint is a collective.
        ours = torch.tensor(received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(ours, reduce_op="max"))

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def forget_broken_off(trainer: Trainer) -> None:
    """Counts an item that was broken off as one that has not begun: a resumed run begins with what is left of it."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    progress.total.reset_on_restart()
    progress.current.reset_on_restart()
    progress.is_last_batch = False
