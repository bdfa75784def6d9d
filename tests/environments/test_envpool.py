from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.spaces import Box

from lightning_rl.environments import EnvironmentSpec, EnvPoolEnvironments, FaultyEnvironmentError
from lightning_rl.environments.single import spaces

pytest.importorskip("envpool")
ALL = np.ones(3, dtype=bool)


def pendulums(limit: int = 5) -> EnvPoolEnvironments:
    spec = EnvironmentSpec("Pendulum-v1", max_episode_steps=limit)
    return EnvPoolEnvironments(spec, spaces(spec)[0], 3)


def test_what_follows_an_end_is_the_true_last_observation_and_resets_are_explicit() -> None:
    environments = pendulums(limit=5)
    first = environments.reset([1, 2, 3], ALL)
    assert np.allclose(np.hypot(first[:, 0], first[:, 1]), 1)
    for _ in range(5):
        before = environments._observation
        step = environments.step(np.zeros((3, 1), dtype=np.float32))
    assert step.truncated.all()
    assert not step.terminated.any()
    # A pendulum's angle moves by its new speed times 0.05: the last observation follows from the one before.
    angle = np.arctan2(before[:, 1], before[:, 0]) + 0.05 * step.observation[:, 2]
    np.testing.assert_allclose(step.observation[:, 0], np.cos(angle), atol=1e-4)
    only_second = np.array([False, True, False])
    after = environments.reset([0, 0, 0], only_second)
    assert (after[only_second] != step.observation[only_second]).any()
    assert (after[~only_second] == step.observation[~only_second]).all()


def test_the_first_seeds_are_those_of_the_environments() -> None:
    one, same, other = (pendulums().reset(seeds, ALL) for seeds in ([1, 2, 3], [1, 2, 3], [1, 9, 3]))
    assert (one == same).all()
    assert (one[[0, 2]] == other[[0, 2]]).all()
    assert (one[1] != other[1]).any()


def test_a_termination_is_no_truncation() -> None:
    spec = EnvironmentSpec("CartPole-v1")
    environments = EnvPoolEnvironments(spec, spaces(spec)[0], 3)
    environments.reset([1, 2, 3], ALL)
    for _ in range(60):
        step = environments.step(np.zeros(3, dtype=np.int64))
        if step.terminated.any():
            break
    assert step.terminated.any()
    assert not step.truncated.any()
    assert (np.abs(step.observation[step.terminated][:, 2]) > 0.2).all()  # the pole has fallen


@pytest.mark.parametrize("when", ["first", "reset", "step"])
def test_numbers_that_are_not_finite_are_named(when: str) -> None:
    def observation(bad: bool, size: int = 3) -> np.ndarray:
        array = np.zeros((size, 2), dtype=np.float32)
        array[-1, 1] = np.nan if bad else 0
        return array

    pool = SimpleNamespace(
        reset=lambda where=None: (
            observation(when == "first") if where is None else observation(when == "reset", len(where)),
            {"env_id": where},
        ),
        step=lambda actions: (observation(when == "step"), np.zeros(3), ALL, ~ALL, {}),
    )
    environments = EnvPoolEnvironments(EnvironmentSpec("Pendulum-v1"), Box(-1, 1, (2,)), 3)
    environments._make = lambda seeds: pool

    def use() -> None:
        environments.reset([0, 0, 0], ALL)
        environments.step(np.zeros((3, 1)))
        environments.reset([0, 0, 0], ALL)

    with pytest.raises(FaultyEnvironmentError, match=r"EnvPool's Pendulum-v1 \(environment 2, .* is not finite"):
        use()
