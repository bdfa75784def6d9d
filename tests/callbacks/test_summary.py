from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
from lightning.pytorch import Trainer

from lightning_rl import SACModule
from lightning_rl.curves import read_curve

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


def test_the_end_of_a_run_says_how_good_it_is_and_where_everything_is(
    small_sac: SAC, quiet_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(small_sac())
    shown = capsys.readouterr().out
    best = max(read_curve(Path(trainer.log_dir)).points, key=lambda point: point.val_return)
    assert f"{best.val_return:.1f} ± {best.val_return_std:.1f} after {best.step} environment steps" in shown
    assert "lightning_logs/version_0/checkpoints/best.ckpt, lightning_logs/version_0/checkpoints/last.ckpt" in shown
    assert "lightning_logs/version_0/curve.png" in shown
    watch = "lightning-rl predict --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt"
    assert f"{watch} --trainer.callbacks+=VideoRecorder" in shown
    assert "\x1b" not in shown  # no colours where it is piped


def test_an_environment_that_no_checkpoint_knows_is_asked_for(
    small_sac: SAC, quiet_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_trainer(max_epochs=1).fit(small_sac(env=lambda: gymnasium.make("Pendulum-v1")))
    assert "--trainer.callbacks+=VideoRecorder --model.env MODULE.FUNCTION\n" in capsys.readouterr().out


def test_what_does_not_exist_is_not_told_of(
    small_sac: SAC, quiet_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(small_sac())
    shown = capsys.readouterr().out
    assert "best evaluation" in shown
    assert "checkpoints" not in shown
    assert "curve" not in shown
    quiet_trainer(fast_dev_run=True).fit(small_sac())
    assert "best evaluation" not in capsys.readouterr().out
