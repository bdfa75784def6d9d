"""Trains a configuration with several seeds, one after another, and reports each run.

    python benchmarks/learn.py configs/sac/pendulum.yaml results/sac-pendulum --seeds 0 1 2
    python benchmarks/learn.py configs/trpo/bipedal_walker_fast.yaml results/time_to_300 --stop_at 300
    python benchmarks/learn.py configs/sac/bipedal_walker.yaml results/sac-bipedal_walker --model.compile true

Each seed's report (see report_run.py) goes into a folder of its own; `summary.json` holds the test returns and the
minutes from the process's start to its end, evaluations included; seeds that it holds already stay. With `--stop_at` a
run ends with the first evaluation of at least that mean return: the minutes are then its time to solve. Flags that are
not this command's are `fit`'s.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def train(config: Path, seed: int, stop_at: float | None, flags: Sequence[str], folder: str) -> float:
    """One run, in a process of its own as a user would start it; returns its minutes."""
    command = [sys.executable, "-m", "lightning_rl", "fit", "--config", str(config), "--seed_everything", str(seed)]
    command += flags
    if stop_at is not None:
        command += ["--trainer.callbacks+", json.dumps(stops_at(stop_at))]
    begun = time.perf_counter()
    subprocess.run([*command, "--trainer.enable_progress_bar", "false"], cwd=folder, check=True)
    return (time.perf_counter() - begun) / 60


def stops_at(threshold: float) -> dict[str, Any]:
    """Lightning's callback that ends a run once an evaluation is good enough, and never for want of progress."""
    settings = {"monitor": "val/return", "mode": "max", "stopping_threshold": threshold, "patience": 1_000_000}
    return {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": settings}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("output", type=Path, help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stop_at", type=float, help="mean return of an evaluation that ends a run")
    arguments, flags = parser.parse_known_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = arguments.output / "summary.json"
    for seed in arguments.seeds:
        output = arguments.output / f"seed-{seed}"
        with tempfile.TemporaryDirectory() as folder:
            minutes = train(arguments.config.resolve(), seed, arguments.stop_at, flags, folder)
            run = Path(folder) / "lightning_logs" / "version_0"
            subprocess.run([sys.executable, str(HERE / "report_run.py"), str(run), str(output)], check=True)
        result = json.loads((output / "result.json").read_text())
        tests = {name: result[name]["evaluated"] for name in ("best", "last")}
        summary = json.loads(table.read_text()) if table.exists() else []
        summary = [each for each in summary if each["seed"] != seed]
        summary.append({"seed": seed, "minutes": round(minutes, 1), **tests})
        summary.sort(key=lambda each: each["seed"])
        table.write_text(json.dumps(summary, indent=2) + "\n")
    print(table.read_text())


if __name__ == "__main__":
    main()
