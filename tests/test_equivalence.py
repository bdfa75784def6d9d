"""Two ranks with half a batch each take the step of one rank with the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import faulthandler, sys
from types import SimpleNamespace
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import SameWeights
from lightning_rl.experience import Noise, Transition, Updates
from lightning_rl.experience.rollout import Rollout

algorithm, ranks = sys.argv[1], int(sys.argv[2])
faulthandler.dump_traceback_later(280, exit=True)  # a run that hangs says where
torch.set_num_threads(1)
seed_everything(0)
common = dict(env="Pendulum-v1", hidden_sizes=(16, 16), eval_episodes=2)
STEPS, ENVS, EPOCHS, PIECES = 8, 6, 3, 4

def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=random)

def share(tensor, dim):
    return tensor.chunk(ranks, dim)[trainer.global_rank].contiguous()

def updates():
    batch = Transition(numbers(5, 12, 3), numbers(5, 12, 1).tanh(), numbers(5, 12), numbers(5, 12, 3),
                       numbers(5, 12) > 0)
    noise = Noise(numbers(5, 12, 1), numbers(5, 12, 1))
    return Updates(Transition(*(share(x, 1) for x in batch)), Noise(*(share(x, 1) for x in noise)))

def rollout():
    observation, action, value = numbers(STEPS, ENVS, 3), numbers(STEPS, ENVS, 1), numbers(STEPS, ENVS)
    target, advantage = numbers(STEPS, ENVS), numbers(STEPS, ENVS)
    # Each half of the environments has an order of its own; a minibatch of the whole is one of each half.
    halves = [[torch.randperm(STEPS * ENVS // 2, generator=random) for _ in range(2)] for _ in range(EPOCHS)]
    def whole(epoch):
        pieces = [half.chunk(PIECES) for half in epoch]
        return torch.cat([
            piece // (ENVS // 2) * ENVS + piece % (ENVS // 2) + half * (ENVS // 2)
            for both in zip(*pieces) for half, piece in enumerate(both)
        ])
    if ranks == 1:
        order = torch.stack([whole(epoch) for epoch in halves])
    else:
        order = torch.stack([epoch[trainer.global_rank] for epoch in halves])
    with torch.no_grad():
        log_prob = module.policy.log_prob(module.policy(observation), action)
    fields = (observation, torch.zeros(STEPS, ENVS), action, log_prob, value, target, advantage)
    return Rollout(*(share(x, 1) for x in fields), order)

if algorithm == "SAC":
    module = SACModule(**common, batch_size=12 // ranks, learning_starts=12, train_freq=4, gradient_steps=5,
                       num_envs=4, steps_per_epoch=12, actor_averaging=0.1)
    draw, per_round = updates, 4
else:
    module = TRPOModule(**common, num_envs=ENVS // ranks, rollout_steps=STEPS, value_epochs=EPOCHS,
                        value_batch_size=STEPS * ENVS // PIECES // ranks, steps_per_epoch=3 * STEPS * ENVS)
    draw, per_round = rollout, STEPS * ENVS // ranks
module.steps_per_epoch = 3 * per_round * ranks
collector = SimpleNamespace(steps=0, finished=lambda: [], close=lambda: None)
module.experience = SimpleNamespace(interact=lambda: None, draw=draw, steps_per_round=per_round, collector=collector)
trainer = Trainer(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False,
                  enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, max_epochs=1,
                  limit_val_batches=0, enable_checkpointing=False, precision="64-true", callbacks=[SameWeights()])
random = torch.Generator().manual_seed(1)
fractions = []
if algorithm == "TRPO":
    policy_step = module.policy_step
    def watch(*given):
        taken = policy_step(*given)
        fractions.append(taken.search[:2])
        return taken
    module.policy_step = watch
trainer.fit(module)
if trainer.global_rank == 0:
    torch.save({"weights": dict(module.state_dict()), "searches": fractions}, f"{algorithm}-{ranks}.pt")
"""


@pytest.mark.parametrize("algorithm", ["SAC", "TRPO"])
def test_two_halves_make_the_whole(algorithm: str) -> None:
    Path("run.py").write_text(SCRIPT)
    for ranks in (1, 2):
        command = [sys.executable, "run.py", algorithm, str(ranks)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(f"{algorithm}-{ranks}.pt", weights_only=True) for ranks in (1, 2))
    moved = 0
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=1e-10, atol=1e-10)
        moved += weight.is_floating_point()
    assert moved > 10
    if algorithm == "TRPO":
        assert len(one["searches"]) == 3
        assert all(fraction > 0 for fraction, _ in one["searches"])
        torch.testing.assert_close(two["searches"], one["searches"], rtol=1e-9, atol=1e-12)
