"""Compiled updates are the eager ones."""

import copy
import os
import warnings
from collections.abc import Callable
from shutil import which
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import Adam, AdamW, Optimizer, RMSprop

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


class Listener(Callback):
    """Looks at every step of an optimizer."""

    def __init__(self) -> None:
        self.steps = 0

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        self.steps += 1
        assert all(parameter.grad is not None for parameter in optimizer.param_groups[0]["params"])


@needs_compiler
@pytest.mark.parametrize(
    ("optimizer", "listens", "at_once"),
    [
        (lambda each: Adam(each, lr=3e-3), False, True),
        (lambda each: AdamW(each, lr=3e-3, fused=True), False, True),
        (lambda each: Adam(each, lr=3e-3), True, False),
        (lambda each: RMSprop(each, lr=3e-4), False, False),
    ],
)
def test_adams_steps_are_compiled_unless_somebody_waits_for_them(
    small_sac: SAC,
    quiet_trainer: MakeTrainer,
    optimizer: Callable[[Any], Optimizer],
    listens: bool,
    at_once: bool,
) -> None:
    results: list[torch.Tensor] = []
    for compile in (False, True):
        seed_everything(0)
        steps = Mock()
        module = small_sac(
            compile=compile,
            train_freq=160,
            gradient_steps=50,
            learning_starts=160,
            optimizer=optimizer,
            lr_scheduler=lambda each: torch.optim.lr_scheduler.LinearLR(each, 1.0, 0.1, 40),
        )
        listener = Listener()
        trainer = quiet_trainer(max_epochs=1, logger=False, callbacks=[listener] if listens else [])
        apply_gradients = module.apply_gradients
        module.apply_gradients = lambda *each, own=apply_gradients, seen=steps: (seen(), own(*each))[1]
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*lr_scheduler.step")
            trainer.fit(module)
        assert trainer.global_step == 50
        assert steps.call_count == (0 if compile and at_once else 150)
        assert listener.steps == (50 if listens else 0)
        results.append(weights(module))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


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
