"""Environments in processes of their own that die, hang or raise."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from lightning.pytorch import Trainer, seed_everything

from lightning_rl import SACModule, TRPOModule
from lightning_rl.environments import EnvironmentLostError, EnvironmentSpec, GymnasiumEnvironments, TrainingSeeds
from lightning_rl.experience import Collector

MakeTrainer = Callable[..., Trainer]
# Gymnasium tells the traceback of a worker's exception as a warning.
pytestmark = pytest.mark.filterwarnings("ignore:.*(Received the following error|Traceback|Raising the last exception)")

FAILED_BEFORE = Path("failed_before")  # in the test's own folder: processes that are made again know it too


class Fragile(gym.Env):
    """Walks by its actions and by chance for 30 steps; an action above 0.9, or a chance, brings its end.

    With a chance, the first episode of a test to have ten steps ends after them, so that no test waits for luck.
    """

    observation_space = Box(-np.inf, np.inf, (3,))
    action_space = Box(-1, 1, (1,))

    def __init__(self, end: str = "dies", chance: float = 0.0) -> None:
        self.end, self.chance = end, chance
        self.luck = np.random.default_rng()  # of this process: a repeated episode does not fail again

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.place, self.episode = 0, 0.0, float(self.np_random.integers(1_000_000))
        self._perhaps(self.chance / 10)
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        first = self.chance > 0 and self.t == 10 and not FAILED_BEFORE.exists()
        if first:
            FAILED_BEFORE.touch()
        self._perhaps(1.0 if first or action[0] > 0.9 else self.chance)
        self.t += 1
        self.place += float(action[0]) + 0.1 * self.np_random.normal()
        return self._look(), self.place, self.t == 30, False, {}

    def _perhaps(self, chance: float) -> None:
        if self.luck.random() < chance:
            end = self.end if self.end != "any" else self.luck.choice(["dies", "raises"])
            if end == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "hangs":
                time.sleep(600)
            raise RuntimeError("out of luck")

    def _look(self) -> np.ndarray:
        return np.float32([self.t, self.place, self.episode])


def collector(num_envs: int, restarts: bool = False, **settings: Any) -> Collector:
    spec = EnvironmentSpec(partial(Fragile, **settings))
    return Collector(
        lambda: GymnasiumEnvironments(spec, num_envs, "async", timeout=1.0), TrainingSeeds(0, 0), num_envs, restarts
    )


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("dies", "ended with exit code -9"),
        ("hangs", "did not answer within 1.0 seconds"),
        ("raises", "raised RuntimeError: out of luck"),
    ],
)
def test_a_fault_is_noticed_in_time_and_told_with_index_seed_and_action(end: str, reason: str) -> None:
    collected = collector(3, end=end)
    collected.open()
    collected.step(np.zeros((3, 1), dtype=np.float32))
    begun = time.monotonic()
    with pytest.raises(EnvironmentLostError) as caught:
        collected.step(np.array([[0.5], [1.0], [0.25]], dtype=np.float32))
    assert time.monotonic() - begun < 5
    told = f"environment 1 (episode seed {TrainingSeeds(0, 0)(1, 0)}, at step 2, with the action [1.0]) {reason}"
    assert str(caught.value) == told
    collected.close()
    assert collected.steps == 3  # none took the step


@pytest.mark.parametrize("end", ["dies", "hangs", "raises"])
def test_the_others_go_on_where_they_were(end: str) -> None:
    """Against the same walk of environments that nothing befalls."""
    collected, sound = collector(2, restarts=True, end=end), collector(2)
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (8, 2, 1)).astype(np.float32)
    for each in (collected, sound):
        each.open()
        for action in actions[:4]:
            each.step(action)
    with pytest.raises(EnvironmentLostError) as caught:
        collected.step(np.array([[1.0], [0.1]], dtype=np.float32))
    with pytest.warns(UserWarning, match="environment 0 .* is made again; the other episodes go on"):
        assert collected.recover(caught.value).tolist() == [True, False]
    assert collected.lengths.tolist() == [0, 4]
    assert (collected.observation[1] == sound.observation[1]).all()
    for action in actions[4:]:
        assert (collected.step(action).observation[1] == sound.step(action).observation[1]).all()
    collected.close()
    sound.close()


def test_ten_faults_without_a_step_end_the_run() -> None:
    collected = collector(1, restarts=True, chance=10.0)  # in every reset
    with pytest.raises(EnvironmentLostError) as caught:
        collected.open()
    with pytest.warns(UserWarning, match="made again"), pytest.raises(EnvironmentLostError, match="exit code -9"):
        collected.recover(caught.value)
    collected.close()


def test_training_stops_with_a_checkpoint_and_goes_on_from_it(small_sac: Any, quiet_trainer: MakeTrainer) -> None:
    settings = {"backend": "async", "max_episode_steps": 1000, "learning_starts": 1000, "buffer_size": 2000}
    seed_everything(1)  # with which it does not happen in the first step
    doomed: SACModule = small_sac(env="test_faults.Fragile", **settings)
    with pytest.raises(EnvironmentLostError, match="with the action"):
        quiet_trainer(max_epochs=50, default_root_dir="run", logger=False).fit(
            doomed
        )  # actions are uniform until it happens
    steps = doomed.environment_steps
    [last] = list(Path("run").rglob("last.ckpt"))
    assert torch.load(last, weights_only=True)["lightning_rl"]["environment_steps"] == steps > 0
    resumed: SACModule = small_sac(env="test_faults.Fragile", **settings)
    with pytest.raises(EnvironmentLostError):
        quiet_trainer(max_epochs=50, default_root_dir="run", logger=False).fit(resumed, ckpt_path=last)
    assert resumed.environment_steps > steps


def recorded(module: SACModule | TRPOModule) -> list[tuple[np.ndarray, ...]]:
    """Every transition that the environments returned, as they returned it."""
    seen: list[tuple[np.ndarray, ...]] = []
    make = module.make_experience

    def watched(run_seed: int) -> Any:
        experience = make(run_seed)
        step = experience.collector.step

        def watch(actions: np.ndarray) -> Any:
            before = experience.collector.observation.copy()
            taken = step(actions)
            seen.append((before, actions.copy(), taken.reward, taken.observation.copy()))
            return taken

        experience.collector.step = watch
        return experience

    module.make_experience = watched
    return seen


@pytest.mark.parametrize("chance", [0.01])
def test_no_wrong_transition_reaches_the_buffer(small_sac: Any, quiet_trainer: MakeTrainer, chance: float) -> None:
    module: SACModule = small_sac(
        env="test_faults.Fragile",
        env_kwargs={"end": "any", "chance": chance},
        backend="async",
        restart_envs=True,
        env_timeout=5.0,
        max_episode_steps=1000,
        learning_starts=2000,
        buffer_size=2000,
        steps_per_epoch=640,
    )
    # Faults are by chance alone: the actions stay below what breaks.
    original = module.environment_units
    module.environment_units = lambda action: original(action * 0.9)
    seen = recorded(module)
    with pytest.warns(UserWarning, match="made again"):
        quiet_trainer(max_epochs=1, limit_val_batches=0, enable_checkpointing=False).fit(module)
    assert len(seen) == 320
    buffer = module.experience.buffer
    rows = torch.arange(320)
    following = torch.where(
        (buffer.ending[:320] >= 0).unsqueeze(-1),
        buffer.last_observation[buffer.ending[:320].clamp(min=0).long() % len(buffer.last_observation)],
        buffer.observation[rows + 1],
    )
    for row, (before, action, reward, after) in enumerate(seen):
        assert (buffer.observation[row].numpy() == before).all()
        np.testing.assert_allclose(buffer.action[row].numpy() * 0.9, action, rtol=1e-6)
        assert (buffer.reward[row].numpy() == reward).all()
        assert (following[row].numpy() == after).all()
    # Within an episode every step follows the one before; what was given up ends with a time limit, not a terminal.
    for row in range(319):
        goes_on = buffer.ending[row].numpy() < 0
        assert (seen[row][3][goes_on] == seen[row + 1][0][goes_on]).all()
        assert (seen[row + 1][0][~goes_on][:, 0] == 0).all()
    given_up = (buffer.ending[:320] >= 0) & (buffer.observation[:320, :, 0] < 29)
    assert given_up.any()
    assert not buffer.terminated[:320][given_up].any()


def test_a_rollout_bootstraps_where_an_episode_was_given_up(small_trpo: Any, quiet_trainer: MakeTrainer) -> None:
    module: TRPOModule = small_trpo(
        env="test_faults.Fragile",
        env_kwargs={"end": "any", "chance": 0.01},
        backend="async",
        restart_envs=True,
        env_timeout=5.0,
        max_episode_steps=1000,
    )
    original = module.environment_units
    module.environment_units = lambda action: original(action).clip(-0.9, 0.9)
    seen = recorded(module)
    checked: list[int] = []
    estimate = module.estimate

    def watch(reward: torch.Tensor, value: Any, next_value: torch.Tensor, terminated: Any, ended: torch.Tensor) -> Any:
        rows = seen[-16:]
        after = torch.from_numpy(np.stack([row[3] for row in rows]))
        torch.testing.assert_close(next_value, module.value_of(after, torch.zeros(16, 2)), rtol=1e-5, atol=1e-6)
        given_up = ended & (after[..., 0] < 30)
        assert not terminated[given_up].any()
        checked.append(int(given_up.sum()))
        return estimate(reward, value, next_value, terminated, ended)

    module.estimate = watch
    with pytest.warns(UserWarning, match="made again"):
        quiet_trainer(max_epochs=1, limit_val_batches=0, enable_checkpointing=False).fit(module)
    assert len(checked) == 10
    assert sum(checked) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_timeout": 0}, "env_timeout=0: a number in "),
        ({"restart_envs": True}, "restart_envs=True and backend='sync'"),
    ],
)
def test_message(small_sac: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_sac(**settings)
