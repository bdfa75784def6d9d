"""What cannot work is refused when the module is made, with a message that says what to change."""

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from lightning.pytorch import Trainer

from lightning_rl import FaultyEnvironmentError, SACModule

SAC = Callable[..., SACModule]


class Toy(gym.Env[np.ndarray, np.ndarray]):
    """An environment with any spaces, which can turn bad at a step."""

    def __init__(
        self,
        observation_space: gym.Space[Any] | None = None,
        action_space: gym.Space[Any] | None = None,
        bad_step: int = -1,
        bad: Any = None,
    ) -> None:
        self.observation_space = observation_space or Box(-1, 1, (3,))
        self.action_space = action_space or Box(-1, 1, (2,))
        self.bad_step, self.bad = bad_step, bad
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation = np.zeros(self.observation_space.shape, np.float32)
        return (self.bad if self.steps == self.bad_step else observation), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"env": "BipedalStroller-v3"}, ValueError, "BipedalStroller-v3.*Gymnasium knows"),
        ({"env": "CartPole-v1"}, TypeError, "CartPole-v1.*Discrete.*TRPO"),
        ({"env_kwargs": {"action_space": Box(-math.inf, math.inf, (2,))}}, ValueError, "unbounded.*TransformAction"),
        ({"env_kwargs": {"observation_space": gym.spaces.Dict(a=Box(0, 1))}}, TypeError, "Dict.*FlattenObservation"),
        ({"max_episode_steps": None}, ValueError, "no limit.*max_episode_steps"),
        ({"action_repeat": 0}, ValueError, "action_repeat=0: an integer of at least 1"),
        ({"backend": "threads"}, ValueError, "'sync', 'async' or 'envpool'"),
        ({"gamma": 1.5}, ValueError, r"gamma=1.5: a number in \[0, 1\]"),
        ({"tau": -0.1}, ValueError, r"tau=-0.1: a number in \[0, 1\]"),
        ({"noise_correlation": 1.0}, ValueError, r"noise_correlation=1.0: a number in \[0, 1\)"),
        ({"alpha": "automatic"}, ValueError, "alpha='automatic': a number or 'auto'"),
        ({"hidden_sizes": (16, -5)}, ValueError, "hidden_sizes=-5: an integer of at least 1"),
        ({"env_kwargs": {"action_space": gym.spaces.MultiBinary(2)}}, TypeError, "MultiBinary.*wrap the environment"),
        ({"alpha": -1.0}, ValueError, r"alpha=-1.0: a number in \[0, inf\)"),
        ({"batch_size": 0}, ValueError, "batch_size=0: an integer of at least 1"),
        ({"buffer_size": -5}, ValueError, "buffer_size=-5: an integer of at least 1"),
        ({"gradient_steps": -2}, ValueError, "gradient_steps=-2: an integer of at least -1"),
        ({"num_envs": 0}, ValueError, "num_envs=0: an integer of at least 1"),
        ({"learning_starts": 500}, ValueError, "learning_starts=500 is beyond buffer_size=400"),
        ({"train_freq": 3}, ValueError, r"train_freq=3: a multiple of num_envs \(2\).*nearest is 4"),
        ({"buffer_size": 401}, ValueError, r"buffer_size=401: a multiple of num_envs \(2\)"),
        ({"learning_starts": 31}, ValueError, r"learning_starts=31: a multiple of num_envs \(2\)"),
    ],
)
def test_message(small_sac: SAC, overrides: dict[str, Any], error: type[Exception], message: str) -> None:
    settings = {"env": Toy, **overrides} if "env" not in overrides else overrides
    with pytest.raises(error, match=message):
        small_sac(**settings)


def test_an_epoch_that_is_no_whole_number_of_rounds(small_sac: SAC, quiet_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(ValueError, match=r"steps_per_epoch=150: a multiple of .* \(16\).*nearest is 144"):
        quiet_trainer(max_epochs=1).fit(small_sac(steps_per_epoch=150))


@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")  # how Gymnasium passes a worker's traceback on
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("bad", "what"),
    [(np.array([0, math.nan, 0], np.float32), "nan at index 1"), (np.zeros(4, np.float32), r"shape \(4,\).*\(3,\)")],
)
def test_a_faulty_environment_is_named_and_nothing_of_it_is_kept(
    small_sac: SAC, quiet_trainer: Callable[..., Trainer], backend: str, bad: np.ndarray, what: str
) -> None:
    module = small_sac(env=Toy, env_kwargs={"bad_step": 7, "bad": bad}, backend=backend)
    with pytest.raises(FaultyEnvironmentError, match=rf"Toy \(episode seed \d+, step 7\) returned .*{what}"):
        quiet_trainer(max_epochs=1).fit(module)
    assert module.experience.buffer.size == 12  # six steps of two environments
    assert module.experience.buffer.observation.isfinite().all()


@pytest.mark.parametrize(
    ("low", "high"), [(np.array([-1.0, 2.0]), np.array([3.0, 2.5])), (np.array([-500.0, 0.0]), np.array([500.0, 0.01]))]
)
def test_actions_arrive_in_the_environments_units(
    small_sac: SAC, quiet_trainer: Callable[..., Trainer], low: np.ndarray, high: np.ndarray
) -> None:
    space = Box(low.astype(np.float32), high.astype(np.float32))
    module = small_sac(env=Toy, env_kwargs={"action_space": space}, learning_starts=64)
    taken = []
    step = Toy.step

    def watch(self: Toy, action: np.ndarray) -> Any:
        taken.append(action)
        return step(self, action)

    Toy.step = watch
    try:
        quiet_trainer(max_epochs=1).fit(module)
    finally:
        Toy.step = step
    assert all(space.contains(action) for action in taken)
    spread = np.ptp(np.stack(taken[:64]), axis=0) / (high - low)  # uniformly random ones fill the bounds
    assert (spread > 0.8).all()
    many = np.stack([module.observation_space.sample() for _ in range(4)])
    assert module.act(many).shape == (4, 2)
    assert space.contains(module.act(many[0]))
    assert space.contains(module.act(many[0], deterministic=False))
    with pytest.raises(ValueError, match=r"shape \(3,\).*given array has shape \(2,\)"):
        module.act(np.zeros(2))
