import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_rl.environments import Actions, EnvironmentLostError, Mask, Purpose, generator
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.noise import ExplorationNoise
from lightning_rl.experience.rollout import Rollout, RolloutMemory, ValueSamples
from lightning_rl.moments import ReturnScaler
from lightning_rl.threads import single_thread


class Actor(Protocol):
    """What the rollout asks of the algorithm."""

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """``[num_envs, observation_size]`` and their noise to sampled actions, ``[num_envs, action_size]``.

        All of them live on the CPU, as the environments do, and no gradients are recorded.
        """
        ...

    def environment_units(self, action: Tensor) -> Actions:
        """Sampled actions as the environments take them."""
        ...

    def log_prob_of(self, observation: Tensor, action: Tensor) -> Tensor:
        """Log π(a|s), ``[…]``, on the observations' device."""
        ...

    def value_of(self, observation: Tensor, elapsed: Tensor) -> Tensor:
        """V(s), ``[…]``, so many steps after the episode's first observation, on the observations' device."""
        ...


class RolloutExperience:
    """The rollouts of an on-policy algorithm, each from the policy of its moment.

    Args:
        collector: steps the environments.
        memory: one rollout's blocks.
        noise: of the sampled actions.
        actor: samples the actions and values the states.
        estimate: reward, value, next value, terminated and ended, ``[steps, num_envs]`` each, to advantages and value
            targets.
        epochs: passes of the value function's fit over a rollout.
        value_rollouts: rollouts that the fit draws from, the newest included.
        return_scaler: divides the rewards by the running standard deviation of the return; ``None`` leaves them.
        run_seed: of the whole run.
        rank: of this process.
        device: where a rollout is valued and kept; its steps are written in the host's memory, and move once.
    """

    def __init__(
        self,
        collector: Collector,
        memory: RolloutMemory,
        noise: ExplorationNoise,
        actor: Actor,
        estimate: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
        *,
        epochs: int,
        value_rollouts: int,
        return_scaler: ReturnScaler | None,
        run_seed: int,
        rank: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.collector = collector
        self.memory = memory
        self._device = torch.device(device)
        self.steps_per_round = memory.reward.numel()
        self.noise = noise
        self.reward_floor = -math.inf
        """What lower rewards count as."""
        self._written = 0
        self._actor = actor
        self._estimate = estimate
        self._epochs = epochs
        self._earlier: deque[ValueSamples] = deque(maxlen=value_rollouts - 1)
        self._return_scaler = return_scaler
        self._random = {
            purpose: generator(run_seed, rank, purpose) for purpose in (Purpose.EXPLORATION, Purpose.UPDATE)
        }

    def interact(self) -> None:
        """Fills the memory, or what is left of it, with the policy as it is now."""
        try:
            self._cut(self.collector.open())
        except EnvironmentLostError as fault:
            self._recover(fault)
        while self._written < len(self.memory.reward):
            self._step()

    def draw(self) -> Rollout:
        """The rollout in memory, valued."""
        self._written = 0
        memory, actor = self.memory, self._actor
        observation, elapsed, action, reward, terminated, ended = (
            block.to(self._device)
            for block in (
                memory.observation,
                memory.elapsed,
                memory.action,
                memory.reward,
                memory.terminated,
                memory.ended,
            )
        )
        value = actor.value_of(observation, elapsed)
        # What a step led to is the next row's observation, but for an episode's last step and the last row.
        next_value, apart = value.roll(-1, dims=0), memory.ended.clone()
        apart[-1] = True
        led_to, after = memory.next_observation[apart].to(self._device), memory.elapsed[apart].to(self._device) + 1
        next_value[apart.nonzero(as_tuple=True)] = actor.value_of(led_to, after)
        reward = reward.clamp(min=self.reward_floor)
        if self._return_scaler is not None:
            reward = self._return_scaler.scale(reward, ended)
        advantage, value_target = self._estimate(reward, value, next_value, terminated, ended)
        earlier = [torch.cat(field) for field in zip(*self._earlier, strict=True)]
        rollout = Rollout(
            observation=observation,
            elapsed=elapsed,
            action=action,
            log_prob=actor.log_prob_of(observation, action),
            value=value,
            value_target=value_target,
            advantage=advantage,
            order=self._draw_order(self.steps_per_round * (1 + len(self._earlier))),
            earlier=ValueSamples(*earlier) if earlier else None,
        )
        self._earlier.append(rollout.value_samples())
        return rollout

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on exactly needs, as tensors and plain values."""
        return {
            "collector": self.collector.state_dict(),
            "rollout": [block[: self._written].clone() for block in self.memory.blocks()],  # if it was broken off
            "return_scaler": None if self._return_scaler is None else self._return_scaler.state_dict(),
            "noise": self.noise.value.clone(),
            "earlier": [_moved(samples, "cpu")._asdict() for samples in self._earlier],
            "random": {purpose.name: random.get_state() for purpose, random in self._random.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was called.

        Raises:
            ValueError: the checkpoint has another number of environments.
        """
        self.collector.load_state_dict(state["collector"])
        self._written = len(state["rollout"][0])
        for block, written in zip(self.memory.blocks(), state["rollout"], strict=True):
            block[: self._written] = written
        if self._return_scaler is not None and state["return_scaler"] is not None:
            self._return_scaler.load_state_dict(state["return_scaler"])
        self.noise.value = state["noise"].clone()
        self._earlier.clear()
        self._remember(state["earlier"])
        for purpose, random in self._random.items():
            random.set_state(state["random"][purpose.name])

    def take_over(self, state: dict[str, Any]) -> str:
        """The rewards' scale, which is the same on all ranks, and what the value function was fitted to."""
        if self._return_scaler is not None and state["return_scaler"] is not None:
            self._return_scaler.take_over(state["return_scaler"])
        self._remember(state["earlier"])
        return "the next rollout is theirs"

    def _remember(self, earlier: Sequence[dict[str, Tensor]]) -> None:
        for samples in earlier:
            if len(samples["value_target"]) == self.steps_per_round:
                self._earlier.append(
                    _moved(ValueSamples(*(samples[name] for name in ValueSamples._fields)), self._device)
                )
        if len(self._earlier) < min(len(earlier), self._earlier.maxlen or 0):
            rank_zero_warn(
                f"The checkpoint's earlier rollouts hold {len(earlier[-1]['value_target'])} transitions a rank and "
                f"this module's {self.steps_per_round}: they are left out, and new ones take their place."
            )

    def _step(self) -> None:
        observation, elapsed = self.collector.observation, self.collector.lengths.astype(np.float32)
        with torch.no_grad(), single_thread():
            noise = self.noise.draw(elapsed == 0, self._random[Purpose.EXPLORATION])
            action = self._actor.explore(torch.from_numpy(observation), noise)
            units = self._actor.environment_units(action)
        try:
            taken = self.collector.step(units)
        except EnvironmentLostError as fault:
            self._recover(fault)
            return
        ended = taken.terminated | taken.truncated
        self.memory.write(
            self._written, observation, elapsed, action, taken.reward, taken.observation, taken.terminated, ended
        )
        self._written += 1

    def _recover(self, fault: EnvironmentLostError) -> None:
        self._cut(fault.where)
        self._cut(self.collector.recover(fault))

    def _cut(self, where: Mask) -> None:
        """Ends the episodes that were given up with the step before this one."""
        if self._written > 0:
            self.memory.ended[self._written - 1] |= torch.from_numpy(where)
        elif self._return_scaler is not None:
            self._return_scaler.begin(torch.from_numpy(where))

    def _draw_order(self, count: int) -> Tensor:
        random = self._random[Purpose.UPDATE]
        orders = [torch.randperm(count, generator=random)[: self.steps_per_round] for _ in range(self._epochs)]
        return torch.stack(orders).to(self._device)


def _moved(samples: ValueSamples, device: torch.device | str) -> ValueSamples:
    return ValueSamples(*(field.to(device) for field in samples))
