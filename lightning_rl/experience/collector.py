import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rl.environments import (
    Actions,
    Array,
    EnvironmentLostError,
    Mask,
    Step,
    TrainingSeeds,
    VectorEnvironment,
)

FAULTS_IN_A_ROW = 10


class Episode(NamedTuple):
    """A finished training episode."""

    episode_return: float
    length: int


class Collector:
    """Steps environments and owns the episodes in flight.

    An episode in flight is kept as its seed and its actions. That is enough to bring it back: in another process
    after a checkpoint, or in this one after its environments were closed.

    Args:
        make: makes the environments; called when they are first needed, and again after `close`.
        seeds: the seed of each environment's n-th episode.
        num_envs: how many environments `make` makes.
        restarts: whether environments that failed are made again, and the episodes of the others brought back.
    """

    def __init__(
        self, make: Callable[[], VectorEnvironment], seeds: TrainingSeeds, num_envs: int, restarts: bool = False
    ) -> None:
        self.num_envs = num_envs
        self.steps = 0
        """Steps taken so far, over all environments."""
        self.lengths = np.zeros(num_envs, dtype=np.int64)
        """``[num_envs]``: steps taken in each episode in flight."""
        self._make = make
        self._seeds = seeds
        self._environments: VectorEnvironment | None = None
        self._observation: Array | None = None
        self._episodes = np.zeros(num_envs, dtype=np.int64)
        self._episode_seeds = [seeds(index, 0) for index in range(num_envs)]
        self._returns = np.zeros(num_envs, dtype=np.float64)
        self._actions: list[Actions] = []  # of every environment, since the oldest episode in flight began
        self._finished: list[Episode] = []
        self._restarts = restarts
        self._fault: EnvironmentLostError | None = None  # of environments whose episode had just ended
        self._faults_in_a_row = 0

    @property
    def observation(self) -> Array:
        """``[num_envs, observation_size]``: where the next actions are taken."""
        assert self._observation is not None, "open the environments first"
        return self._observation

    def open(self) -> Mask:
        """Makes the environments where they are closed, and brings the episodes in flight back.

        Returns:
            ``[num_envs]``: the episodes that could not be brought back and were begun anew.
        """
        if self._environments is not None:
            return np.zeros(self.num_envs, dtype=np.bool_)
        self._environments = self._make()
        try:
            return self._bring_back(self._environments)
        except EnvironmentLostError as fault:
            raise self._given_up(fault) from fault

    def _bring_back(self, environments: VectorEnvironment) -> Mask:
        lost = self.lengths > 0
        if environments.takes_seeds:
            replayed, diverged = self._replay(environments)
            if self._observation is not None:
                lost &= diverged | (replayed != self._observation).any(axis=-1)
            self._observation = replayed
        else:
            self._observation = environments.reset(self._episode_seeds, np.ones(self.num_envs, dtype=np.bool_))
        if lost.any():
            rank_zero_warn(
                f"{int(lost.sum())} of {self.num_envs} episodes in flight could not be brought back from their seeds "
                "and actions: the environment keeps a state of its own, or does not take seeds. They begin anew; "
                "everything else goes on exactly."
            )
            self._begin(lost)
        return lost

    def step(self, actions: Actions) -> Step:
        """Steps every environment, and begins a new episode where one ended.

        Args:
            actions: ``[num_envs, *action_shape]``, in the environment's units.

        Returns:
            The step; its observation is an ended episode's true last one, while `observation` is the next one's first.

        Raises:
            EnvironmentLostError: environments failed. No environment took the step, and the episodes of those that
                failed were given up: they ended with their step before.
        """
        assert self._environments is not None, "open the environments first"
        try:
            if self._fault is not None:
                raise self._fault
            step = self._environments.step(actions)
        except EnvironmentLostError as fault:
            raise self._given_up(fault, actions) from fault
        self._faults_in_a_row = 0
        if self._environments.takes_seeds:
            self._actions.append(np.array(actions))
        self.steps += self.num_envs
        self.lengths += 1
        self._returns += step.reward
        self._observation = step.observation
        ended = step.terminated | step.truncated
        if np.count_nonzero(ended):  # in a fifth of the time that ended.any() takes, at every step
            for index in np.flatnonzero(ended):
                self._finished.append(Episode(float(self._returns[index]), int(self.lengths[index])))
            try:
                self._begin(ended)
            except EnvironmentLostError as fault:  # the step itself is a whole one
                self._fault = fault
        return step

    def recover(self, fault: EnvironmentLostError) -> Mask:
        """Makes the environments again after a fault, and brings the other episodes back.

        Returns:
            ``[num_envs]``: the episodes that were begun anew.

        Raises:
            EnvironmentLostError: restarting was not asked for, or ten faults came without a step between them.
        """
        self._faults_in_a_row += 1
        if not self._restarts or self._faults_in_a_row == FAULTS_IN_A_ROW:
            raise fault
        warnings.warn(f"{fault} It is made again; the other episodes go on.", stacklevel=2)
        self.close()
        try:
            return fault.where | self.open()
        except EnvironmentLostError as another:
            return fault.where | self.recover(another)

    def finished(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Ends the environments; `open` brings them back as they were."""
        self._fault = None
        if self._environments is not None:
            self._environments.close()
            self._environments = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint needs, as tensors and plain values."""
        histories = [self._history(index) for index in range(self.num_envs)]
        return {
            "steps": self.steps,
            "episodes": self._episodes.tolist(),
            "returns": self._returns.tolist(),
            "lengths": self.lengths.tolist(),
            "finished": [[episode.episode_return, episode.length] for episode in self._finished],
            "actions": [torch.from_numpy(history) for history in histories],
            "observation": None if self._observation is None else torch.tensor(self._observation),
            "run_seed": self._seeds.run_seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was called; the environments are made at the next `open`.

        Raises:
            ValueError: the checkpoint has another number of environments.
        """
        if len(state["episodes"]) != self.num_envs:
            raise ValueError(
                f"the checkpoint has {len(state['episodes'])} environments in flight and num_envs is {self.num_envs}: "
                f"resume with num_envs={len(state['episodes'])}."
            )
        self.close()
        self.steps = state["steps"]
        self._seeds = TrainingSeeds(state["run_seed"], self._seeds.rank)
        self._episodes = np.array(state["episodes"], dtype=np.int64)
        self._episode_seeds = [self._seeds(index, episode) for index, episode in enumerate(state["episodes"])]
        self._returns = np.array(state["returns"], dtype=np.float64)
        self.lengths = np.array(state["lengths"], dtype=np.int64)
        self._finished = [Episode(*episode) for episode in state["finished"]]
        self._observation = None if state["observation"] is None else state["observation"].numpy().copy()
        self._actions = _side_by_side([history.numpy() for history in state["actions"]])

    def _begin(self, where: Mask) -> None:
        assert self._environments is not None
        self._next_episode(where)
        self._observation = self._environments.reset(self._episode_seeds, where)

    def _next_episode(self, where: Mask) -> None:
        self._episodes[where] += 1
        self._returns[where] = 0.0
        self.lengths[where] = 0
        for index in np.flatnonzero(where).tolist():
            self._episode_seeds[index] = self._seeds(index, int(self._episodes[index]))
        oldest = int(self.lengths.max())
        del self._actions[: len(self._actions) - oldest]

    def _given_up(self, fault: EnvironmentLostError, actions: Actions | None = None) -> EnvironmentLostError:
        """Gives the episodes up whose environments failed, and tells the error which ones they were."""
        told = {}
        for index, reason in fault.reasons.items():
            acted = f", with the action {actions[index].tolist()}" if actions is not None else ""
            seed, step = self._episode_seeds[index], int(self.lengths[index]) + 1
            told[index] = f"(episode seed {seed}, at step {step}{acted}) {reason}"
        self._next_episode(fault.where)
        return EnvironmentLostError(told, self.num_envs)

    def _history(self, index: int) -> Actions:
        length = int(self.lengths[index])
        recent = [actions[index] for actions in self._actions[len(self._actions) - length :]]
        return np.stack(recent) if recent else np.zeros(0, dtype=np.float32)

    def _replay(self, environments: VectorEnvironment) -> tuple[Array, Mask]:
        """Repeats the episodes in flight, shorter ones beginning later, so that all arrive together.

        Returns:
            The present observations, and which episodes ended although they had not when they were lived.
        """
        seeds = self._episode_seeds
        diverged = np.zeros(self.num_envs, dtype=np.bool_)
        observation = environments.reset(seeds, np.ones(self.num_envs, dtype=np.bool_))
        longest = len(self._actions)
        for now, actions in enumerate(self._actions):
            # Before its episode begins an environment is only kept going, with whatever actions.
            begun = self.lengths >= longest - now
            step = environments.step(actions)
            observation = step.observation
            ended = step.terminated | step.truncated
            diverged |= begun & ended
            again = ended | (self.lengths == longest - now - 1)
            if again.any():
                observation = environments.reset(seeds, again)
        return observation, diverged


def _side_by_side(histories: list[Actions]) -> list[Actions]:
    """Histories of different lengths, ended together, as one array of all environments a step.

    What precedes a shorter one is filled up with an action that was taken: not every number is an action.
    """
    longest = max(len(history) for history in histories)
    if longest == 0:
        return []
    like = next(history for history in histories if len(history))
    together = np.empty((longest, len(histories), *like.shape[1:]), dtype=like.dtype)
    for index, history in enumerate(histories):
        together[:, index] = history[0] if len(history) else like[0]
        if len(history):
            together[longest - len(history) :, index] = history
    return list(together)
