"""Checkpoints of several ranks: each rank's experience is in them, and training goes on with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = """
import hashlib, io, json, sys
from pathlib import Path
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning_rl import SACModule, TRPOModule

algorithm, ranks, epochs, checkpoint = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
torch.set_num_threads(1)
seed_everything(0)
small = dict(env="Pendulum-v1", max_episode_steps=20, num_envs=2, hidden_sizes=(8,), eval_episodes=2)
if algorithm == "SAC":
    module = SACModule(**small, batch_size=8, buffer_size=200, learning_starts=8, train_freq=4, gradient_steps=2,
                       steps_per_epoch=80)
else:
    module = TRPOModule(**small, rollout_steps=10, value_batch_size=10, value_epochs=2, value_rollouts=2,
                        steps_per_epoch=80)
trainer = Trainer(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False,
                  enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, max_epochs=epochs)
trainer.fit(module, ckpt_path=checkpoint[0] if checkpoint else None)

def digest(value):
    written = io.BytesIO()
    torch.save(value, written)
    return hashlib.sha256(written.getvalue()).hexdigest()

Path(f"rank-{trainer.global_rank}.json").write_text(json.dumps({
    "weights": digest(list(module.state_dict().values())),
    "experience": digest(module.experience.state_dict()),
    "environment_steps": module.environment_steps,
    "updates": trainer.global_step,
}))
"""


def run(algorithm: str, ranks: int, epochs: int, *checkpoint: str) -> tuple[list[dict[str, Any]], str]:
    Path("run.py").write_text(SCRIPT)
    command = [sys.executable, "run.py", algorithm, str(ranks), str(epochs), *checkpoint]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in range(ranks)], done.stderr


@pytest.mark.parametrize("algorithm", ["SAC", "TRPO"])
def test_two_ranks_resume_exactly_and_another_number_goes_on(algorithm: str) -> None:
    unbroken, _ = run(algorithm, 2, 3)
    assert unbroken[0]["experience"] != unbroken[1]["experience"]
    run(algorithm, 2, 2)
    Path("checkpoints").rename("two")
    resumed, said = run(algorithm, 2, 3, "two/last.ckpt")
    assert resumed == unbroken
    assert "new episodes" not in said
    # Two checkpoints, best and last, and the one shard that each of them names: nothing of those they replaced.
    names = {path.name for path in Path("checkpoints/shards").iterdir()}
    named = [torch.load(path, weights_only=True)["shards"] for path in Path("checkpoints").glob("*.ckpt")]
    assert names == {name for shards in named for name in shards}

    [alone], said = run(algorithm, 1, 3, "two/last.ckpt")
    assert "is of 2 ranks, and there are 1 now" in said
    assert alone["environment_steps"] == 240
    assert alone["updates"] > unbroken[0]["updates"]  # the same environment steps are more rounds of one rank
    run(algorithm, 1, 2)
    Path("checkpoints").rename("one")
    several, said = run(algorithm, 2, 3, "one/last.ckpt")
    assert "is of 1 ranks, and there are 2 now" in said
    assert several[0]["weights"] == several[1]["weights"]
    assert several[0]["environment_steps"] == 240

    for shard in Path("two/shards").iterdir():
        shard.unlink()
    with pytest.raises(AssertionError, match="keep the folder 'shards' beside the checkpoints"):
        run(algorithm, 2, 3, "two/last.ckpt")
