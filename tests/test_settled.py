"""A compiled function that is asked about twice gives what it gave when it was asked about each time."""

import os
from collections.abc import Callable
from shutil import which
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn

from lightning_rl import SACModule
from lightning_rl.compilation import Settled, can_compile, compiled

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]

has_compiler = which(os.environ.get("CXX", "g++")) is not None
needs_compiler = pytest.mark.skipif(not has_compiler, reason="there is no C++ compiler")


@pytest.fixture(autouse=True, scope="module")
def imported_compiler() -> None:
    """PyTorch's compiler, met as a run meets it: when it is first imported, it uses what PyTorch deprecates."""
    if has_compiler:
        assert can_compile(torch.device("cpu"))


def weights(module: SACModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


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
