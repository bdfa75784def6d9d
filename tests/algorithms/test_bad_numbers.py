"""Numbers that cannot be used never reach SAC's weights, and the run says whose they are."""

import os
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_rl import SACModule

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]

needs_compiler = pytest.mark.skipif(which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")


class Poison(Callback):
    """Puts a NaN where an item of the second epoch will read it."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.before: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 3:
            self.before = {name: value.clone() for name, value in module.state_dict().items()}
            # The first of this item's eight updates reads it.
            getattr(batch.noise if self.what in ("actor", "next") else batch.batch, self.what)[0, 5] = float("nan")


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize(
    ("what", "whose"), [("reward", "critics"), ("observation", "critics"), ("next", "critics"), ("actor", "actor")]
)
def test_a_nan_stops_the_run_before_it_reaches_a_weight(
    small_sac: SAC, quiet_trainer: MakeTrainer, what: str, whose: str, compile: bool
) -> None:
    module, poison = small_sac(compile=compile), Poison(what)
    step = {"critics": 96, "actor": 97}[whose]  # which the critics' step counts
    with pytest.raises(FloatingPointError, match=f"at global_step={step} a gradient of the {whose} is not finite"):
        quiet_trainer(max_epochs=3, callbacks=[poison], logger=False).fit(module)
    state = module.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    untouched = [name for name in state if whose == "critics" or name.startswith("actor.")]
    assert all(torch.equal(state[name], poison.before[name]) for name in untouched)
    # The checkpoint of the epoch before is good, and training goes on from it.
    trainer = quiet_trainer(max_epochs=2, logger=False)
    trainer.fit(small_sac(), ckpt_path=Path("checkpoints/last.ckpt"))
    assert trainer.global_step == 2 * 80 - 8


def test_weights_that_grow_beyond_all_numbers_stop_the_run_while_they_are_finite(
    small_sac: SAC, quiet_trainer: MakeTrainer
) -> None:
    module = small_sac(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e20))
    with pytest.raises(FloatingPointError, match="is not finite, and was not applied"):
        quiet_trainer(max_epochs=1, logger=False).fit(module)
    assert all(value.isfinite().all() for value in module.state_dict().values())
