"""Checkpoints of several ranks: each rank's experience is in them, and training goes on with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = """
import faulthandler, hashlib, io, json, os, signal, sys
from pathlib import Path
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch import Callback
from lightning_rl import SACModule, TRPOModule

algorithm, ranks, epochs, stop, *checkpoint = sys.argv[1], *(int(each) for each in sys.argv[2:5]), *sys.argv[5:]

class Signal(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == stop and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

faulthandler.dump_traceback_later(280, exit=True)  # a run that hangs says where
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
                  enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, max_epochs=epochs,
                  callbacks=[Signal()])
trainer.fit(module, ckpt_path=checkpoint[0] if checkpoint else None)

def digest(value):
    written = io.BytesIO()
    torch.save(value, written)
    return hashlib.sha256(written.getvalue()).hexdigest()

trainer.save_checkpoint("mine/end.ckpt", weights_only=False)
Path(f"rank-{trainer.global_rank}.json").write_text(json.dumps({
    "weights": digest(list(module.state_dict().values())),
    "experience": digest(module.experience.state_dict()),
    "environment_steps": module.environment_steps,
    "updates": trainer.global_step,
}))
"""


def run(algorithm: str, ranks: int, epochs: int, *checkpoint: str, stop: int = -1) -> tuple[list[dict[str, Any]], str]:
    """Trains; `stop` is the item in which the second rank receives SIGTERM."""
    Path("run.py").write_text(SCRIPT)
    command = [sys.executable, "run.py", algorithm, str(ranks), str(epochs), str(stop), *checkpoint]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == (0 if stop < 0 else 143), done.stderr[-3000:]
    if stop >= 0:
        return [], done.stderr
    return [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in range(ranks)], done.stderr


@pytest.mark.parametrize("algorithm", ["SAC", "TRPO"])
def test_a_signal_to_one_rank_ends_both_and_they_resume_exactly(algorithm: str) -> None:
    unbroken, _ = run(algorithm, 2, 2)
    assert unbroken[0]["experience"] != unbroken[1]["experience"]
    # Two checkpoints, best and last, and the one shard that each of them names: nothing of those they replaced.
    names = {path.name for path in Path("checkpoints/shards").iterdir()}
    named = [torch.load(path, weights_only=True)["shards"] for path in Path("checkpoints").glob("*.ckpt")]
    assert names == {name for shards in named for name in shards}
    # A checkpoint elsewhere has its shard beside it.
    assert [path.name for path in Path("mine/shards").iterdir()] == torch.load("mine/end.ckpt")["shards"]
    assert run(algorithm, 2, 2, "mine/end.ckpt")[0] == unbroken
    run(algorithm, 2, 2, stop=1)
    Path("checkpoints").rename("two")
    resumed, said = run(algorithm, 2, 2, "two/last.ckpt")
    assert resumed == unbroken
    assert "new episodes" not in said
    for shard in Path("two/shards").iterdir():
        shard.unlink()
    with pytest.raises(AssertionError, match="keep the folder 'shards' beside the checkpoints"):
        run(algorithm, 2, 2, "two/last.ckpt")


@pytest.mark.parametrize("algorithm", ["SAC", "TRPO"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_and_says_what_it_refills(algorithm: str, before: int, after: int) -> None:
    first, _ = run(algorithm, before, 1)
    Path("checkpoints").rename("first")
    then, said = run(algorithm, after, 2, "first/last.ckpt")
    assert f"is of {before} ranks, and there are {after} now" in said
    assert "every rank begins new episodes" in said
    assert {each["environment_steps"] for each in then} == {160}
    assert len({each["weights"] for each in then}) == 1
    assert then[0]["weights"] != first[0]["weights"]
    assert then[0]["updates"] > first[0]["updates"]
