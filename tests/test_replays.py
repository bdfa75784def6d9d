"""What CUDA graphs give lies in the same memory at every replay: here without a GPU, by functions that do the like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from lightning_rl import SACModule, compilation
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]
Run = Callable[..., tuple[SACModule, str]]


def in_the_same_memory(function: Callable[..., Any]) -> Callable[..., Any]:
    """A gradient function whose results are written over those of the call before."""
    memory: list[Tensor] = []

    def replay(*arguments: Any) -> Any:
        result = function(*arguments)
        values = [*result.gradients, *result[1:]]
        memory[:] = memory or [torch.empty_like(value) for value in values]
        for kept, value in zip(memory, values, strict=True):
            kept.copy_(value)
        gradients = len(result.gradients)
        return type(result)(memory[:gradients], *memory[gradients:])

    return replay


@pytest.fixture
def run(small_sac: SAC, quiet_trainer: MakeTrainer) -> Run:
    """Trains for an epoch; gives the module and what was logged."""

    def train(replays: bool, is_known: bool) -> tuple[SACModule, str]:
        seed_everything(3)
        module = small_sac(actor_averaging=0.01)
        if replays:
            for name in ("critic_gradients", "actor_gradients"):
                setattr(module, name, in_the_same_memory(getattr(module, name)))
        if is_known:
            module._replays = lambda: True
        quiet_trainer(max_epochs=1, log_every_n_steps=1, logger=CSVLogger(".", version="run")).fit(module)
        return module, Path("lightning_logs/run/metrics.csv").read_text()

    return train


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler, when it is first imported
def test_updates_by_replayed_functions_are_the_others_and_keep_nothing_of_a_replay(run: Run) -> None:
    plain, logged = run(replays=False, is_known=False)
    replayed, logged_of_replays = run(replays=True, is_known=True)
    for weight, expected in zip(replayed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, expected)
        assert weight.grad is None
    assert logged_of_replays == logged
    _, overwritten = run(replays=True, is_known=False)
    assert overwritten != logged  # an item's losses are all those of its last update then


def test_only_what_was_compiled_on_a_gpu_is_replayed(small_sac: SAC, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not small_sac()._replays()
    modes: list[str | None] = []
    monkeypatch.setattr(torch, "compile", lambda function, mode, **_: modes.append(mode))
    for device_type in ("cpu", "cuda", "mps"):
        compilation.compiled(abs, device_type)
    assert modes == [None, "reduce-overhead", None]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_compiled_updates_on_a_gpu_are_the_eager_ones(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    weights = []
    for compile in (False, True):
        seed_everything(0)
        module = small_sac(compile=compile, train_freq=160, gradient_steps=100, learning_starts=160)
        quiet_trainer(max_epochs=1, accelerator="gpu", devices=1, logger=False).fit(module)
        weights.append(torch.cat([parameter.detach().cpu().flatten() for parameter in module.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)
