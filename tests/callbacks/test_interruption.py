import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from lightning_rl import SACModule
from lightning_rl.callbacks import Interrupted, Interruption, LastCheckpoint, LearningCurve, RLProgressBar
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]
LAST = "lightning_logs/run/checkpoints/last.ckpt"


class Signal(Callback):
    """Sends this process a signal while an item trains, or while an epoch is evaluated."""

    def __init__(self, item: int | None, number: int) -> None:
        self.item, self.number = item, number

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == self.item:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.item is None:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("item", [4, 9, None])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_loses_nothing(
    small_sac: SAC, quiet_trainer: MakeTrainer, item: int | None, number: int
) -> None:
    def run(callbacks: list[Callback], checkpoint: str | None = None) -> tuple[torch.Tensor, str]:
        seed_everything(0)
        module = small_sac()
        trainer = quiet_trainer(max_epochs=2, callbacks=callbacks, logger=CSVLogger(".", version="run"))
        trainer.fit(module, ckpt_path=checkpoint)
        weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
        return weights, Path("lightning_logs/run/metrics.csv").read_text()

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    unbroken, curve = run([])
    best = torch.load("lightning_logs/run/checkpoints/best.ckpt", weights_only=True)["global_step"]
    with pytest.raises(Interrupted) as left:
        run([Signal(item, number)])
    assert left.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    resumed, joined = run([], LAST)
    assert torch.equal(unbroken, resumed)
    assert joined == curve
    assert torch.load("lightning_logs/run/checkpoints/best.ckpt", weights_only=True)["global_step"] == best


def test_without_checkpoints_it_says_that_none_is_kept(
    small_sac: SAC, quiet_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = quiet_trainer(
        max_epochs=1, callbacks=[Signal(2, signal.SIGINT)], enable_checkpointing=False, logger=False
    )
    with pytest.raises(Interrupted):
        trainer.fit(small_sac())
    assert "no checkpoint is kept" in caplog.text
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize("given", [LastCheckpoint, Interruption])
def test_a_callback_of_ones_own_replaces_only_its_kind(
    small_sac: SAC, quiet_trainer: MakeTrainer, given: Callable[[], Callback]
) -> None:
    trainer = quiet_trainer(max_epochs=1, callbacks=[given()], logger=False)
    trainer.fit(small_sac())
    assert {path.name for path in Path().rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    assert isinstance(trainer.callbacks[-1], Interruption)  # which leaves when the others have saved


@pytest.mark.parametrize("action_repeat", [1, 2])
def test_time_left_is_that_of_the_items_that_a_limit_leaves(
    small_sac: SAC, quiet_trainer: MakeTrainer, action_repeat: int
) -> None:
    bar, steps = RLProgressBar(), []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
            if trainer.global_step:
                bar._run_began = (time.monotonic() - 100, 0)  # as if all steps so far had taken 100 seconds
                left = bar.get_metrics(trainer, module)["left"]
                steps.append((trainer.current_epoch, module.environment_steps, left))

    trainer = quiet_trainer(
        max_epochs=2, limit_train_batches=5, limit_val_batches=0, callbacks=[bar, Watch()], enable_progress_bar=True
    )
    trainer.fit(small_sac(action_repeat=action_repeat))
    assert steps[0] == (0, 32 * action_repeat, "0:06:40")  # 128 of 160 actions are left, at 32 in 100 seconds
    assert steps[-1] == (1, 160 * action_repeat, "0:00:00")


def test_the_bar_shows_return_steps_and_speed_and_a_users_own_bar_stays(
    small_sac: SAC, quiet_trainer: MakeTrainer
) -> None:
    shown = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
            shown.append(trainer.progress_bar_callback.get_metrics(trainer, module))

    trainer = quiet_trainer(max_epochs=2, callbacks=[Watch()], enable_progress_bar=True, log_every_n_steps=1)
    trainer.fit(small_sac())
    assert isinstance(trainer.progress_bar_callback, RLProgressBar)
    assert shown[-1]["steps"] == "320"
    assert float(shown[-1]["return"]) == pytest.approx(float(trainer.callback_metrics["train/return"]), abs=0.06)
    [curve] = [each for each in trainer.callbacks if isinstance(each, LearningCurve)]
    assert float(shown[-1]["eval"]) == pytest.approx(curve.points[0].val_return, rel=1e-3)  # the second is to come
    assert shown[-1]["best"] == shown[-1]["eval"]
    assert shown[-1]["left"] == "0:00:00"
    trainer.save_checkpoint("before.ckpt")
    resumed = quiet_trainer(max_epochs=3, callbacks=[Watch()], enable_progress_bar=True, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        resumed.fit(small_sac(), ckpt_path="before.ckpt")
    best = max(point.val_return for point in curve.points)
    assert float(shown[-1]["best"]) == pytest.approx(best, rel=1e-3)  # of the run before, too
    mine = RichProgressBar(theme=RichProgressBarTheme(progress_bar="green"))
    other = quiet_trainer(max_epochs=1, callbacks=[mine], enable_progress_bar=True)
    other.fit(small_sac())
    assert other.progress_bar_callback is mine
