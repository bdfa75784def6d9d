"""A million environment steps on each backend: resident memory, file descriptors and processes must stay as they are.

    python benchmarks/soak.py results/soak --steps 1000000

Memory is that of this process and its children, read at every twentieth of the run; what counts is its growth over
the last half.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_rl import SACModule, TRPOModule

READINGS = 20


class Readings(Callback):
    """Looks at this process and its children, READINGS times in a run of so many items."""

    def __init__(self, items: int) -> None:
        self.every = items // READINGS
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Reads."""
        if (trainer.fit_loop.total_batch_idx + 1) % self.every:
            return
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        self.seen.append(
            {
                "steps": module.environment_steps,
                "megabytes": sum(each.memory_info().rss for each in family) / 1e6,
                "descriptors": sum(each.num_fds() for each in family),
                "processes": len(family),
            }
        )


def soak(algorithm: str, backend: str, steps: int) -> dict[str, Any]:
    """Trains for so many environment steps; evaluations and checkpoints are part of it."""
    seed_everything(0)
    env = "Pendulum-v1" if backend == "envpool" else "CartPole-v1" if algorithm == "TRPO" else "Pendulum-v1"
    common: dict[str, Any] = {"env": env, "backend": backend, "hidden_sizes": (32,), "eval_episodes": 2}
    module: SACModule | TRPOModule
    if algorithm == "SAC":
        per_item = 512
        module = SACModule(
            **common,
            num_envs=8,
            buffer_size=100_000,
            batch_size=64,
            train_freq=per_item,
            gradient_steps=8,
            learning_starts=1000,
            steps_per_epoch=per_item * (steps // per_item // READINGS),
        )
    else:
        per_item = 2048
        module = TRPOModule(
            **common, num_envs=8, rollout_steps=256, steps_per_epoch=per_item * (steps // per_item // READINGS)
        )
    readings = Readings(steps // per_item // READINGS * READINGS)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=READINGS,
            callbacks=[readings],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module)
    half = readings.seen[len(readings.seen) // 2 :]
    memory = [reading["megabytes"] for reading in half]
    return {
        "algorithm": algorithm,
        "backend": backend,
        "steps": module.environment_steps,
        "megabytes": [round(reading["megabytes"]) for reading in readings.seen],
        "growth_over_the_last_half_percent": round(100 * (memory[-1] / memory[0] - 1), 2),
        "descriptors": sorted({int(reading["descriptors"]) for reading in half}),
        "processes": sorted({int(reading["processes"]) for reading in half}),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the results' path, without its extension")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--algorithms", nargs="+", default=["SAC", "TRPO"])
    parser.add_argument("--backends", nargs="+", default=["sync", "async", "envpool"])
    arguments = parser.parse_args()
    results = [
        soak(algorithm, backend, arguments.steps)
        for algorithm in arguments.algorithms
        for backend in arguments.backends
    ]
    machine = f"{platform.machine()}, PyTorch {torch.__version__}"
    Path(f"{arguments.output}.json").write_text(json.dumps({"machine": machine, "runs": results}, indent=2) + "\n")
    rows = [
        f"| {run['algorithm']} | {run['backend']} | {run['steps']:,} | {run['megabytes'][-1]} | "
        f"{run['growth_over_the_last_half_percent']} % | {run['descriptors']} | {run['processes']} |"
        for run in results
    ]
    head = [
        "| | backend | steps | MB at the end | growth over the last half | descriptors | processes |",
        "| --- " * 7 + "|",
    ]
    Path(f"{arguments.output}.md").write_text("\n".join([*head, *rows]) + "\n")
    print("\n".join([*head, *rows]))


if __name__ == "__main__":
    main()
