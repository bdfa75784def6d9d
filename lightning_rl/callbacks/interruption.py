import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info


class Interrupted(SystemExit):
    """The run was asked to leave by a signal, and leaves with 128 plus its number, as shells expect."""


class Interruption(Callback):
    """Lets SIGINT (Ctrl-C) and SIGTERM end a run between two items, so that resuming from its checkpoint is exact.

    The first signal lets the current item finish; at an epoch's last item, the evaluation too. A second one has its
    usual effect at once.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over; Python allows that in the main thread alone."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leaves after this item, unless the epoch is about to end."""
        if not trainer.is_last_batch:
            self._leave()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves after the epoch."""
        self._leave()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._give_back()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        rank_zero_info(f"\n{signal.Signals(number).name}: finishing the current item, then saving. Once more: at once.")
        self._give_back()

    def _leave(self) -> None:
        if self._received is not None:
            raise Interrupted(128 + self._received)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
