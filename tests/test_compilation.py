"""Compiled updates are the eager ones."""

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from shutil import which
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.optim import Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LinearLR, LRScheduler, OneCycleLR

from lightning_rl import SACModule
from lightning_rl.algorithms.module import RLModule
from lightning_rl.loggers import CSVLogger
from lightning_rl.networks import DoubleCritic

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


def cycled(optimizer: Optimizer) -> LRScheduler:
    return OneCycleLR(optimizer, max_lr=3e-3, total_steps=300)


@needs_compiler
@pytest.mark.parametrize(
    ("settings", "precision", "listens", "at_once"),
    [
        ({"lr_scheduler": lambda each: LinearLR(each, 1.0, 0.1, 40)}, "32-true", False, True),
        ({"lr_scheduler": cycled}, "32-true", False, True),  # which changes the first moment's rate as well
        ({"optimizer": lambda each: AdamW(each, lr=3e-3, fused=True), "alpha": 0.1}, "32-true", False, True),
        ({"optimizer": lambda each: Adam(each, lr=3e-3, weight_decay=0.1)}, "bf16-mixed", False, True),
        ({}, "32-true", True, False),
        ({"optimizer": lambda each: RMSprop(each, lr=3e-4)}, "32-true", False, False),
    ],
)
def test_adams_steps_are_compiled_unless_somebody_waits_for_them(
    small_sac: SAC,
    quiet_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    precision: str,
    listens: bool,
    at_once: bool,
) -> None:
    steps = []
    apply_gradients = RLModule.apply_gradients
    monkeypatch.setattr(RLModule, "apply_gradients", lambda *each: (steps.append(1), apply_gradients(*each))[1])
    results: list[torch.Tensor] = []
    for compile in (False, True):
        seed_everything(0)
        module = small_sac(compile=compile, train_freq=160, gradient_steps=50, learning_starts=160, **settings)
        listener = Listener()
        trainer = quiet_trainer(
            max_epochs=1, logger=False, precision=precision, callbacks=[listener] if listens else []
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*lr_scheduler.step")
            trainer.fit(module)
        assert trainer.global_step == 50
        assert len(steps) == (0 if compile and at_once else 50 * len(trainer.optimizers))
        assert listener.steps == (50 if listens else 0)
        steps.clear()
        results.append(weights(module))
    tolerance = 1e-5 if precision == "32-true" else 2e-2  # bfloat16 has three digits
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)


@needs_compiler
def test_a_class_of_ones_own_sees_the_gradients_of_a_compiled_run(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    seen: list[float] = []

    class Clipping(SACModule):
        def apply_gradients(self, optimizer: Any, gradients: Sequence[torch.Tensor]) -> None:
            seen.append(max(float(each.abs().max()) for each in gradients))
            super().apply_gradients(optimizer, [each.clamp(-1e-3, 1e-3) for each in gradients])

    trainer = quiet_trainer(max_epochs=1, logger=False)
    hyperparameters = small_sac(compile=True).hparams
    trainer.fit(Clipping(**{name: value for name, value in hyperparameters.items() if not name.startswith("_")}))
    assert len(seen) == 3 * trainer.global_step > 0


@needs_compiler
def test_an_eager_run_goes_on_compiled_and_back(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    def run(max_epochs: int, compile: bool, checkpoint: str | None = None) -> tuple[torch.Tensor, Any]:
        seed_everything(1)
        trainer = quiet_trainer(max_epochs=max_epochs, logger=CSVLogger(".", version="run"))
        module = small_sac(compile=compile, lr_scheduler=cycled)
        trainer.fit(module, ckpt_path=checkpoint)
        states = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        return weights(module), states

    last = "lightning_logs/run/checkpoints/last.ckpt"
    expected = run(3, compile=False)
    run(1, compile=False)
    run(2, compile=True, checkpoint=last)
    there_and_back = run(3, compile=False, checkpoint=last)
    torch.testing.assert_close(there_and_back, expected, rtol=1e-3, atol=1e-3)  # actions differ by roundings, too


class CentredCritic(nn.Module):
    """A critic that keeps statistics of what it sees."""

    def __init__(self, critic: nn.Module, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size)
        self.critic = critic

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        q: torch.Tensor = self.critic(self.norm(observation), action)
        return q


@needs_compiler
def test_statistics_of_networks_of_ones_own_are_kept_in_a_compiled_run(
    small_sac: SAC, quiet_trainer: MakeTrainer
) -> None:
    results: list[dict[str, torch.Tensor]] = []
    for compile in (False, True):
        seed_everything(0)
        critic = CentredCritic(DoubleCritic(3, 1, (16, 16), nn.ReLU), 3)
        module = small_sac(compile=compile, critic=critic, train_freq=160, gradient_steps=20, learning_starts=160)
        quiet_trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(module)
        results.append(module.state_dict())
    assert results[0]["target_critic.norm.running_mean"].any()
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


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
