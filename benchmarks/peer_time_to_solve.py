"""Stable-Baselines3's SAC on BipedalWalker-v3 with its published settings, until an evaluation reaches a return.

    python benchmarks/peer_time_to_solve.py results/sb3-time_to_300.json --stop_at 300 --minutes 30

The settings are those of the Stable-Baselines3 Zoo. As in learn.py's runs, greedy episodes follow every 10,000 steps
(ten of them), the minutes count from the process's start, evaluations included, and the policy is tested on 100 fresh
episodes in the end. A run that is not good enough within the minutes says how far it came.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from contest import machine
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

ENVIRONMENT = "BipedalWalker-v3"
SETTINGS: dict[str, Any] = {
    "learning_rate": 7.3e-4,
    "buffer_size": 300_000,
    "batch_size": 256,
    "ent_coef": "auto",
    "gamma": 0.98,
    "tau": 0.02,
    "train_freq": 64,
    "gradient_steps": 64,
    "learning_starts": 10_000,
    "use_sde": True,
    "policy_kwargs": {"log_std_init": -3, "net_arch": [400, 300]},
}


class Watch(BaseCallback):
    """Evaluates, and ends the run once it is good enough or its time is up."""

    def __init__(self, begun: float, every: int, stop_at: float, minutes: float) -> None:
        super().__init__()
        self.begun, self.every, self.stop_at, self.minutes = begun, every, stop_at, minutes
        self.environment = make_vec_env(ENVIRONMENT, 1, seed=10_000)
        self.curve: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        spent = (time.perf_counter() - self.begun) / 60
        if self.num_timesteps % self.every:
            return spent < self.minutes
        mean, spread = evaluate(self.model, self.environment, 10)
        self.curve.append(
            {"step": self.num_timesteps, "minutes": round(spent, 2), "return": round(mean, 1), "std": round(spread, 1)}
        )
        print(self.curve[-1], flush=True)
        return mean < self.stop_at and spent < self.minutes


def evaluate(model: Any, environment: Any, episodes: int) -> tuple[float, float]:
    """Mean and standard deviation of greedy episodes' returns."""
    returns, _ = evaluate_policy(model, environment, episodes, deterministic=True, return_episode_rewards=True)
    return float(np.mean(returns)), float(np.std(returns))


def main() -> None:
    """The command."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop_at", type=float, default=300.0)
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    model = SAC("MlpPolicy", make_vec_env(ENVIRONMENT, 1, seed=arguments.seed), seed=arguments.seed, **SETTINGS)
    watch = Watch(begun, 10_000, arguments.stop_at, arguments.minutes)
    model.learn(10_000_000, callback=watch)
    minutes = (time.perf_counter() - begun) / 60
    result = {
        "seed": arguments.seed,
        "solved": bool(watch.curve) and watch.curve[-1]["return"] >= arguments.stop_at,
        "minutes": round(minutes, 1),
        "steps": model.num_timesteps,
        "test": evaluate(model, make_vec_env(ENVIRONMENT, 1, seed=20_000), 100),
        "curve": watch.curve,
        "machine": machine(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "curve"}, indent=2))


if __name__ == "__main__":
    main()
