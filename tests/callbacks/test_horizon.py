from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import GrowingHorizon

TRPO = Callable[..., TRPOModule]
MakeTrainer = Callable[..., Trainer]


def discounts(module: TRPOModule) -> list[float]:
    """The discount of each rollout's advantages, as they are estimated."""
    used: list[float] = []
    estimate = module.estimate
    module.estimate = lambda *arguments: (used.append(module.gamma), estimate(*arguments))[1]
    return used


def test_the_horizon_grows_linearly_from_rollout_to_rollout(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(gamma=0.9)
    used = discounts(module)
    quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.98, updates=8)]).fit(module)
    assert [1 / (1 - gamma) for gamma in used] == pytest.approx([10, 15, 20, 25, 30, 35, 40, 45, 50, 50])


def test_the_horizon_stands_still_before_it_grows(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(gamma=0.9)
    used = discounts(module)
    quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.98, updates=8, begin=4)]).fit(module)
    assert [1 / (1 - gamma) for gamma in used] == pytest.approx([10, 10, 10, 10, 10, 20, 30, 40, 50, 50])


def test_a_resumed_run_goes_on_with_the_horizon_it_had(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    def run(epochs: int, checkpoint: str | None = None) -> tuple[list[float], dict[str, Any]]:
        seed_everything(3)
        module = small_trpo(gamma=0.9)
        used = discounts(module)
        callback = GrowingHorizon(gamma=0.98, updates=25)
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[callback], logger=False)
        trainer.fit(module, ckpt_path=checkpoint)
        trainer.save_checkpoint(f"{epochs}.ckpt", weights_only=False)
        return used, module.state_dict()

    whole, unbroken = run(3)
    first, _ = run(2)
    rest, resumed = run(3, "2.ckpt")
    assert first + rest == whole
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.0, "updates": 5}, r"gamma=1.0: a number in \[0, 1\)"),
        ({"gamma": 0.9, "updates": 0}, "updates=0"),
        ({"gamma": 0.9, "updates": 5, "begin": 5}, "begin=5: an integer from 0 to updates=5"),
    ],
)
def test_message(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrowingHorizon(**settings)


def test_it_is_for_trpo(small_sac: Callable[..., SACModule], quiet_trainer: MakeTrainer) -> None:
    with pytest.raises(TypeError, match=r"TRPOModule.*SACModule"):
        quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.9, updates=5)]).fit(small_sac())
