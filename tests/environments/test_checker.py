from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Tuple

from lightning_rl import check_environment
from lightning_rl.cli import main


class Walk(gym.Env[Any, Any]):
    """A random walk in which each of the faults can be switched on."""

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault
        self.observation_space = Box(-100, 100, (2,)) if fault != "dict" else Dict({"x": Box(-100, 100, (2,))})
        self.action_space = {
            "unbounded": Box(-np.inf, np.inf, (1,)),
            "integers": Box(0, 3, (1,), dtype=np.int64),
            "tuple": Tuple([Box(-1, 1, (1,))]),
        }.get(fault, Box(-1, 1, (1,)))
        self.x = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if self.fault != "forgetful":
            self.x = np.zeros(2)
        return self.x.astype(np.float32), {}

    def step(self, action: Any) -> Any:
        random = np.random.default_rng() if self.fault == "unseeded" else self.np_random
        if self.fault == "broken":
            _ = 1 / 0
        self.x = self.x + 0.01 * random.normal(size=2)
        observation = self.x.astype(np.float32) + (1000 if self.fault == "outside" else 0)
        reward = np.nan if self.fault == "nan" else 1.0
        return observation, reward, False, False, {}


def test_a_sound_environment_has_no_problems() -> None:
    assert check_environment(Walk, max_episode_steps=20) == []
    assert check_environment("Pendulum-v1") == []
    assert check_environment("CartPole-v1") == []
    assert check_environment("BipedalWalker-v3", steps=50) == []
    assert check_environment(Walk, {"fault": "unbounded"}, max_episode_steps=20) == []  # TRPO's


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("dict", "wrap the environment in gymnasium.wrappers.FlattenObservation"),
        ("integers", "SAC learns in Box of real numbers"),
        ("tuple", "SAC learns in Box of real numbers"),
        ("outside", "outside its space's bounds -100.0 to 100.0"),
        ("nan", "returned the reward nan"),
        ("broken", "raised ZeroDivisionError in a random episode"),
        ("unseeded", "draw random numbers from self.np_random alone"),
        ("forgetful", "let reset set everything that step changes"),
    ],
)
def test_each_fault_is_told_of_with_what_to_change(fault: str, said: str) -> None:
    [problem] = check_environment(Walk, {"fault": fault}, max_episode_steps=20)
    assert said in problem
    assert "Walk" in problem


def test_a_missing_time_limit_is_told_of() -> None:
    [problem] = check_environment(Walk)
    assert "give max_episode_steps" in problem


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "Pendulum-v1"])
    assert "Pendulum-v1 can be learned in by SAC and TRPO" in capsys.readouterr().out
    main(["check", "CartPole-v1"])
    assert "CartPole-v1 can be learned in by TRPO, and" in capsys.readouterr().out
    path = f"{Walk.__module__}.Walk"
    with pytest.raises(SystemExit) as left:
        main(["check", path, "--env_kwargs", '{"fault": "forgetful"}', "--max_episode_steps", "5"])
    assert left.value.code == 1
    assert "let reset set everything" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["check", "Nonesuch-v0"])
    assert left.value.code == 2
    assert "is not an environment that Gymnasium knows" in capsys.readouterr().err
