"""An environment of one rank fails: all ranks stop, and save what they lived through."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import faulthandler, os, sys
import gymnasium as gym
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import SameWeights

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
    algorithm, fails_at, starts, *checkpoint = sys.argv[1], *(int(each) for each in sys.argv[2:4]), *sys.argv[4:]
    faulthandler.dump_traceback_later(100, exit=True)  # a run that hangs says where
    torch.set_num_threads(1)
    seed_everything(0)
    small = dict(env="run.Fragile", env_kwargs={"fails_at": fails_at}, max_episode_steps=20, num_envs=2,
                 backend="async", hidden_sizes=(8,), eval_episodes=2, steps_per_epoch=80)
    if algorithm == "SAC":
        module = SACModule(**small, batch_size=8, buffer_size=200, learning_starts=starts, train_freq=4,
                           gradient_steps=2)
    else:
        module = TRPOModule(**small, rollout_steps=10, value_batch_size=10, value_epochs=2)
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
                      enable_model_summary=False, num_sanity_val_steps=0, max_epochs=2, callbacks=[SameWeights()])
    trainer.fit(module, ckpt_path=checkpoint[0] if checkpoint else None)
    print(f"rank {trainer.global_rank} ended after {module.environment_steps} steps, {trainer.global_step} updates")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "run.py", *arguments], check=False, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("algorithm", "starts", "updates"),
    [("SAC", 8, 38), ("SAC", 60, 12), ("TRPO", 0, 4)],  # the second one loses its environment in the warm-up
)
def test_all_ranks_save_and_finish_the_round_from_there(algorithm: str, starts: int, updates: int) -> None:
    Path("run.py").write_text(SCRIPT)
    lost = run(algorithm, "27", str(starts))  # the second rank's 27th of 40 steps: in the second epoch
    assert lost.returncode != 0
    assert "EnvironmentLostError: rank 1: environment" in lost.stderr, lost.stderr[-6000:]  # the first rank's words
    assert "EnvironmentLostError: environment" in lost.stderr  # the second one's
    assert "is in " in lost.stderr
    saved = torch.load("checkpoints/last.ckpt", weights_only=True)
    [name] = saved["shards"]
    shard = torch.load(Path("checkpoints/shards", name), weights_only=True)["experience"]
    assert shard["collector"]["steps"] == 2 * 26  # what it lived through until then
    assert saved["experience"]["collector"]["steps"] > 2 * 26  # the first rank's round was whole
    resumed = run(algorithm, "0", str(starts), "checkpoints/last.ckpt")
    assert resumed.returncode == 0, resumed.stderr[-6000:]
    for rank in range(2):
        assert f"rank {rank} ended after 160 steps, {updates} updates" in resumed.stdout
