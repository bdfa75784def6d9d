"""Whether EnvPool's BipedalWalker-v3 behaves as Gymnasium's: the returns of one policy in both.

    python benchmarks/envpool_dynamics.py results/trpo-bipedal_walker/seed-2/policy.ckpt results/envpool-dynamics.json

The policy samples its actions, so that episodes differ; 200 episodes each. A difference of the means is told beside its
standard error.
"""

import argparse
import json
import math
from pathlib import Path
from pydoc import locate

import numpy as np
import torch

from lightning_rl import RLModule
from lightning_rl.environments import TEST_SEEDS, EnvPoolEnvironments
from lightning_rl.evaluation import play

EPISODES, SIDE_BY_SIDE = 200, 50


@torch.no_grad()
def gymnasium_returns(module: RLModule) -> list[float]:
    """Returns of the test episodes."""
    environments = [module.environment.make_checked() for _ in range(SIDE_BY_SIDE)]
    returns: list[float] = []
    for start in range(0, EPISODES, SIDE_BY_SIDE):
        seeds = TEST_SEEDS[start : start + SIDE_BY_SIDE]
        episodes = play(environments, seeds, lambda observation: module.act(observation, deterministic=False))
        returns += [float(episode.rewards.sum()) for episode in episodes]
    return returns


@torch.no_grad()
def envpool_returns(module: RLModule) -> list[float]:
    """Returns of as many episodes of each environment: taking the first to end would favour short ones."""
    environments = EnvPoolEnvironments(module.environment, module.observation_space, SIDE_BY_SIDE, module.time_limit)
    observation = environments.reset(TEST_SEEDS[:SIDE_BY_SIDE], np.ones(SIDE_BY_SIDE, dtype=bool))
    running, returns = np.zeros(SIDE_BY_SIDE), [[] for _ in range(SIDE_BY_SIDE)]
    while min(map(len, returns)) < EPISODES // SIDE_BY_SIDE:
        step = environments.step(module.act(observation, deterministic=False))
        observation, running = step.observation, running + step.reward
        ended = step.terminated | step.truncated
        for index in np.flatnonzero(ended):
            returns[index].append(float(running[index]))
        running[ended] = 0
        if ended.any():
            observation = environments.reset([0] * SIDE_BY_SIDE, ended)
    return [value for each in returns for value in each[: EPISODES // SIDE_BY_SIDE]]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("output", type=Path, help="the JSON file to write")
    arguments = parser.parse_args()
    algorithm = locate(torch.load(arguments.policy, weights_only=True)["hyper_parameters"]["_class_path"])
    module = algorithm.load_from_checkpoint(arguments.policy, map_location="cpu")
    torch.manual_seed(0)
    returns = {"gymnasium": gymnasium_returns(module), "envpool": envpool_returns(module)}
    means = {name: float(np.mean(values)) for name, values in returns.items()}
    errors = {name: float(np.std(values, ddof=1)) / math.sqrt(EPISODES) for name, values in returns.items()}
    difference = means["envpool"] - means["gymnasium"]
    standard_error = math.hypot(*errors.values())
    result = {
        "episodes_each": EPISODES,
        "mean_return": {name: round(value, 2) for name, value in means.items()},
        "difference": round(difference, 2),
        "standard_error_of_the_difference": round(standard_error, 2),
        "agree_within_two_standard_errors": abs(difference) <= 2 * standard_error,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
