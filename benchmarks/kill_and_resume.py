"""Kills training at random moments, resumes it from the newest checkpoint each time, and compares the end.

    python benchmarks/kill_and_resume.py results/kill-and-resume.json --kills 50

SIGKILL leaves a process no moment to tidy up; checkpoints are written every few updates, so that some kills fall into
their writing. In the end weights, optimizers, experience, counters and the metrics' file must be, to the bit, those of
a run that was never killed.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import BestCheckpoint, LastCheckpoint, ModelCheckpoint
from lightning_rl.loggers import CSVLogger

STATE = ("state_dict", "optimizer_states", "experience", "lightning_rl", "global_step", "epoch")
CHECKPOINTS = Path("run/checkpoints")
METRICS = Path("run/metrics.csv")


class Ready(Callback):
    """Says that training begins: a kill before it would only test Python's start."""

    def on_train_start(self, *_: Any) -> None:
        """Writes a line to the parent."""
        print("ready", flush=True)


def train(algorithm: str, epochs: int) -> None:
    """One life: begins, or goes on from the newest checkpoint; `state.ckpt` is the end."""
    torch.set_num_threads(1)
    seed_everything(0)
    common = {"env": "Pendulum-v1", "num_envs": 4, "hidden_sizes": (32, 32), "eval_episodes": 4}
    module: SACModule | TRPOModule
    if algorithm == "SAC":
        settings = {"buffer_size": 20_000, "batch_size": 32, "train_freq": 16, "learning_starts": 400}
        module, every = SACModule(**common, **settings, gradient_steps=8, steps_per_epoch=800), 40
    else:
        settings = {"rollout_steps": 32, "value_batch_size": 64, "value_epochs": 4, "value_rollouts": 4}
        module, every = TRPOModule(**common, **settings, steps_per_epoch=1280), 3
    snapshots = ModelCheckpoint(dirpath=CHECKPOINTS, every_n_train_steps=every, filename="newest")
    snapshots._enable_version_counter = False
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=CSVLogger(".", name="", version="run"),
        callbacks=[snapshots, BestCheckpoint(), LastCheckpoint(), Ready()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=5,
    )
    newest = max(CHECKPOINTS.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)
    trainer.fit(module, ckpt_path=newest)
    trainer.save_checkpoint("state.ckpt", weights_only=False)


def life(folder: str, algorithm: str, epochs: int, seconds: float | None) -> bool:
    """Trains in a process of its own, for so many seconds; whether it came to its end."""
    command = [sys.executable, __file__, "", "--life", algorithm, "--epochs", str(epochs)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "ready":
                break
        try:
            _, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return False
    if process.returncode != 0:
        raise RuntimeError(error)
    return True


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """The places where two states differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        apart = [f"{where}/{key}" for key in left.keys() ^ right.keys()]
        return apart + [
            p for key in left.keys() & right.keys() for p in differences(left[key], right[key], f"{where}/{key}")
        ]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [place for index, (a, b) in pairs for place in differences(a, b, f"{where}/{index}")]
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [where]


def end(folder: str) -> tuple[dict[str, Any], str]:
    """What a run ended with."""
    state = torch.load(Path(folder) / "state.ckpt", weights_only=True)
    return {key: state[key] for key in STATE}, (Path(folder) / METRICS).read_text()


def torment(algorithm: str, kills: int, epochs: int) -> dict[str, Any]:
    """One run that is never killed, and one that is; what came of it."""
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as broken:
        begun = time.perf_counter()
        life(whole, algorithm, epochs, None)
        duration = time.perf_counter() - begun
        chance, done, writing = random.Random(0), 0, 0
        while done < kills:
            if life(broken, algorithm, epochs, chance.uniform(0, 1.5 * duration / kills)):
                break  # it reached its end before it could be killed so often
            done += 1
            writing += any((Path(broken) / CHECKPOINTS).glob(".*.partial"))
        life(broken, algorithm, epochs, None)
        (state, metrics), (expected, curve) = end(broken), end(whole)
        apart = differences(expected, state)
    return {
        "algorithm": algorithm,
        "kills": done,
        "while_writing": writing,
        "seconds_unbroken": round(duration, 1),
        "differences": apart,
        "metrics_identical": metrics == curve,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="JSON file of the result")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--algorithms", nargs="+", default=["SAC", "TRPO"])
    parser.add_argument("--life", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.life:
        train(arguments.life, arguments.epochs)
        return
    results = [torment(algorithm, arguments.kills, arguments.epochs) for algorithm in arguments.algorithms]
    Path(arguments.output).write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    if any(result["differences"] or not result["metrics_identical"] for result in results):
        sys.exit("a killed run did not end as the unbroken one did")


if __name__ == "__main__":
    main()
