"""Lets environments die, hang and raise while SAC trains, and checks its buffer against a recording.

    python benchmarks/inject_faults.py results/inject-faults.json --faults 1000

Each environment process writes what it did to a file of its own, before it answers. A transition is right if an
environment did exactly it, and an episode's transitions follow one another.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_rl import SACModule

STEPS = 50


class Unreliable(gym.Env[Any, Any]):
    """Walks by its actions and by chance; every step may be its process's last."""

    observation_space = Box(-np.inf, np.inf, (3,))
    action_space = Box(-1, 1, (1,))

    def __init__(self, record: str, chance: float) -> None:
        self.record, self.chance = Path(record), chance
        self.luck = random.Random()  # of this process: a repeated episode does not fail again

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode, which its observations name."""
        super().reset(seed=seed)
        self.t, self.place, self.episode = 0, 0.0, float(self.np_random.integers(2**20))
        return self._look(), {}

    def step(self, action: Any) -> Any:
        """Takes a step, or fails."""
        if self.luck.random() < self.chance:
            self._fail(self.luck.choices(["dies", "raises", "hangs"], [10, 10, 1])[0])
        before = self._look()
        self.t += 1
        self.place += float(action[0]) + 0.1 * self.np_random.normal()
        with (self.record / f"{os.getpid()}.txt").open("a") as file:
            file.write(json.dumps([before.tolist(), float(action[0]), self.place, self._look().tolist()]) + "\n")
        return self._look(), self.place, self.t == STEPS, False, {}

    def _fail(self, how: str) -> None:
        with (self.record / "faults.txt").open("a") as file:
            file.write(how + "\n")
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hangs":
            time.sleep(3600)
        raise RuntimeError("out of luck")

    def _look(self) -> Any:
        return np.array([self.t, self.place, self.episode], dtype=np.float32)


def key(before: Any, action: float, reward: float, after: Any) -> tuple[Any, ...]:
    """A transition as float32 has it."""
    numbers = [*before, action, reward, *after]
    return tuple(np.asarray(numbers, dtype=np.float32).tolist())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--faults", type=int, default=1000)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    seed_everything(0)
    with tempfile.TemporaryDirectory() as record:
        per_item, chance = 64, 0.002
        module = SACModule(
            env=Unreliable,
            env_kwargs={"record": record, "chance": chance},
            num_envs=4,
            backend="async",
            max_episode_steps=1000,
            env_timeout=1.0,
            restart_envs=True,
            hidden_sizes=(16,),
            batch_size=32,
            buffer_size=1_000_000,  # more than it lives through: `check` reads rows in their order
            learning_starts=64,
            train_freq=per_item,
            gradient_steps=1,
            steps_per_epoch=per_item * 16,
        )
        trainer: Trainer | None = None
        begun = time.perf_counter()

        class Enough(Callback):
            def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
                file = Path(record) / "faults.txt"
                trainer.should_stop = file.exists() and len(file.read_text().splitlines()) >= arguments.faults

        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            limit_val_batches=0,
            callbacks=[Enough()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module)
        done = Counter((Path(record) / "faults.txt").read_text().splitlines())
        lived = {
            key(*json.loads(line)) for file in Path(record).glob("[0-9]*.txt") for line in file.read_text().splitlines()
        }
        assert module.experience is not None
        result = {"faults": dict(done), **check(module.experience.buffer, lived)}
    result["seconds"] = round(time.perf_counter() - begun)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def check(buffer: Any, lived: set[tuple[Any, ...]]) -> dict[str, int]:
    """How many transitions the buffer holds, and how many of them are wrong."""
    assert buffer.size < (buffer.rows - 1) * buffer.num_envs, "the ring has begun anew"
    wrong = broken = cut = 0
    for row in range(buffer.size // buffer.num_envs):
        for env in range(buffer.num_envs):
            ending = int(buffer.ending[row, env])
            after = buffer.observation[row + 1, env]
            if ending >= 0:
                after = buffer.last_observation[ending % len(buffer.last_observation)]
            before, action = buffer.observation[row, env], float(buffer.action[row, env, 0])
            reward = float(buffer.reward[row, env])
            wrong += key(before.tolist(), action, reward, after.tolist()) not in lived
            follows = bool(after[2] == before[2] and after[0] == before[0] + 1)
            terminated = bool(buffer.terminated[row, env])
            broken += not follows or terminated != bool(after[0] == STEPS)
            cut += ending >= 0 and not terminated
    return {"transitions": int(buffer.size), "not_lived": wrong, "not_connected": broken, "episodes_given_up": cut}


if __name__ == "__main__":
    main()
