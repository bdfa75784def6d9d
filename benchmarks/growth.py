"""How speed and memory grow with the number of environments, the replay memory and the length of a run.

    python benchmarks/growth.py results/growth

Collecting: SAC's actor steps BipedalWalker-v3 and the replay memory takes what it sees; no updates. Sampling: eight
minibatches of 256 transitions at once, uniformly. Memory: the process's resident set over a run of a million
environment steps with a replay memory of half a million transitions, and what that memory's arrays account for.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Contest, Work, machine, markdown, save
from lightning.pytorch import Callback, Trainer

BATCHES, BATCH = 8, 256
COLLECTED = 1_024  # environment steps of one piece of work


def collecting(backend: str, num_envs: int) -> Work:
    """Items of `SACModule` without updates, collected as a training does, acting by the actor."""
    from lightning_rl import SACModule

    module = SACModule(
        backend=backend,
        num_envs=num_envs,
        train_freq=COLLECTED,
        gradient_steps=0,
        learning_starts=0,
        buffer_size=102_400,
    )
    module.experience = module.make_experience(run_seed=0)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            module.next_item()

    return work


def sampling(transitions: int) -> Work:
    """Minibatches from a full replay memory of BipedalWalker's sizes."""
    from lightning_rl.experience import ReplayBuffer

    num_envs = 16
    buffer = ReplayBuffer(transitions, num_envs, 24, 4)
    random = np.random.default_rng(0)
    for _ in range(transitions // num_envs):
        observation = random.standard_normal((2, num_envs, 24), dtype=np.float32)
        ended = random.random(num_envs) < 1e-3
        buffer.add(observation[0], torch.zeros(num_envs, 4), observation[0, :, 0], observation[1], ended, ended)
    generator = torch.Generator().manual_seed(0)

    def work(times: int) -> None:
        for _ in range(times):
            buffer.sample(BATCHES, BATCH, generator)

    return work


def resident_mebibytes() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Resident(Callback):
    """Reads the resident set after every so many environment steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Reads before the first."""
        self.rows.append({"steps": 0, "resident_MiB": round(resident_mebibytes(), 1)})

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Reads."""
        steps = pl_module.environment_steps
        if steps % self.every == 0:
            self.rows.append({"steps": steps, "resident_MiB": round(resident_mebibytes(), 1)})


def memory(steps: int, every: int) -> list[dict[str, float]]:
    """The resident set of a training with few updates, 10,000 environment steps an item."""
    from lightning_rl import SACModule

    resident = Resident(every)
    module = SACModule(
        backend="envpool",
        num_envs=50,
        train_freq=10_000,
        gradient_steps=10,
        buffer_size=500_000,
        steps_per_epoch=steps,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=1,
        callbacks=[resident],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module)
    return resident.rows


def medians(contestants: dict[str, Any], arguments: argparse.Namespace, amount: float) -> dict[str, float]:
    """What each does a second, the contestants taking turns."""
    contest = Contest(contestants, arguments.seconds)
    rates = contest.rates(arguments.rounds)
    contest.close()
    return {name: round(statistics.median(values) * amount) for name, values in rates.items()}


def main() -> None:
    """The command."""
    from lightning_rl.experience import ReplayBuffer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the files to write, without their extension")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    arguments = parser.parse_args()
    environments = (1, 4, 16, 64, 256)
    stepping = {
        backend: medians({str(n): (collecting, (backend, n)) for n in environments}, arguments, COLLECTED)
        for backend in ("sync", "envpool")
    }
    replay = medians({f"{n:,}": (sampling, (n,)) for n in (10**4, 10**5, 10**6)}, arguments, BATCHES)
    resident = memory(steps=1_000_000, every=100_000)
    arrays = ReplayBuffer(500_000, 50, 24, 4).nbytes / 2**20
    result = {
        "collecting_steps_per_second": stepping,
        "minibatches_per_second": replay,
        "resident": resident,
        "replay_arrays_MiB": round(arrays, 1),
        "machine": machine(),
    }
    tables = [
        markdown(
            ["environments", *map(str, environments)],
            [[f"{backend}, steps/s", *rates.values()] for backend, rates in stepping.items()],
        ),
        markdown(["transitions held", *replay], [["minibatches of 256 a second", *replay.values()]]),
        markdown(
            ["environment steps", *(f"{row['steps']:,}" for row in resident)],
            [["resident, MiB", *(row["resident_MiB"] for row in resident)]],
        )
        + f"\n\nThe replay memory's arrays for 500,000 transitions are {arrays:.1f} MiB of that.",
    ]
    save(arguments.output, result, "\n\n".join(tables))


if __name__ == "__main__":
    main()
