"""Turns a finished run into a committed result: 100 test episodes, the curve, and the policy alone.

    python benchmarks/report_run.py lightning_logs/version_0 results/sac-bipedal_walker

Best and last checkpoint are tested on the same 100 test episodes, none of which was trained or validated on; where a
checkpoint holds an averaged actor or policy, the raw one is tested too. Written are `result.json`, `curve.csv`,
`curve.png` and `policy.ckpt`, which `lightning-rl test --ckpt_path` takes.
"""

import argparse
import csv
import json
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pydoc import locate
from typing import Any

import matplotlib
import torch
from lightning.pytorch import Trainer

from lightning_rl import RLModule

matplotlib.use("agg")
import matplotlib.pyplot as plt

EPISODES = 100
PACKAGES = ("torch", "lightning", "gymnasium", "numpy")
WEIGHTS_ALONE = ("state_dict", "hyper_parameters", "hparams_name", "lightning_rl", "epoch", "global_step")


def tested(module: RLModule) -> dict[str, float]:
    """Statistics of the test episodes."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [statistics] = trainer.test(module, verbose=False)
    return {name.removeprefix("test/"): round(value, 2) for name, value in statistics.items()}


def report(checkpoint: Path) -> dict[str, Any]:
    """The test of a checkpoint's policy, and of the raw one where its average is evaluated."""
    algorithm = locate(torch.load(checkpoint, weights_only=True)["hyper_parameters"]["_class_path"])
    module = algorithm.load_from_checkpoint(checkpoint, map_location="cpu", eval_episodes=EPISODES)
    result: dict[str, Any] = {"evaluated": tested(module)}
    for averaged, raw in (("averaged_actor", "raw_actor"), ("averaged_policy", "raw_policy")):
        if getattr(module, averaged, None) is not None:
            setattr(module, averaged, None)
            result[raw] = tested(module)
    return result


def box2d() -> dict[str, str]:
    """Whichever of Box2D's two packages is installed."""
    for name in ("box2d", "box2d-py"):
        with suppress(PackageNotFoundError):
            return {name: version(name)}
    return {}


def curve(metrics: Path) -> list[dict[str, str]]:
    """The rows of the run's metrics that hold a return."""
    wanted = ("step", "train/return", "val/return", "val/return_std", "val/length")
    with metrics.open(newline="") as file:
        rows = [{name: row.get(name, "") for name in wanted} for row in csv.DictReader(file)]
    return [row for row in rows if row["val/return"] or row["train/return"]]


def draw(rows: list[dict[str, str]], title: str, path: Path) -> None:
    """The learning curve as a picture."""
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    training = [(int(row["step"]), float(row["train/return"])) for row in rows if row["train/return"]]
    axes.plot(*zip(*training, strict=True), color="0.7", linewidth=0.8, label="training episodes")
    evaluated = [row for row in rows if row["val/return"]]
    steps = [int(row["step"]) for row in evaluated]
    means = [float(row["val/return"]) for row in evaluated]
    spreads = [float(row["val/return_std"]) for row in evaluated]
    low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color="tab:blue", alpha=0.2, linewidth=0, label="± standard deviation")
    axes.plot(steps, means, color="tab:blue", label="evaluation (greedy)")
    axes.set(title=title, xlabel="environment steps", ylabel="return")
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, with metrics.csv and checkpoints/")
    parser.add_argument("output", type=Path, help="folder of the result")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    checkpoints = {name: arguments.run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    best = torch.load(checkpoints["best"], map_location="cpu", weights_only=True)
    rows = curve(arguments.run / "metrics.csv")
    result = {
        "environment": best["lightning_rl"]["environment"],
        "test_episodes": EPISODES,
        **{name: report(path) for name, path in checkpoints.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES} | box2d(),
    }
    (arguments.output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    with (arguments.output / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    name = best["hyper_parameters"].get("_class_path", "").rpartition(".")[2].removesuffix("Module")
    draw(rows, f"{name} on {result['environment']}", arguments.output / "curve.png")
    (arguments.output / "config.yaml").write_bytes((arguments.run / "config.yaml").read_bytes())
    policy = {key: best[key] for key in (*WEIGHTS_ALONE, "pytorch-lightning_version") if key in best}
    torch.save(policy, arguments.output / "policy.ckpt")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
