"""Several ranks, each in a process of its own, under Lightning's plain ddp."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning_rl import SACModule, TRPOModule

algorithm, ranks = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
seed_everything(0)
small = dict(env="Pendulum-v1", max_episode_steps=20, num_envs=2, hidden_sizes=(8,), eval_episodes=5)
if algorithm == "SAC":
    module = SACModule(**small, batch_size=8, buffer_size=200, learning_starts=8, train_freq=4, gradient_steps=2,
                       steps_per_epoch=80)
else:
    module = TRPOModule(**small, rollout_steps=10, value_batch_size=10, value_epochs=2, steps_per_epoch=80)

def make(**settings):
    return Trainer(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False,
                   enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **settings)

trainer = make()
[untrained] = trainer.validate(module, verbose=False)
trainer = make(max_epochs=2, enable_checkpointing=False)
trainer.fit(module)
weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
Path(f"rank-{trainer.global_rank}.json").write_text(json.dumps({
    "untrained": untrained,
    "weights": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
    "finite": bool(weights.isfinite().all()),
    "environment_steps": module.environment_steps,
    "updates": trainer.global_step,
    "collected": module.experience.collector.state_dict()["observation"].tolist(),
}))
"""


def ranks(algorithm: str, count: int) -> list[dict[str, object]]:
    Path("run.py").write_text(SCRIPT)
    command = [sys.executable, "run.py", algorithm, str(count)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.parametrize(("algorithm", "updates"), [("SAC", {1: 78, 2: 38}), ("TRPO", {1: 8, 2: 4})])
def test_two_ranks_share_weights_and_evaluate_the_same_episodes(algorithm: str, updates: dict[int, int]) -> None:
    [alone] = ranks(algorithm, 1)
    first, second = ranks(algorithm, 2)
    assert first["untrained"] == second["untrained"] == alone["untrained"]
    assert first["weights"] == second["weights"] != alone["weights"]
    assert first["finite"]
    assert first["collected"] != second["collected"]  # each has episodes of its own
    assert {1: alone["updates"], 2: first["updates"]} == updates
    assert alone["environment_steps"] == first["environment_steps"] == second["environment_steps"] == 160
