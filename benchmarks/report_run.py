"""Turns a finished run into a committed result: 100 test episodes, the curve, and the policy alone.

    python benchmarks/report_run.py lightning_logs/version_0 results/sac-bipedal_walker

Best and last checkpoint are tested on the same 100 test episodes, none of which was trained or validated on; where a
checkpoint holds an averaged actor or policy, the raw one is tested too. Written are `result.json`, `curve.csv`,
`curve.png`, `config.yaml` and `policy.ckpt`, which `lightning-rl test --ckpt_path` takes; with `--film` also
`episode.gif`.
"""

import argparse
import json
import platform
import shutil
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from lightning_rl import RLModule
from lightning_rl.callbacks.video import gif, record_episode
from lightning_rl.environments import TEST_SEEDS
from lightning_rl.export import load_module

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
    module = load_module(checkpoint)
    module.eval_episodes = EPISODES
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


def film(checkpoint: Path, path: Path) -> None:
    """The first test episode as a small moving picture."""
    with tempfile.TemporaryDirectory() as folder:
        frames = record_episode(load_module(checkpoint), TEST_SEEDS[0], Path(folder) / "episode.mp4")
    path.write_bytes(gif(frames)[0])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of the command line, with curve.csv and checkpoints/")
    parser.add_argument("output", type=Path, help="folder of the result")
    parser.add_argument("--film", action="store_true", help="also writes episode.gif")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    checkpoints = {name: arguments.run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    best = torch.load(checkpoints["best"], map_location="cpu", weights_only=True)
    result = {
        "environment": best["lightning_rl"]["environment"],
        "test_episodes": EPISODES,
        **{name: report(path) for name, path in checkpoints.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES} | box2d(),
    }
    (arguments.output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    for name in ("curve.csv", "curve.png", "config.yaml"):
        shutil.copy(arguments.run / name, arguments.output / name)
    policy = {key: best[key] for key in (*WEIGHTS_ALONE, "pytorch-lightning_version") if key in best}
    policy["hyper_parameters"]["eval_episodes"] = EPISODES  # so that testing it gives the result's numbers
    torch.save(policy, arguments.output / "policy.ckpt")
    if arguments.film:
        film(arguments.output / "policy.ckpt", arguments.output / "episode.gif")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
