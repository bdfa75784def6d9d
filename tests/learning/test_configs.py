"""Committed configurations learn; what takes longer than CI may is in results/."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_rl import SACModule, TRPOModule
from lightning_rl.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
BEST = "lightning_logs/version_0/checkpoints/best.ckpt"


def mean_return(module: SACModule | TRPOModule) -> float:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [statistics] = trainer.test(module, verbose=False)
    return statistics["test/return"]


def fit(config: str, *flags: str) -> None:
    torch.set_num_threads(2)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    main(["fit", "--config", str(CONFIGS / config), *flags, *quiet])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sac_swings_the_pendulum_up_within_15000_steps(seed: int) -> None:
    fit("sac/pendulum.yaml", "--seed_everything", str(seed))
    module = SACModule.load_from_checkpoint(BEST, eval_episodes=100)
    assert module.environment_steps <= 15_000
    assert mean_return(module) >= -170  # a random policy: −1200


def test_trpo_balances_the_pole_within_41000_steps() -> None:
    fit("trpo/cart_pole.yaml", "--trainer.max_epochs", "4")
    assert mean_return(TRPOModule.load_from_checkpoint(BEST, eval_episodes=50)) > 450  # a random policy: 22
