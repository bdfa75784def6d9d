import os
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.spaces import Box

from lightning_rl.environments import EnvironmentSpec, EnvPoolEnvironments, FaultyEnvironmentError
from lightning_rl.environments.envpool import worker_threads
from lightning_rl.environments.single import spaces

pytest.importorskip("envpool")
ALL = np.ones(3, dtype=bool)


def pendulums(limit: int = 5) -> EnvPoolEnvironments:
    spec = EnvironmentSpec("Pendulum-v1", max_episode_steps=limit)
    return make(spec)


def make(spec: EnvironmentSpec, num_envs: int = 3) -> EnvPoolEnvironments:
    observation_space, _, limit = spaces(spec)
    return EnvPoolEnvironments(spec, observation_space, num_envs, limit)


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
    environments = make(EnvironmentSpec("CartPole-v1"))
    environments.reset([1, 2, 3], ALL)
    for _ in range(60):
        step = environments.step(np.zeros(3, dtype=np.int64))
        if step.terminated.any():
            break
    assert step.terminated.any()
    assert not step.truncated.any()
    assert (np.abs(step.observation[step.terminated][:, 2]) > 0.2).all()  # the pole has fallen


def test_a_pole_that_falls_in_the_last_step_of_the_limit_has_fallen() -> None:
    environments = make(EnvironmentSpec("CartPole-v1", max_episode_steps=10), 16)
    environments.reset(list(range(16)), np.ones(16, dtype=bool))
    running = np.ones(16, dtype=bool)
    for _ in range(10):
        step = environments.step(np.ones(16, dtype=np.int64))
        fallen = np.abs(step.observation[:, 2]) > 12 * np.pi / 180
        assert (step.terminated[running] == fallen[running]).all()
        last, running = running, running & ~step.terminated
    assert step.terminated[last].any()  # in the very last step
    assert step.truncated[running].all()
    assert not step.truncated[step.terminated].any()
    # What was cut begins anew, and its limit with it.
    environments.reset([0] * 16, step.terminated | step.truncated)
    assert not environments.step(np.zeros(16, dtype=np.int64)).truncated.any()


def test_a_repeated_action_is_held_until_each_episode_ends() -> None:
    everywhere, push = np.ones(16, dtype=bool), np.ones(16, dtype=np.int64)
    repeated, plain = (
        make(EnvironmentSpec("CartPole-v1", action_repeat=3), 16),
        make(EnvironmentSpec("CartPole-v1"), 16),
    )
    for environments in (repeated, plain):
        environments.reset(list(range(16)), everywhere)
    ends = set()
    running = everywhere
    while running.any():
        step = repeated.step(push)
        expected, reward = np.zeros((16, 4)), np.zeros(16)
        for held in range(3):
            one = plain.step(push)
            expected[running], reward[running] = one.observation[running], reward[running] + 1
            if (running & one.terminated).any():
                ends.add(held)
            running = running & ~one.terminated
        alive = reward > 0
        np.testing.assert_array_equal(step.observation[alive], expected[alive])
        np.testing.assert_array_equal(step.reward[alive], reward[alive])
        np.testing.assert_array_equal(~step.terminated[alive], running[alive])
    assert ends == {0, 1, 2}  # some fell in the middle of an action


def test_a_limit_breaks_a_repeated_action_off() -> None:
    both, zeros = np.ones(2, dtype=bool), np.zeros((2, 1), dtype=np.float32)
    repeated, plain = (make(EnvironmentSpec("Pendulum-v1", action_repeat=times), 2) for times in (3, 1))
    for environments in (repeated, plain):
        environments.reset([0, 1], both)
    for held in [3] * 66 + [2]:  # 200 steps
        step = repeated.step(zeros)
        steps = [plain.step(zeros) for _ in range(held)]
        np.testing.assert_array_equal(step.observation, steps[-1].observation)
        np.testing.assert_allclose(step.reward, sum(one.reward for one in steps), rtol=1e-6)
        assert (step.truncated == (held == 2)).all()
    assert not repeated.step(zeros).truncated.any()  # a new episode


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
    environments = EnvPoolEnvironments(EnvironmentSpec("Pendulum-v1"), Box(-1, 1, (2,)), 3, None)
    environments._make = lambda seeds: pool

    def use() -> None:
        environments.reset([0, 0, 0], ALL)
        environments.step(np.zeros((3, 1)))
        environments.reset([0, 0, 0], ALL)

    with pytest.raises(FaultyEnvironmentError, match=r"EnvPool's Pendulum-v1 \(environment 2, .* is not finite"):
        use()


def test_where_all_cores_are_to_be_used_each_has_a_thread_bound_to_it() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) != os.cpu_count() or len(cores) == 1:
        pytest.skip("this process has one core alone, or the machine has others")
    before = set(os.listdir("/proc/self/task"))
    environments = make(EnvironmentSpec("Pendulum-v1", max_episode_steps=5), num_envs=len(cores))
    environments.reset(range(len(cores)), np.ones(len(cores), dtype=bool))
    threads = set(os.listdir("/proc/self/task")) - before
    # Beside those that step, EnvPool has one that makes room for what they return.
    allowed = [os.sched_getaffinity(int(thread)) for thread in threads]
    assert sorted(core for only in allowed if len(only) == 1 for core in only) == cores
    assert os.sched_getaffinity(0) == set(cores)
    environments.close()


def test_threads_are_not_bound_to_cores_that_others_may_use() -> None:
    machine = {0, 1, 2, 3}
    assert worker_threads(64, machine, 4, ranks=1) == {"num_threads": 4, "thread_affinity_offset": 0}
    assert worker_threads(64, machine, 4, ranks=2) == {"num_threads": 6}
    assert worker_threads(64, {2, 3}, 4, ranks=1) == {"num_threads": 3}  # this process has two of four cores
    assert worker_threads(64, {2, 3}, 2, ranks=1) == {"num_threads": 3}  # where this process's cores are counted
    assert worker_threads(64, {0}, None, ranks=1) == {"num_threads": 1}
    assert worker_threads(3, machine, 4, ranks=1) == {"num_threads": 3}  # which would crowd upon the first three
