"""Several ranks, each in a process of its own, under Lightning's plain ddp."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import atexit, faulthandler, hashlib, json, os, sys, time
from pathlib import Path

def gloos_threads():
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        try:
            names.append(path.read_text().strip())
        except OSError:  # it ended meanwhile
            pass
    return sum("gloo" in name for name in names)

def at_the_end():
    patience = time.monotonic() + 1  # the system may list for a moment what has been waited for
    while gloos_threads() and time.monotonic() < patience:
        time.sleep(0.01)
    Path(f"left-{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(gloos_threads()))

atexit.register(at_the_end)  # before all others, and so after them
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning_rl import SACModule, TRPOModule

algorithm, ranks = sys.argv[1], int(sys.argv[2])
faulthandler.dump_traceback_later(280, exit=True)  # a run that hangs says where
torch.set_num_threads(1)
seed_everything(0)
small = dict(env="Pendulum-v1", max_episode_steps=20, num_envs=2, hidden_sizes=(8,), eval_episodes=5)
if algorithm == "SAC":
    module = SACModule(**small, batch_size=8, buffer_size=200, learning_starts=8, train_freq=4, gradient_steps=2,
                       steps_per_epoch=120)
else:
    module = TRPOModule(**small, rollout_steps=10, value_batch_size=10, value_epochs=2, steps_per_epoch=120)

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
    "gloos_threads": gloos_threads(),
}))
"""


def ranks(algorithm: str, count: int) -> list[dict[str, object]]:
    Path("run.py").write_text(SCRIPT)
    command = [sys.executable, "run.py", algorithm, str(count)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.parametrize(("algorithm", "updates"), [("SAC", [118, 58, 38]), ("TRPO", [12, 6, 4])])
def test_ranks_share_weights_and_evaluate_the_same_episodes(algorithm: str, updates: list[int]) -> None:
    [alone] = ranks(algorithm, 1)
    groups = [ranks(algorithm, 2), ranks(algorithm, 3)]
    for group in groups:
        assert all(each["untrained"] == alone["untrained"] for each in group)
        [weights] = {each["weights"] for each in group}
        assert weights != alone["weights"]
        assert all(each["finite"] for each in group)
        assert len({str(each["collected"]) for each in group}) == len(group)  # each has episodes of its own
    assert [alone["updates"], *(group[0]["updates"] for group in groups)] == updates
    assert all(each["environment_steps"] == 240 for group in [[alone], *groups] for each in group)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are not told of here")
def test_no_thread_of_gloos_is_left_where_the_interpreter_is_finalized() -> None:
    """It could be about to let go of a tensor, which aborts a process whose interpreter is going away."""
    for rank, trained in enumerate(ranks("SAC", 2)):
        assert trained["gloos_threads"]
        assert json.loads(Path(f"left-{rank}.json").read_text()) == 0
