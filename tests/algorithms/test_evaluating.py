"""Validating, testing and predicting, before training, after it and from a checkpoint."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_rl import SACModule, TRPOModule

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


def test_weights_of_double_precision_are_loaded_and_tested_as_they_were_saved(
    small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer
) -> None:
    module = small_trpo()
    trainer = quiet_trainer(max_epochs=1, precision="64-true")
    trainer.fit(module)
    trainer.save_checkpoint("double.ckpt", weights_only=True)
    loaded = TRPOModule.load_from_checkpoint("double.ckpt")
    assert all(torch.equal(weight, module.state_dict()[name]) for name, weight in loaded.state_dict().items())
    again = small_trpo()
    quiet_trainer(precision="64-true").test(again, ckpt_path="double.ckpt", verbose=False)
    assert all(torch.equal(weight, module.state_dict()[name]) for name, weight in again.state_dict().items())
    quiet_trainer(max_epochs=1).fit(loaded)  # in single precision, as that Trainer says
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def test_validating_afterwards_steps_no_schedule(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    schedules: list[ReduceLROnPlateau] = []

    def schedule(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        schedules.append(ReduceLROnPlateau(optimizer, mode="max"))
        return schedules[-1]

    module, trainer = small_sac(lr_scheduler=schedule), quiet_trainer(max_epochs=2)
    trainer.fit(module)
    trainer.validate(module, verbose=False)
    assert {each.last_epoch for each in schedules} == {2}


def test_evaluation_before_and_after_fit_and_from_a_path(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac()
    trainer = quiet_trainer(max_epochs=1)
    [before] = trainer.validate(module, verbose=False)
    untrained = [trajectory for batch in trainer.predict(module) for trajectory in batch]
    [tested] = trainer.test(module, verbose=False)
    assert np.mean([t.rewards.sum() for t in untrained]) == pytest.approx(tested["test/return"], rel=1e-6)
    trainer.fit(module)
    trainer.save_checkpoint("lightning_logs/version_0/checkpoints/first.ckpt", weights_only=False)
    [after] = trainer.test(module, verbose=False)
    [again] = quiet_trainer().test(
        small_sac(), ckpt_path="lightning_logs/version_0/checkpoints/last.ckpt", verbose=False
    )
    assert after == again
    assert after["test/return"] != tested["test/return"]
    assert set(before) == {f"val/{n}" for n in ("return", "return_std", "return_min", "return_max", "length")} | {
        "step"
    }
    assert after["step"] == 160
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module)
    [earlier] = trainer.test(module, ckpt_path="lightning_logs/version_0/checkpoints/first.ckpt", verbose=False)
    assert earlier == after
    [batch, rest] = trainer.predict(module)
    trajectory = batch[0]
    assert len(batch) + len(rest) == 3
    assert trajectory.observations.shape == (31, 3)
    assert trajectory.actions.shape == (30, 1)
    assert (trajectory.truncated, trajectory.terminated) == (True, False)
    returns = [float(t.rewards.sum()) for t in (*batch, *rest)]
    assert sum(returns) / 3 == pytest.approx(after["test/return"], rel=1e-6)
    from_path = quiet_trainer().predict(small_sac(), ckpt_path="lightning_logs/version_0/checkpoints/first.ckpt")
    assert [float(t.rewards.sum()) for episodes in from_path for t in episodes] == returns


def test_averaged_actor_is_evaluated_and_the_raw_one_explores(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(actor_averaging=0.01)
    quiet_trainer(max_epochs=1).fit(module)
    observation = torch.from_numpy(module.observation_space.sample())[None]
    assert torch.equal(module.greedy_policy()(observation), module.averaged_actor(observation))
    assert not torch.equal(module.averaged_actor(observation), module.actor(observation))
    explored = module.environment_units(module.explore(observation, torch.zeros(1, 1)))
    assert torch.equal(torch.from_numpy(explored), module.actor(observation))
