from typing import Literal

import numpy as np
import pytest

from lightning_rl.environments import EnvironmentSpec, GymnasiumEnvironments


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_observations_are_not_overwritten_by_the_next_ones(backend: Literal["sync", "async"]) -> None:
    environments = GymnasiumEnvironments(EnvironmentSpec("Pendulum-v1"), 2, backend)
    try:
        held = [environments.reset([1, 2], np.array([True, True]))]
        kept = [held[0].copy()]
        for number in range(3):
            step = environments.step(np.full((2, 1), 1.5, dtype=np.float32))
            held += [step.observation, step.reward, step.terminated, step.truncated]
            kept += [each.copy() for each in held[-4:]]
            if number == 1:
                held.append(environments.reset([3, 4], np.array([True, False])))
                kept.append(held[-1].copy())
        for array, copy in zip(held, kept, strict=True):
            np.testing.assert_array_equal(array, copy)
        assert len({each.tobytes() for each in held if each.ndim == 2}) == 5
    finally:
        environments.close()
