"""Environment steps a second of TRPO's training, beside sb3-contrib's on the same work.

    python benchmarks/trpo_speed.py results/trpo-speed.json

The same environment (BipedalWalker-v3), nets, rollout, conjugate gradient steps and value epochs. Evaluation is left
out, and so is the first rollout of each, which warms up. The libraries take turns; medians and ratios are reported.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lightning_rl import TRPOModule

ENVIRONMENTS, STEPS, EPOCHS, BATCH, CG_ITERATIONS = 64, 128, 10, 512, 10
ROLLOUT = ENVIRONMENTS * STEPS


class Stamps(Callback):
    """The moments at which items end."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """An item is one rollout and its step."""
        self.stamps.append(time.perf_counter())


def ours(rollouts: int, backend: str) -> float:
    """Steps a second under ``Trainer.fit``, logging included."""
    module = TRPOModule(
        num_envs=ENVIRONMENTS,
        backend=backend,
        rollout_steps=STEPS,
        value_epochs=EPOCHS,
        value_batch_size=BATCH,
        cg_iters=CG_ITERATIONS,
        steps_per_epoch=ROLLOUT * rollouts,
    )
    stamps = Stamps()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=1,
        callbacks=[stamps],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.gettempdir(),
    )
    trainer.fit(module)
    return ROLLOUT * (rollouts - 1) / (stamps.stamps[-1] - stamps.stamps[0])


def sb3_contrib(rollouts: int) -> float:
    """Steps a second of sb3-contrib's TRPO with Gymnasium's environments in this process, as it comes."""
    from sb3_contrib import TRPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    stamps: list[float] = []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            stamps.append(time.perf_counter())

        def _on_step(self) -> bool:
            return True

    model = TRPO(
        "MlpPolicy",
        VecNormalize(make_vec_env("BipedalWalker-v3", ENVIRONMENTS)),
        n_steps=STEPS,
        batch_size=BATCH,
        n_critic_updates=EPOCHS,
        cg_max_steps=CG_ITERATIONS,
        target_kl=0.01,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
        device="cpu",
    )
    model.learn(ROLLOUT * rollouts, callback=Watch())
    return ROLLOUT * (rollouts - 2) / (stamps[-1] - stamps[1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=12, help="of each of ours a round; sb3-contrib runs 4")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rates: dict[str, list[float]] = {"envpool": [], "sync": [], "sb3-contrib": []}
    for _ in range(arguments.rounds):
        rates["envpool"].append(ours(arguments.rollouts, "envpool"))
        rates["sync"].append(ours(4, "sync"))
        rates["sb3-contrib"].append(sb3_contrib(4))
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    result = {
        "environment_steps_per_second": medians,
        "ratio_to_sb3_contrib": {
            name: round(medians[name] / medians["sb3-contrib"], 2) for name in ("envpool", "sync")
        },
        "rounds": {name: [round(value) for value in values] for name, values in rates.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("torch", "lightning", "envpool", "gymnasium", "sb3-contrib")},
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
