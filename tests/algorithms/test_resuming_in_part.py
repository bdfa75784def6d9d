"""What a checkpoint does not hold, or not in this length, is said and filled again."""

from collections.abc import Callable

import pytest
from lightning.pytorch import Trainer

from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import LastCheckpoint
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


@pytest.mark.parametrize("rollout_steps", [8, 32])
def test_earlier_rollouts_of_another_length_are_left_out_and_that_is_said(
    small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer, rollout_steps: int
) -> None:
    quiet_trainer(max_epochs=1, callbacks=[LastCheckpoint()], logger=CSVLogger(".", version="run")).fit(
        small_trpo(value_rollouts=3)
    )
    module = small_trpo(value_rollouts=3, rollout_steps=rollout_steps)
    lengths: list[int] = []
    fit_value = module.fit_value
    module.fit_value = lambda rollout, optimizer: (
        lengths.append(0 if rollout.earlier is None else len(rollout.earlier.value_target)),
        fit_value(rollout, optimizer),
    )[1]
    trainer = quiet_trainer(max_epochs=2, logger=CSVLogger(".", version="run"))
    with pytest.warns(UserWarning, match=f"hold 32 transitions a rank and this module's {2 * rollout_steps}: "):
        trainer.fit(module, ckpt_path="lightning_logs/run/checkpoints/last.ckpt")
    assert lengths[:4] == [0, 2 * rollout_steps, 4 * rollout_steps, 4 * rollout_steps]


def test_without_the_replay_buffer_resuming_says_so_and_refills(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trainer = quiet_trainer(max_epochs=1, logger=CSVLogger(".", version="run"))
    trainer.fit(small_sac(save_replay_buffer=False))
    trainer.save_checkpoint("small.ckpt", weights_only=False)
    module = small_sac(save_replay_buffer=False)
    resumed = quiet_trainer(max_epochs=2, logger=CSVLogger(".", version="run"))
    with pytest.warns(UserWarning, match=r"no replay buffer .* 32 transitions are collected"):
        resumed.fit(module, ckpt_path="small.ckpt")
    assert module.experience.buffer.size == 160
    assert resumed.global_step == (10 - 1) * 8 * 2  # one item of each epoch refills
    assert module.environment_steps == 320
