from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_rl.environments import Actions, EnvironmentLostError, Purpose, generator
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.noise import ExplorationNoise
from lightning_rl.experience.replay import ReplayBuffer, Transition
from lightning_rl.threads import single_thread


class Noise(NamedTuple):
    """Standard normal numbers for one update, drawn outside of it."""

    next: Tensor
    """``[…, batch, action_size]``: for the next action in the critic's target."""
    actor: Tensor
    """``[…, batch, action_size]``: for the actor's own action."""


class Updates(NamedTuple):
    """The gradient updates that follow one round of interaction; none in the warm-up."""

    batch: Transition
    """``[updates, batch, …]``."""
    noise: Noise
    """``[updates, batch, …]``."""


class ReplayExperience:
    """What SAC has lived through, and the rounds in which it goes on.

    Args:
        collector: steps the environments.
        buffer: keeps the transitions.
        act: observation ``[num_envs, observation_size]`` and noise ``[num_envs, action_size]`` to normalised actions;
            no gradients are recorded.
        to_environment: normalised actions to the environment's units.
        batch_size: transitions a gradient update.
        learning_starts: steps with uniformly random actions, and transitions needed before the first update.
        train_freq: environment steps a round, over all environments.
        gradient_steps: updates a round.
        noise_correlation: ρ of the exploration noise.
        run_seed: of the whole run.
        rank: of this process.
        keep_buffer: whether the transitions are part of the state.
    """

    def __init__(
        self,
        collector: Collector,
        buffer: ReplayBuffer,
        act: Callable[[Tensor, Tensor], Tensor],
        to_environment: Callable[[Tensor], Actions],
        *,
        batch_size: int,
        learning_starts: int,
        train_freq: int,
        gradient_steps: int,
        noise_correlation: float,
        run_seed: int,
        rank: int,
        keep_buffer: bool = True,
    ) -> None:
        self.collector = collector
        self.buffer = buffer
        self.batch_size = batch_size
        self.learning_starts = learning_starts
        self.steps_per_round = train_freq
        self.gradient_steps = gradient_steps
        self.keep_buffer = keep_buffer
        self._goal: int | None = None  # the steps with which the round under way ends
        self._is_trained = False  # the policy acts although this rank's steps are few: it comes from other ranks
        self._act = act
        self._to_environment = to_environment
        self._noise = ExplorationNoise(noise_correlation, buffer.num_envs, buffer.action.shape[-1])
        self._random = {
            purpose: generator(run_seed, rank, purpose)
            for purpose in (Purpose.EXPLORATION, Purpose.REPLAY, Purpose.UPDATE)
        }

    def interact(self) -> None:
        """Takes `train_freq` environment steps, or what is left of a round that was broken off."""
        try:
            self.buffer.cut(self.collector.open())
        except EnvironmentLostError as fault:
            self._recover(fault)
        if self._goal is None:
            self._goal = self.collector.steps + self.steps_per_round
        while self.collector.steps < self._goal:
            self._step()

    def draw(self) -> Updates:
        """Draws the minibatches and the noise of the updates that follow a round."""
        self._goal = None
        ready = self.buffer.size >= max(self.learning_starts, 1)
        updates = self.gradient_steps if ready else 0
        shape = (2, updates, self.batch_size, self.buffer.action.shape[-1])
        noise = Noise(*torch.randn(shape, generator=self._random[Purpose.UPDATE]).unbind())
        if not ready:
            return Updates(self._nothing(), noise)
        return Updates(self.buffer.sample(updates, self.batch_size, self._random[Purpose.REPLAY]), noise)

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on exactly needs, as tensors and plain values."""
        return {
            "collector": self.collector.state_dict(),
            "goal": self._goal,
            "is_trained": self._is_trained,
            "buffer": self.buffer.state_dict() if self.keep_buffer else None,
            "noise": self._noise.value.clone(),
            "random": {purpose.name: random.get_state() for purpose, random in self._random.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was called.

        Raises:
            ValueError: the buffer or the number of environments has another size.
        """
        self.collector.load_state_dict(state["collector"])
        self._goal, self._is_trained = state["goal"], state["is_trained"]
        if state["buffer"] is not None:
            self.buffer.load_state_dict(state["buffer"])
        else:
            self.buffer.clear()
            rank_zero_warn(
                "The checkpoint holds no replay buffer (it was trained with save_replay_buffer=False): "
                f"{self.learning_starts} transitions are collected with its policy before updates go on."
            )
        self._noise.value = state["noise"].clone()
        for purpose, random in self._random.items():
            random.set_state(state["random"][purpose.name])

    def take_over(self, state: dict[str, Any]) -> str:
        """Of another number of ranks no transition, which belongs to the environments that lived it; their policy."""
        self._is_trained = state["is_trained"] or state["collector"]["steps"] >= self.learning_starts
        by_whom = " with the policy" if self._is_trained else ""
        return f"{max(self.learning_starts, 1)} transitions a rank are collected{by_whom} before updates go on"

    def _step(self) -> None:
        observation, first = self.collector.observation, self.collector.lengths == 0
        random = self._random[Purpose.EXPLORATION]
        with torch.no_grad(), single_thread():
            # In the warm-up too: the noise has to run from an episode's first step on.
            noise = self._noise.draw(first, random)
            if self.collector.steps < self.learning_starts and not self._is_trained:
                action = 2 * torch.rand(noise.shape, generator=random) - 1
            else:
                action = self._act(torch.from_numpy(observation), noise)
            units = self._to_environment(action)
        try:
            step = self.collector.step(units)
        except EnvironmentLostError as fault:
            self._recover(fault)
            return
        ended = step.terminated | step.truncated
        self.buffer.add(observation, action, step.reward, step.observation, step.terminated, ended)

    def _recover(self, fault: EnvironmentLostError) -> None:
        """No step was taken: episodes that were given up end with the one before."""
        self.buffer.cut(fault.where)
        self.buffer.cut(self.collector.recover(fault))

    def _nothing(self) -> Transition:
        shape = (0, self.batch_size)
        return Transition(
            observation=torch.zeros(*shape, self.buffer.observation.shape[-1]),
            action=torch.zeros(*shape, self.buffer.action.shape[-1]),
            reward=torch.zeros(shape),
            next_observation=torch.zeros(*shape, self.buffer.observation.shape[-1]),
            terminated=torch.zeros(shape, dtype=torch.bool),
        )
