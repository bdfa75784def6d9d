from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_rl import SACModule, TRPOModule
from lightning_rl.environments import Step, TrainingSeeds
from lightning_rl.experience import Collector, ExplorationNoise, RolloutExperience, RolloutMemory
from lightning_rl.experience.returns import generalized_advantages
from lightning_rl.moments import ReturnScaler

STEPS, NUM_ENVS, SIZE = 6, 2, 3


class Clock:
    """Environments whose episodes last three and five steps; an observation says nothing."""

    num_envs, takes_seeds = NUM_ENVS, False

    def __init__(self) -> None:
        self.step_number = 0

    def reset(self, seeds: Any, mask: Any) -> np.ndarray:
        return np.zeros((NUM_ENVS, SIZE), dtype=np.float32)

    def step(self, actions: np.ndarray) -> Step:
        self.step_number += 1
        ended = self.step_number % np.array([3, 5]) == 0
        nothing = np.zeros((NUM_ENVS, SIZE), dtype=np.float32)
        return Step(nothing, np.ones(NUM_ENVS, dtype=np.float32), ended, np.zeros(NUM_ENVS, dtype=np.bool_))

    def close(self) -> None: ...


class Still:
    """An actor that does nothing, and sees to where it is asked to."""

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        assert observation.device.type == noise.device.type == "cpu"
        return noise

    def environment_units(self, action: Tensor) -> np.ndarray:
        return action.numpy()

    def log_prob_of(self, observation: Tensor, action: Tensor) -> Tensor:
        return observation.sum(-1) + action.sum(-1)

    def value_of(self, observation: Tensor, elapsed: Tensor) -> Tensor:
        return observation.sum(-1) + elapsed


def experience(device: str) -> RolloutExperience:
    def estimate(*rollout: Tensor) -> tuple[Tensor, Tensor]:
        advantage = generalized_advantages(*rollout, 0.9, 0.8)
        return advantage, advantage + rollout[1]

    return RolloutExperience(
        Collector(Clock, TrainingSeeds(0, 0), NUM_ENVS),
        RolloutMemory(STEPS, NUM_ENVS, SIZE, 1, torch.float32),
        ExplorationNoise(0.0, NUM_ENVS, 1),
        Still(),
        estimate,
        epochs=2,
        value_rollouts=3,
        return_scaler=ReturnScaler(0.9, NUM_ENVS),
        run_seed=0,
        rank=0,
        device=device,
    )


def test_a_rollout_lies_on_its_device_from_which_no_value_is_read_back() -> None:
    """On "meta", where tensors have no values: whoever asks for one gets an error."""
    apart, here = experience("meta"), experience("cpu")
    for number in range(4):
        apart.interact()
        here.interact()
        there, plain = apart.draw(), here.draw()
        assert (there.earlier is None) == (plain.earlier is None) == (number == 0)
        ours, theirs = ((*each[:-1], *(each.earlier or ())) for each in (there, plain))
        assert {field.device.type for field in ours} == {"meta"}
        assert [field.shape for field in ours] == [field.shape for field in theirs]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_rollout_on_the_gpu_is_that_on_the_cpu_and_goes_on_alike() -> None:
    apart, here = experience("cuda"), experience("cpu")
    for _ in range(3):
        apart.interact()
        here.interact()
        there, plain = apart.draw(), here.draw()
        for one, other in zip(
            (*there[:-1], *(there.earlier or ())), (*plain[:-1], *(plain.earlier or ())), strict=True
        ):
            torch.testing.assert_close(one.cpu(), other)
        state = apart.state_dict()
        assert {samples["observation"].device.type for samples in state["earlier"]} == {"cpu"}
        apart.load_state_dict(state)


@pytest.mark.parametrize("on_device", [False, True])
def test_memory_lies_on_the_accelerator_if_it_is_asked_to(
    small_sac: Callable[..., SACModule], small_trpo: Callable[..., TRPOModule], on_device: bool
) -> None:
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")), global_rank=0)
    sac, trpo = small_sac(memory_on_device=on_device), small_trpo(memory_on_device=on_device)
    for module in (sac, trpo):
        module._trainer = trainer
    expected = "meta" if on_device else "cpu"
    assert sac.make_experience(0).buffer.observation.device.type == expected
    assert trpo.make_experience(0)._device.type == expected
