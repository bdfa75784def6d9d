"""SAC's whole training, environment steps a second, beside Stable-Baselines3 and SBX (JAX) on the same work.

    python benchmarks/sac_training.py results/sac-training
    python benchmarks/sac_training.py results/sac-training-gpu --accelerator gpu

Stepping, acting, replay, updates and logging included; evaluation, warm-up and compilation left out. BipedalWalker-v3,
batch 256, nets 256 × 256, learning rate 3e-4: one environment with an update a step, of which an item of Lightning's
loop carries 1 or 16, and 16 environments with 8 updates a round of 16 steps. The trainer's share is what the same items
take less when they are called one after another in a bare loop, in the same process, without Lightning's loops,
callbacks and loggers. On a GPU the replay memory lies there, and SBX, whose JAX comes for the CPU alone, is left out.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from contest import Bare, Contest, Training, Work, machine, markdown, ratio, save

WARM_UP = 1008
SIZES = ((1, 1, 1, 1), (1, 1, 1, 16), (16, 16, 8, 1))  # environments, steps and updates a round, rounds an item


def ours(
    num_envs: int, train_freq: int, gradient_steps: int, rounds_per_item: int, compile: bool, accelerator: str
) -> Training:
    """`SACModule` under ``Trainer.fit``."""
    from lightning_rl import SACModule

    module = SACModule(
        num_envs=num_envs,
        train_freq=train_freq,
        gradient_steps=gradient_steps,
        rounds_per_item=rounds_per_item,
        learning_starts=WARM_UP,
        buffer_size=320_000,
        compile=compile,
        memory_on_device=accelerator == "gpu",
        steps_per_epoch=10_000_000 * train_freq * rounds_per_item,
    )
    per_item = train_freq * rounds_per_item
    return Training(
        module,
        log_every_n_steps=1_000 // rounds_per_item,
        warm_up=WARM_UP // per_item + 1,
        accelerator=accelerator,
    )


def stable_baselines(
    library: str, num_envs: int, train_freq: int, gradient_steps: int, rounds_per_item: int, device: str = "cpu"
) -> Work:
    """Stable-Baselines3's or SBX's ``learn``, which goes on where it stopped."""
    from stable_baselines3.common.env_util import make_vec_env

    if library == "sb3":
        from stable_baselines3 import SAC
    else:
        from sbx import SAC
    settings: dict[str, Any] = {"device": device} if library == "sb3" else {}
    model = SAC(
        "MlpPolicy",
        make_vec_env("BipedalWalker-v3", num_envs),
        batch_size=256,
        buffer_size=320_000,
        learning_starts=WARM_UP,
        train_freq=train_freq // num_envs,
        gradient_steps=gradient_steps,
        policy_kwargs={"net_arch": [256, 256]},
        **settings,
    )
    model.learn(WARM_UP + train_freq)

    def work(items: int) -> None:
        model.learn(items * rounds_per_item * train_freq, reset_num_timesteps=False)

    return work


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the files to write, without their extension")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    arguments = parser.parse_args()
    accelerator, on_cpu = arguments.accelerator, arguments.accelerator == "cpu"
    results = []
    for size in SIZES:
        steps = size[1] * size[3]
        contest = Contest(
            {
                "compiled": (ours, (*size, True, accelerator)),
                "compiled, bare loop": Bare("compiled"),
                "eager": (ours, (*size, False, accelerator)),
                **({"SBX": (stable_baselines, ("sbx", *size))} if on_cpu else {}),
                "SB3": (stable_baselines, ("sb3", *size, "cpu" if on_cpu else "cuda")),
            },
            arguments.seconds,
        )
        rates = contest.rates(arguments.rounds)
        contest.close()
        results.append(
            {
                **dict(zip(("num_envs", "train_freq", "gradient_steps", "rounds_per_item"), size, strict=True)),
                "steps_per_second": {name: round(statistics.median(r) * steps, 1) for name, r in rates.items()},
                "compiled_to": {name: ratio(rates, "compiled", name) for name in rates if name != "compiled"},
                "trainers_share": round(1 - ratio(rates, "compiled", "compiled, bare loop"), 3),
                "preparation_s": contest.preparation,
                "rounds": {name: [round(rate * steps, 1) for rate in r] for name, r in rates.items()},
            }
        )
    names = list(results[0]["steps_per_second"])
    libraries = [name for name in ("SBX", "SB3") if name in names]
    sizes = ["environments", "updates a round", "rounds an item"]
    table = markdown(
        [*sizes, *(f"{name}, steps/s" for name in names), *(f"to {name}" for name in libraries), "trainer"],
        [
            [
                r["num_envs"],
                r["gradient_steps"],
                r["rounds_per_item"],
                *(r["steps_per_second"][name] for name in names),
                *(r["compiled_to"][name] for name in libraries),
                f"{r['trainers_share']:.1%}",
            ]
            for r in results
        ],
    )
    save(arguments.output, {"results": results, "machine": machine()}, table)


if __name__ == "__main__":
    main()
