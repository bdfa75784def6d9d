"""An environment of one rank fails: all ranks stop, and save what they lived through."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, sys
import gymnasium as gym
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning_rl import SACModule, TRPOModule

class Fragile(gym.Wrapper):
    def __init__(self, fails_at):
        super().__init__(gym.make("Pendulum-v1"))
        self.left = fails_at if os.environ.get("LOCAL_RANK") == "1" else -1

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            os._exit(3)
        return super().step(action)

if __name__ == "__main__":
    algorithm, fails_at, *checkpoint = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    seed_everything(0)
    small = dict(env="run.Fragile", env_kwargs={"fails_at": fails_at}, max_episode_steps=20, num_envs=2,
                 backend="async", hidden_sizes=(8,), eval_episodes=2, steps_per_epoch=80)
    if algorithm == "SAC":
        module = SACModule(**small, batch_size=8, buffer_size=200, learning_starts=8, train_freq=4, gradient_steps=2)
    else:
        module = TRPOModule(**small, rollout_steps=10, value_batch_size=10, value_epochs=2)
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
                      enable_model_summary=False, num_sanity_val_steps=0, max_epochs=2)
    trainer.fit(module, ckpt_path=checkpoint[0] if checkpoint else None)
    print("ended after", module.environment_steps)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "run.py", *arguments], check=False, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("algorithm", ["SAC", "TRPO"])
def test_all_ranks_save_and_go_on_from_there(algorithm: str) -> None:
    Path("run.py").write_text(SCRIPT)
    lost = run(algorithm, "27")  # in the second rank's 27th step, in the first epoch's middle or in the second one
    assert lost.returncode != 0
    assert "EnvironmentLostError: rank 1: environment" in lost.stderr  # the first rank's words
    assert "EnvironmentLostError: environment" in lost.stderr  # the second one's
    assert "is in " in lost.stderr
    last = Path("checkpoints/last.ckpt")
    saved = torch.load(last, weights_only=True)
    steps = saved["lightning_rl"]["environment_steps"]
    assert 80 < steps < 160
    assert len(saved["shards"]) == 1
    resumed = run(algorithm, "0", str(last))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "ended after" in resumed.stdout
