"""Compiled updates are the eager ones."""

import copy
import os
from collections.abc import Callable
from shutil import which
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_rl import SACModule
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]

needs_compiler = pytest.mark.skipif(which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")


def weights(module: SACModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@needs_compiler
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_hundred_compiled_updates_are_the_eager_ones(
    small_sac: SAC, quiet_trainer: MakeTrainer, precision: str
) -> None:
    results = []
    for compile in (False, True):
        seed_everything(0)
        # One item: 160 uniformly random steps, the same in both, and a hundred updates.
        module = small_sac(
            compile=compile, train_freq=160, gradient_steps=100, learning_starts=160, actor_averaging=0.01
        )
        trainer = quiet_trainer(max_epochs=1, precision=precision, logger=False, enable_checkpointing=False)
        trainer.fit(module)
        assert trainer.global_step == 100
        results.append(weights(module))
    eager, compiled = results
    tolerance = 1e-10 if precision == "64-true" else 1e-5  # float32's rounding, carried through a hundred updates
    torch.testing.assert_close(compiled, eager, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_a_compiled_run_resumes_to_the_bit(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    def run(max_epochs: int, checkpoint: str | None = None) -> torch.Tensor:
        seed_everything(1)
        trainer = quiet_trainer(max_epochs=max_epochs, logger=CSVLogger(".", version="run"))
        module = small_sac(compile=True)
        trainer.fit(module, ckpt_path=checkpoint)
        return weights(module)

    unbroken = run(2)
    run(1)
    assert torch.equal(run(2, "lightning_logs/run/checkpoints/last.ckpt"), unbroken)


@needs_compiler
def test_a_module_is_its_plain_self_after_a_compiled_run(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(compile=True)
    seen: list[Any] = []
    on_train_start = module.on_train_start
    module.on_train_start = lambda: (seen.append(module.critic_gradients), on_train_start())
    quiet_trainer(max_epochs=1).fit(module)
    assert hasattr(seen[0], "_torchdynamo_orig_callable")
    assert module.critic_gradients.__func__ is SACModule.critic_gradients
    assert torch.equal(weights(copy.deepcopy(module)), weights(module))


def test_without_a_compiler_training_goes_on_and_says_so(
    small_sac: SAC, quiet_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", fail)
    trainer = quiet_trainer(max_epochs=1)
    with pytest.warns(UserWarning, match=r"updates run uncompiled.*no C\+\+ compiler was found"):
        trainer.fit(small_sac(compile=True))
    assert trainer.global_step > 0
