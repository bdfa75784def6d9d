from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_rl import SACModule, TRPOModule

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write where the test is; a seed that another test set does not reach this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def small_sac() -> Callable[..., SACModule]:
    """Makes a SAC small enough to train in a second: 8 updates an item, 10 items an epoch, 2 of them warm-up."""

    def make(**overrides: Any) -> SACModule:
        small = {
            "env": "Pendulum-v1",
            "max_episode_steps": 30,
            "num_envs": 2,
            "hidden_sizes": (16, 16),
            "batch_size": 16,
            "buffer_size": 400,
            "learning_starts": 32,
            "train_freq": 16,
            "gradient_steps": 8,
            "steps_per_epoch": 160,
            "eval_episodes": 3,
        }
        return SACModule(**{**small, **overrides})

    return make


@pytest.fixture
def quiet_trainer() -> Callable[..., Trainer]:
    """Makes a Trainer without bar and summary."""

    def make(**overrides: Any) -> Trainer:
        quiet = {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 5,
        }
        return Trainer(**{**quiet, **overrides})

    return make


@pytest.fixture(autouse=True)
def no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's tests pass arguments; pytest's own are not meant."""
    monkeypatch.setattr("sys.argv", ["lightning-rl"])


@pytest.fixture
def small_trpo() -> Callable[..., TRPOModule]:
    """Makes a TRPO small enough to train in a second: 10 rollouts of 2 · 16 steps an epoch."""

    def make(**overrides: Any) -> TRPOModule:
        small = {
            "env": "Pendulum-v1",
            "max_episode_steps": 30,
            "num_envs": 2,
            "hidden_sizes": (8,),
            "rollout_steps": 16,
            "value_epochs": 2,
            "value_batch_size": 16,
            "steps_per_epoch": 320,
            "eval_episodes": 3,
        }
        return TRPOModule(**{**small, **overrides})

    return make
