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
from lightning_rl.compilation import Settled, compiled
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


class Scale(nn.Module):
    """Changes its weights in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    @torch.no_grad()
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.weight.add_(1)
        return x @ x.T * self.weight.sum(), y - self.weight


def asked(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """The function, and a list that grows with each call that reaches it."""
    calls: list[int] = []

    def counting(*arguments: torch.Tensor) -> Any:
        calls.append(1)
        return function(*arguments)

    return counting, calls


def pairs(*rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [(torch.randn(each, 3, generator=random), torch.randn(3, generator=random)) for each in rows]


@needs_compiler
def test_settled_calls_are_the_function_without_being_asked_about() -> None:
    module, eager = Scale(), Scale()
    function, calls = asked(compiled(module, "cpu"))
    settled = Settled(function)
    for x, y in pairs(4, 4, 4, 4, 5, 5, 5, 5, 4):
        torch.testing.assert_close(settled(x, y), eager(x, y))
    assert len(calls) == 2 + 2 + 1  # again after each change of sizes
    assert torch.equal(module.weight, eager.weight)


@needs_compiler
def test_what_lasts_may_not_be_another_one_nor_be_passed_twice() -> None:
    module = Scale()
    function, calls = asked(compiled(module, "cpu"))
    settled, (x, y) = Settled(function), pairs(3)[0]
    for _ in range(4):
        module.weight = nn.Parameter(torch.ones(3))
        torch.testing.assert_close(settled(x, y)[1], y - 2)
    for _ in range(4):
        module.weight.data.fill_(1)
        torch.testing.assert_close(settled(x, x)[1], x - 2)
    assert len(calls) == 8
    for _ in range(4):  # the same arguments again and again are arguments all the same
        module.weight.data.fill_(1)
        torch.testing.assert_close(settled(x, y)[1], y - 2)
    assert torch.equal(settled(x, y + 1)[1], y + 1 - 3)
    assert len(calls) == 10


@needs_compiler
def test_a_call_that_fails_leaves_nothing_settled() -> None:
    function, fails = compiled(Scale(), "cpu"), [False]

    def failing(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if fails[0]:
            raise KeyboardInterrupt
        return function(x, y)

    settled = Settled(failing)
    few, many = pairs(4, 5)
    for _ in range(3):
        settled(*few)
    fails[0] = True
    with pytest.raises(KeyboardInterrupt):
        settled(*many)
    fails[0] = False
    assert settled(*many)[0].shape == (5, 5)


def in_two_graphs(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = x + 1
    torch._dynamo.graph_break()
    return (y * 2,)


def with_its_input(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x + 1, x


def of_its_shape_alone(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (torch.ones(x.shape),)


@needs_compiler
@pytest.mark.parametrize("function", [in_two_graphs, with_its_input, of_its_shape_alone])
def test_what_is_not_one_graph_of_its_arguments_is_asked_about_each_time(function: Callable[..., Any]) -> None:
    counted, calls = asked(compiled(function, "cpu"))
    settled = Settled(counted)
    for (x, _), expected in zip(pairs(3, 3, 3, 3), pairs(3, 3, 3, 3), strict=True):
        torch.testing.assert_close(settled(x), function(expected[0]))
    assert len(calls) == 4


def test_a_function_that_is_not_compiled_is_called_as_it_is() -> None:
    function, calls = asked(Scale())
    settled, eager = Settled(function), Scale()
    for x, y in pairs(4, 4, 4):
        torch.testing.assert_close(settled(x, y), eager(x, y))
    assert len(calls) == 3


class OtherNumbers(Callback):
    """Changes the discount and the target's rate between items."""

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 4:
            assert isinstance(module, SACModule)
            module.gamma, module.tau = 0.5, 0.2


@needs_compiler
def test_an_item_asks_before_two_of_its_updates_and_sees_what_callbacks_changed(
    small_sac: SAC, quiet_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []
    may_update_at_once = SACModule._may_update_at_once

    def listening(module: SACModule) -> bool:
        if module.compiles:
            module.update_at_once, listened = asked(module.update_at_once)
            calls.append(listened)
        return may_update_at_once(module)

    monkeypatch.setattr(SACModule, "_may_update_at_once", listening)
    results = []
    for compile in (False, True):
        seed_everything(0)
        module = small_sac(compile=compile, rounds_per_item=2, steps_per_epoch=192)
        trainer = quiet_trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[OtherNumbers()])
        trainer.fit(module)
        results.append(weights(module))
    assert trainer.global_step == 88  # in six items of sixteen, the first of which begins without
    assert len(calls[0]) == 2 * 6
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-3)  # actions differ by roundings, too


class Annealed(SACModule):
    """Changes the discount within an item."""

    def step_schedules(self) -> None:
        super().step_schedules()
        if self.trainer.global_step == 20:
            self.gamma = 0.5


@needs_compiler
def test_a_number_that_changes_within_an_item_counts_at_once(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    results = []
    hyperparameters = {name: value for name, value in small_sac().hparams.items() if not name.startswith("_")}
    one_item = {"train_freq": 160, "gradient_steps": 40, "learning_starts": 160}
    for compile in (False, True):
        seed_everything(0)
        module = Annealed(**{**hyperparameters, **one_item, "compile": compile})
        quiet_trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(module)
        results.append(weights(module))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
