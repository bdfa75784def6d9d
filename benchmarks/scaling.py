"""Ranks: measured from one to two on this machine, and what a model says of 8, 64 and 1,024.

    python benchmarks/scaling.py results/scaling

Measured, with one thread a rank: seconds an item with one rank and the whole batch, with two ranks and half of it each
(the same update), and with two ranks and a whole batch each; and what travels: collectives and bytes an item, counted
where they happen.

The model adds, to the work that one rank was measured to do, the collectives' time on a network with latency α and
bandwidth β. An all-reduce of b bytes over P ranks takes 2 ⌈log₂ P⌉ α + 2 (P − 1) / P · b / β: a tree's latency, a
ring's traffic. The efficiency is work / (work + collectives), each rank with a batch and environments of its own.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

ITEMS, WARM_UP = 60, 15
RANKS = (8, 64, 1024)
NETWORKS = {  # latency in seconds, bandwidth in bytes a second: round numbers of such hardware, not measured here
    "GPUs of one machine": (10e-6, 100e9),
    "InfiniBand": (20e-6, 20e9),
    "10 Gbit Ethernet": (50e-6, 1.2e9),
}


def work(algorithm: str, ranks: int, share: int, output: str) -> None:
    """One rank of a measurement; `share` is the number that the whole batch is divided by."""
    from lightning.pytorch import Callback, Trainer, seed_everything

    from lightning_rl import SACModule, TRPOModule

    class Clock(Callback):
        times: list[float] = []  # noqa: RUF012
        sent: list[int] = []  # noqa: RUF012

        def on_train_batch_end(self, *_: Any) -> None:
            self.times.append(time.perf_counter())
            if len(self.times) == WARM_UP:
                self.sent.clear()

    torch.set_num_threads(1)
    seed_everything(0)
    clock = Clock()
    reduce = torch.distributed.all_reduce

    def count(tensor: torch.Tensor, *arguments: Any, **settings: Any) -> Any:
        clock.sent.append(tensor.nbytes)
        return reduce(tensor, *arguments, **settings)

    torch.distributed.all_reduce = count
    common: dict[str, Any] = {"env": "BipedalWalker-v3", "backend": "envpool", "eval_episodes": 2}
    module: SACModule | TRPOModule
    if algorithm == "SAC":
        envs = 16 // share
        module = SACModule(
            **common,
            num_envs=envs,
            batch_size=256 // share,
            train_freq=envs,
            gradient_steps=8,
            learning_starts=64 // share,
            steps_per_epoch=envs * ranks * ITEMS,
        )
    else:
        envs = 64 // share
        module = TRPOModule(
            **common,
            num_envs=envs,
            rollout_steps=32,
            value_batch_size=512 // share,
            steps_per_epoch=32 * envs * ranks * ITEMS,
        )
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        callbacks=[clock],
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    if trainer.global_rank == 0:
        times = clock.times[-(ITEMS - WARM_UP) :]
        steps = sorted(after - before for before, after in pairwise(times))
        collectives = len(clock.sent) / (len(clock.times) - WARM_UP)
        traffic = sum(clock.sent) / (len(clock.times) - WARM_UP)
        median = steps[len(steps) // 2]
        Path(output).write_text(json.dumps({"seconds": median, "collectives": collectives, "bytes": traffic}))


def measure(algorithm: str, ranks: int, share: int) -> dict[str, float]:
    """The median seconds of an item, and what an item sends."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "measured.json")
        command = [sys.executable, __file__, output, "--work", algorithm, str(ranks), str(share)]
        subprocess.run(command, check=True, cwd=folder, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        measured: dict[str, float] = json.loads(Path(output).read_text())
    return measured


def efficiency(seconds: float, collectives: float, traffic: float, ranks: int, alpha: float, beta: float) -> float:
    """The model's share of the time that is work."""
    talking = collectives * 2 * math.ceil(math.log2(ranks)) * alpha + 2 * (ranks - 1) / ranks * traffic / beta
    return seconds / (seconds + talking)


def report(algorithm: str, rounds: int) -> tuple[dict[str, Any], str]:
    """Measurements in turn, their medians, the model, and a table of both."""
    settings = {"one": (1, 1), "half each": (2, 2), "whole each": (2, 1)}
    runs = {name: [measure(algorithm, *of) for _ in range(rounds)] for name, of in settings.items()}
    median = {name: sorted(run["seconds"] for run in of)[rounds // 2] for name, of in runs.items()}
    sent = runs["whole each"][0]
    modelled = {
        network: {ranks: efficiency(median["one"], sent["collectives"], sent["bytes"], ranks, *of) for ranks in RANKS}
        for network, of in NETWORKS.items()
    }
    unit = (
        "an item of 8 updates, 16 environment steps"
        if algorithm == "SAC"
        else "a rollout of 2,048 steps and its update"
    )
    lines = [
        f"### {algorithm}: {unit}",
        "",
        f"- one rank: {1e3 * median['one']:.1f} ms",
        f"- two ranks, half the batch each: {1e3 * median['half each']:.1f} ms, "
        f"{median['one'] / median['half each']:.2f} × as fast",
        f"- two ranks, a whole batch each: {1e3 * median['whole each']:.1f} ms, "
        f"{2 * median['one'] / median['whole each']:.2f} × the work a second",
        f"- {sent['collectives']:.0f} collectives, {sent['bytes'] / 1e6:.2f} MB",
        "",
        "| model: efficiency | " + " | ".join(f"{ranks} ranks" for ranks in RANKS) + " |",
        "| --- |" + " --- |" * len(RANKS),
    ]
    for network, values in modelled.items():
        lines.append(f"| {network} | " + " | ".join(f"{100 * value:.0f} %" for value in values.values()) + " |")
    return {"measured": runs, "model": modelled}, "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the results' path, without its extension")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        algorithm, ranks, share = arguments.work
        work(algorithm, int(ranks), int(share), arguments.output)
        return
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}"
    results, tables = (
        {},
        [f"Machine: {machine}; one thread a rank; gloo on one machine; medians of {arguments.rounds}."],
    )
    for algorithm in ("SAC", "TRPO"):
        results[algorithm], table = report(algorithm, arguments.rounds)
        tables.append(table)
    Path(f"{arguments.output}.json").write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")
    Path(f"{arguments.output}.md").write_text("\n\n".join(tables) + "\n")
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
