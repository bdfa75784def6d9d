import math
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_rl.algorithms.checkpoint import (
    FORMAT,
    describe_spaces,
    random_state,
    require_compatible,
    require_same_run,
    set_random_state,
)
from lightning_rl.algorithms.hyperparameters import (
    require_integer,
    require_multiple,
    require_stored,
    require_within,
    storable,
)
from lightning_rl.algorithms.items import tell_of_split_item, warn_of_uncrossed
from lightning_rl.callbacks import default_callbacks
from lightning_rl.checkpoint_io import WholeCheckpointIO
from lightning_rl.distributed import leave_at_exit
from lightning_rl.environments import (
    TEST_SEEDS,
    VALIDATION_SEEDS,
    Actions,
    Array,
    CheckedEnvironment,
    EnvironmentLostError,
    EnvironmentSpec,
    EnvPoolEnvironments,
    GymnasiumEnvironments,
    TrainingSeeds,
    VectorEnvironment,
    require_envpool,
    spaces,
)
from lightning_rl.evaluation import EpisodeStatistics, SeedBatches, Trajectory, evaluating, play
from lightning_rl.experience import Collector, Episode, EpochStream
from lightning_rl.freed_memory import keep_freed_memory
from lightning_rl.loggers import CSVLogger
from lightning_rl.networks import SquashedGaussianActor
from lightning_rl.networks.policy import GreedyPolicy
from lightning_rl.shards import read_shard, write_shard

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


class Experience(Protocol):
    """What an algorithm has lived through: the source of its training items."""

    collector: Collector
    steps_per_round: int

    def interact(self) -> None:
        """A round of environment steps, in which no rank waits for another."""
        ...

    def draw(self) -> Any:
        """What is learned from after a round."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was called."""
        ...

    def take_over(self, state: dict[str, Any]) -> str:
        """Takes from the first rank's state, in a run on another number of ranks, what belongs to no rank.

        Returns:
            What is filled again, for the user to read.
        """
        ...


class Acting(NamedTuple):
    """How a policy explores."""

    explore: Callable[[Tensor, Tensor], Tensor]
    """``[n, observation_size]`` and ``[n, noise_size]`` to sampled actions, ``[n, action_size]``."""
    to_environment: Callable[[Tensor], Tensor]
    """Sampled actions in the environment's units, ``[n, action_size]``."""


class RLModule(LightningModule):
    """What SAC and TRPO share: environments, evaluation, counting, logging and checkpoints.

    Args:
        env: an id registered with Gymnasium, a callable that makes an environment, or such a callable's import path.
        env_kwargs: keyword arguments for the environment.
        num_envs: environments stepped side by side, per rank.
        backend: how training environments run: ``sync`` in this process, ``async`` in a process each, ``envpool`` in
            threads of compiled code. Evaluation always runs in this process, with Gymnasium.
        max_episode_steps: truncates episodes after so many steps; needed where the environment sets no limit itself.
        action_repeat: steps of the environment that an action is held for, in training and evaluation, their rewards
            summed up: a slower policy explores in longer pushes and sees further with the same γ. Settings in steps
            and the lengths of episodes count actions then; `environment_steps`, the axis of everything logged, and
            ``max_episode_steps`` count the environment's own steps.
        env_timeout: seconds that an ``async`` environment may take to answer; ``None`` waits for ever.
        restart_envs: whether ``async`` environments that died, hung or raised are made again, and training goes on,
            instead of ending with a checkpoint.
        memory_on_device: whether experience is kept in the accelerator's memory, instead of the host's.
        steps_per_epoch: environment steps an epoch, over all ranks; an evaluation follows each epoch.
        eval_episodes: greedy episodes an evaluation, over all ranks.

    Raises:
        ValueError: a number out of its range, or an environment that Gymnasium does not know.
        TypeError: a space that cannot be learned in.
    """

    def __init__(
        self,
        env: str | Callable[..., Any],
        env_kwargs: Mapping[str, Any] | None,
        num_envs: int,
        backend: Literal["sync", "async", "envpool"],
        max_episode_steps: int | None,
        action_repeat: int,
        env_timeout: float | None,
        restart_envs: bool,
        memory_on_device: bool,
        steps_per_epoch: int,
        eval_episodes: int,
    ) -> None:
        super().__init__()
        require_stored([env, env_kwargs])
        require_integer(1, num_envs=num_envs, steps_per_epoch=steps_per_epoch, eval_episodes=eval_episodes)
        require_integer(1, action_repeat=action_repeat)
        if max_episode_steps is not None:
            require_integer(1, max_episode_steps=max_episode_steps)
        if backend not in ("sync", "async", "envpool"):
            raise ValueError(f"backend={backend!r}: 'sync', 'async' or 'envpool' was expected.")
        if env_timeout is not None:
            require_within(0, math.inf, open_low=True, env_timeout=env_timeout)
        if restart_envs and backend != "async":
            raise ValueError(
                f"restart_envs=True and backend={backend!r}: only environments in processes of their own, which "
                "backend='async' has, can be made again one by one."
            )
        self.automatic_optimization = False
        self.num_envs = num_envs
        self.backend = backend
        self.env_timeout = env_timeout
        self.restart_envs = restart_envs
        self.memory_on_device = memory_on_device
        self.steps_per_epoch = steps_per_epoch
        self.eval_episodes = eval_episodes
        self.environment = EnvironmentSpec(env, dict(env_kwargs or {}), max_episode_steps, action_repeat)
        self.observation_space, self.action_space, self.time_limit = spaces(self.environment)
        self._action_shape = (-1, *(self.action_space.shape or ()))
        if backend == "envpool":
            require_envpool(self.environment)
        self.experience: Experience | None = None
        self._policy_at_rest: Acting | None = None  # while a round is lived through
        self._loaded_steps: int | None = None  # of the checkpoint whose weights the module holds
        self._loaded_random: dict[str, Tensor] | None = None  # of the checkpoint from which training is about to go on
        self._evaluation_environments: list[CheckedEnvironment] = []
        self.episode_statistics = EpisodeStatistics()
        self.ended_episodes: Sequence[Episode] = ()  # the training episodes that this item reported

    # What an algorithm provides.

    algorithm: str
    """Its name, as checkpoints have it."""

    def __setattr__(self, name: str, value: Any) -> None:
        """As any module's, but faster where Lightning writes down twenty times an item which hook is called."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @abstractmethod
    def make_experience(self, run_seed: int) -> Experience:
        """Makes the experience of a run that begins."""

    @abstractmethod
    def greedy_policy(self) -> nn.Module:
        """``[n, observation_size]`` to the best actions known, ``[n, action_size]``, in the environment's units."""

    @abstractmethod
    def acting_at_rest(self) -> Acting:
        """How training acts, on this module's device, for as long as no parameter is replaced and no hook is added."""

    @abstractmethod
    def sampled_action(self, observation: Tensor) -> Tensor:
        """``[n, observation_size]`` to actions as training takes them, ``[n, action_size]``, in its units."""

    # Using what was trained.

    @torch.no_grad()
    def act(self, observation: Actions, deterministic: bool = True) -> Actions:
        """The policy, from NumPy to NumPy; each action is to be held for `action_repeat` steps.

        Args:
            observation: one observation in the environment's shape, or many, ``[n, *shape]``.
            deterministic: the greedy action, or one sampled from the policy.

        Returns:
            One action in the environment's shape, dtype and units, or ``[n, *action_shape]``.

        Raises:
            ValueError: the observation has another shape.
        """
        shape = self.observation_space.shape
        array = np.asarray(observation)
        if array.shape != shape and array.shape[1:] != shape:
            raise ValueError(
                f"an observation of shape {shape}, or many of shape (n, {', '.join(map(str, shape))}), was expected; "
                f"the given array has shape {array.shape}."
            )
        rows = array.reshape(-1, int(np.prod(shape)))
        policy = self._greedy() if deterministic else self._sampled
        with evaluating(self):
            actions = policy(rows.astype(np.float32))
        return actions[0] if array.shape == shape else actions

    def _greedy(self) -> Callable[[Array], Actions]:
        policy = self.greedy_policy()
        greedy: Callable[[Tensor], Tensor] = policy
        if isinstance(policy, SquashedGaussianActor | GreedyPolicy):
            greedy = policy.at_rest()

        def act(observation: Array) -> Actions:
            # Row by row, because a batched product may round a row differently in a batch of another size, and a
            # simulator amplifies the last bit: an episode shall not depend on how many others run beside it.
            rows = [greedy(row) for row in self._observation_tensor(observation).split(1)]
            return self._environment_actions(torch.cat(rows))

        return act

    def _sampled(self, observation: Array) -> Actions:
        return self._environment_actions(self.sampled_action(self._observation_tensor(observation)))

    def _observation_tensor(self, observation: Array) -> Tensor:
        return torch.as_tensor(observation, dtype=self.parameter_dtype, device=self.device)

    @property
    def parameter_dtype(self) -> torch.dtype:
        """The parameters' precision, which `precision="64-true"` changes."""
        assert isinstance(self.dtype, torch.dtype)
        return self.dtype

    def _environment_actions(self, action: Tensor) -> Actions:
        return action.cpu().numpy().astype(self.action_space.dtype, copy=False).reshape(self._action_shape)

    # The run: its seed, its environments, its experience.

    @property
    def environment_steps(self) -> int:
        """Environment steps done so far, over all ranks: the axis of every logger.

        Each action counts as `action_repeat` steps, one that its episode's end broke off as well.
        """
        if self._loaded_steps is not None:
            return self._loaded_steps
        if self.experience is None:
            return 0
        return self.experience.collector.steps * self.environment.action_repeat * self.trainer.world_size

    def make_environments(self) -> VectorEnvironment:
        """Makes this rank's training environments."""
        if self.backend == "envpool":
            return EnvPoolEnvironments(self.environment, self.observation_space, self.num_envs, self.time_limit)
        return GymnasiumEnvironments(self.environment, self.num_envs, self.backend, self.env_timeout)

    @property
    def memory_device(self) -> torch.device:
        """Where the experience of a run that begins is put, and stays."""
        return self.trainer.strategy.root_device if self.memory_on_device else torch.device("cpu")

    def make_collector(self, run_seed: int) -> Collector:
        """What steps this rank's training environments."""
        seeds = TrainingSeeds(run_seed, self.global_rank)
        return Collector(self.make_environments, seeds, self.num_envs, self.restart_envs)

    def setup(self, stage: str) -> None:
        """Makes the experience when training begins; a second ``fit`` goes on with it.

        Raises:
            ValueError: the precision is one in which updates would go wrong.
        """
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"precision={self.trainer.precision!r}: one of {', '.join(PRECISIONS)} was expected. 16-mixed scales "
                "losses, which gradients taken by hand would not undo, and bf16-mixed needs no scaling; parameters in "
                "half precision do not learn."
            )
        # Lightning loads a checkpoint's weights before it converts the module, and would round those of float64.
        self.trainer.precision_plugin.convert_module(self)
        if stage == "fit" and self.trainer.precision != "64-true" and self.parameter_dtype == torch.float64:
            self.float()  # it was loaded from a run in float64
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # what a Trainer has by itself
            self.trainer.strategy.checkpoint_io = WholeCheckpointIO()
        keep_freed_memory()
        leave_at_exit()
        if stage == "fit" and self.experience is None:
            self.experience = self.make_experience(self._run_seed())
        if self.experience is not None:
            self._loaded_steps = None

    def teardown(self, stage: str) -> None:
        """Closes all environments; they come back as they were when they are needed again."""
        if self.experience is not None:
            self.experience.collector.close()
        for environment in self._evaluation_environments:
            environment.close()
        self._evaluation_environments = []

    def _run_seed(self) -> int:
        given = os.environ.get("PL_GLOBAL_SEED")
        if given is not None:
            return int(given)
        drawn: int = self.trainer.strategy.broadcast(int.from_bytes(os.urandom(4), "big"))
        rank_zero_info(
            f"No seed was given: this run has drawn seed {drawn} for its episodes and noise. seed_everything, called "
            "before the module is made, makes a whole run repeatable."
        )
        return drawn

    def train_dataloader(self) -> EpochStream[Any]:
        """An epoch of `steps_per_epoch` environment steps, as items of one round of interaction or several."""
        assert self.experience is not None
        per_item = self.experience.steps_per_round * self.rounds_per_item * self.trainer.world_size
        require_multiple(
            steps_per_epoch=(self.steps_per_epoch, "the environment steps of an item over all ranks", per_item)
        )
        return EpochStream(self.next_item, self.steps_per_epoch // per_item)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """An item that lies in the host's memory is where the CPU needs it: Lightning need not look through it."""
        if device.type == "cpu" and not self.memory_on_device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def next_item(self, acting: Acting | None = None) -> Any:
        """A round of interaction, and what is learned from after it.

        Args:
            acting: the way to explore, if it was made already.

        Raises:
            EnvironmentLostError: environments failed, of whichever rank: all stop at this place, and can save.
        """
        assert self.experience is not None
        lost: EnvironmentLostError | None = None
        self._policy_at_rest = acting or self._acting_for_host()
        try:
            self.experience.interact()
        except EnvironmentLostError as error:
            lost = error
        finally:
            self._policy_at_rest = None
        if self.backend == "async" and self.trainer.world_size > 1:  # no other backend loses environments
            lost = self._lost_anywhere(lost)
        if lost is not None:
            lost.everywhere = True
            raise lost
        return self.experience.draw()

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Sampled actions for training; tensors live on the CPU, where the environments are.

        Gradients are recorded unless the caller, as the experience does, enters ``torch.no_grad``.
        """
        return (self._policy_at_rest or self._acting_for_host()).explore(observation, noise)

    def environment_units(self, action: Tensor) -> Actions:
        """Sampled actions as the environments take them."""
        acting = self._policy_at_rest or self._acting_for_host()
        return self._environment_actions(acting.to_environment(action.detach()))

    def _acting_for_host(self) -> Acting:
        """`acting_at_rest`, in this module's precision on its device, for tensors that live on the CPU."""
        acting, device, dtype = self.acting_at_rest(), self.device, self.parameter_dtype
        if device.type == "cpu" and dtype == torch.float32:
            return acting

        def here(given: Tensor) -> Tensor:
            return given.to(device, dtype if given.is_floating_point() else None)

        def explore(observation: Tensor, noise: Tensor) -> Tensor:
            action = acting.explore(here(observation), here(noise)).cpu()
            return action.float() if action.is_floating_point() else action  # as it is remembered

        return Acting(explore, lambda action: acting.to_environment(here(action)).cpu())

    def _lost_anywhere(self, ours: EnvironmentLostError | None) -> EnvironmentLostError | None:
        strategy = self.trainer.strategy
        loser = torch.tensor(-1 if ours is None else self.global_rank, device=strategy.root_device)
        rank = int(strategy.reduce(loser, reduce_op="max"))
        if rank < 0:
            return None
        reasons = strategy.broadcast({} if ours is None else ours.reasons, src=rank)
        return ours or EnvironmentLostError(reasons, self.num_envs, rank)

    # Evaluation: an episode, named by its seed, is a sample.

    def val_dataloader(self) -> SeedBatches:
        """The validation episodes, the same ones at every evaluation of every run."""
        return self._seed_batches(VALIDATION_SEEDS)

    def test_dataloader(self) -> SeedBatches:
        """The test episodes, none of which is ever validated or trained on."""
        return self._seed_batches(TEST_SEEDS)

    def predict_dataloader(self) -> SeedBatches:
        """The test episodes."""
        return self._seed_batches(TEST_SEEDS)

    def validation_step(self, seeds: Tensor, batch_idx: int) -> None:
        """Plays a batch of validation episodes greedily."""
        self._evaluate(seeds)

    def test_step(self, seeds: Tensor, batch_idx: int) -> None:
        """Plays a batch of test episodes greedily."""
        self._evaluate(seeds)

    def predict_step(self, seeds: Tensor, batch_idx: int) -> list[Trajectory]:
        """Plays a batch of test episodes greedily and returns them whole."""
        return self._play(seeds)

    def on_validation_epoch_end(self) -> None:
        """Logs the statistics of the validation episodes, and steps the schedules that wait for them."""
        self._log_statistics("val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            for scheduler in self._schedulers():
                if isinstance(scheduler, ReduceLROnPlateau):
                    monitor = getattr(scheduler, "monitor", "val/return")
                    scheduler.step(self.trainer.callback_metrics[monitor])

    def on_test_epoch_end(self) -> None:
        """Logs the statistics of the test episodes."""
        self._log_statistics("test")

    def _seed_batches(self, seeds: Sequence[int]) -> SeedBatches:
        trainer = self.trainer
        if self.eval_episodes < trainer.world_size:
            raise ValueError(
                f"eval_episodes={self.eval_episodes}: at least one for each of the {trainer.world_size} ranks was "
                "expected."
            )
        return SeedBatches(seeds, self.eval_episodes, trainer.global_rank, trainer.world_size, self.num_envs)

    def _evaluate(self, seeds: Tensor) -> None:
        episodes = self._play(seeds)
        self.episode_statistics.update([float(e.rewards.sum()) for e in episodes], [len(e.rewards) for e in episodes])

    def _play(self, seeds: Tensor) -> list[Trajectory]:
        while len(self._evaluation_environments) < len(seeds):
            self._evaluation_environments.append(self.environment.make_checked())
        # A policy acts in its parameters' own precision, here as in `act` and in an exported file.
        with torch.autocast(self.device.type, enabled=False):
            return play(self._evaluation_environments, seeds.tolist(), self._greedy())

    def _log_statistics(self, stage: str) -> None:
        statistics = {f"{stage}/{name}": value.float() for name, value in self.episode_statistics.compute().items()}
        self.episode_statistics.reset()
        if self.trainer.state.fn != TrainerFn.FITTING:
            # A metric of this name is the loggers' axis; in `fit`, where checkpoints name their files after `step`,
            # it must stay Lightning's.
            self.log_dict({**statistics, "step": torch.tensor(float(self.environment_steps))})
            return
        self.log_dict(statistics, logger=False)
        if not self.trainer.sanity_checking:
            self._write({name: float(value) for name, value in statistics.items()})

    # Updates: gradients are the same on all ranks, an optimizer's step is counted once an update.

    def update_optimizers(self) -> list[Any]:
        """The optimizers, of which the first alone advances ``trainer.global_step``."""
        counted, raw = self.optimizers(), self.optimizers(use_pl_optimizer=False)
        if isinstance(counted, LightningOptimizer):
            return [counted]
        assert isinstance(counted, list)
        assert isinstance(raw, list)
        return [counted[0], *raw[1:]]

    def apply_gradients(self, optimizer: Any, gradients: Sequence[Tensor]) -> None:
        """Takes the optimizer's step.

        Args:
            optimizer: one of `update_optimizers`.
            gradients: one for each of its parameters, in their order, averaged over ranks.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    def count_step(self) -> None:
        """Advances ``trainer.global_step`` for a step that was taken without Lightning's optimizer."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def step_schedules(self) -> None:
        """One step of every learning-rate schedule that does not wait for an evaluation; called once an update."""
        for scheduler in self._schedulers():
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()

    def _schedulers(self) -> list[LRScheduler]:
        schedulers = self.lr_schedulers()
        if schedulers is None:
            return []
        return schedulers if isinstance(schedulers, list) else [schedulers]

    # Logging and checkpoints.

    rounds_per_item = 1
    """Rounds of interaction that one item of the stream carries."""

    updates_per_item = 1
    """Updates that one item of the stream carries."""

    def on_fit_start(self) -> None:
        """Says which of the user's checkpoints would fire late or never, and where a limit loses updates."""
        warn_of_uncrossed(self.trainer, self.updates_per_item, self.rounds_per_item)
        tell_of_split_item(self.trainer, self.updates_per_item, self.rounds_per_item)

    def on_train_start(self) -> None:
        """Takes back what was logged, and drawn, after the checkpoint from which training goes on."""
        if self._loaded_random is not None:
            set_random_state(self._loaded_random, self.device)
            self._loaded_random = None
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.rewind(self.environment_steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Forgets the episodes that the item before reported."""
        if self.ended_episodes:
            self.ended_episodes = ()

    def report(self, values: Mapping[str, float]) -> None:
        """Gives values to callbacks, progress bar and loggers, with the training episodes that ended meanwhile."""
        assert self.experience is not None
        self.ended_episodes = episodes = self.experience.collector.finished()
        statistics = EpisodeStatistics(sync_on_compute=False)  # this rank's: another may have no episode to tell of
        if episodes:
            statistics.update([e.episode_return for e in episodes], [e.length for e in episodes])
            computed = statistics.compute()
            values = {**values, **{f"train/{name}": float(computed[name]) for name in ("return", "length")}}
        self.log_dict(dict(values), logger=False, batch_size=1)
        self._write(values)

    def _write(self, values: Mapping[str, float]) -> None:
        """Gives values to the loggers, on the exact axis of environment steps, and once.

        Through ``self.log`` they would be rounded to float32, and repeated in every row until the next value comes.
        """
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(values), step=self.environment_steps)
            logger.save()

    def configure_callbacks(self) -> list[Callback]:
        """Checkpoints, learning curve, summary, interruption and progress, where the user has not brought their own."""
        return default_callbacks(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the format version, the environment, and (in a full checkpoint) the experience."""
        checkpoint["lightning_rl"] = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "environment": self.environment.name,
            "action_repeat": self.environment.action_repeat,
            "spaces": describe_spaces(self.observation_space, self.action_space),
            "environment_steps": self.environment_steps,
            "world_size": self.trainer.world_size,
        }
        if "optimizer_states" in checkpoint and self.experience is not None:
            checkpoint["experience"] = self.experience.state_dict() | {"torch_random": random_state(self.device)}
            if self.trainer.world_size > 1:
                checkpoint["shards"] = write_shard(self.trainer, checkpoint["experience"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint fits this module, and takes its experience over when training goes on.

        Raises:
            ValueError: the checkpoint has a newer format, other spaces, or (in ``fit``) another environment or another
                `action_repeat`.
        """
        spaces = describe_spaces(self.observation_space, self.action_space)
        require_compatible(checkpoint, self.algorithm, self.environment.name, spaces)
        ours = checkpoint["lightning_rl"]
        self._loaded_steps = ours["environment_steps"]
        weights = [weight for weight in checkpoint["state_dict"].values() if weight.is_floating_point()]
        if self._trainer is None and all(weight.dtype == torch.float64 for weight in weights):
            self.double()  # before load_from_checkpoint copies them
        if self.experience is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        require_same_run(checkpoint, self.environment.name, self.environment.action_repeat)
        self._loaded_steps = None
        experience = checkpoint["experience"]
        try:
            if ours["world_size"] != self.trainer.world_size:
                self._refill(checkpoint)
                return
            if self.trainer.global_rank > 0:
                path = Path(str(self.trainer.ckpt_path))
                experience = read_shard(path, checkpoint["shards"], self.trainer.global_rank)
            self.experience.load_state_dict(experience)
            self._loaded_random = experience["torch_random"]
            set_random_state(self._loaded_random, self.device)  # and again where training goes on, after the set-up
        except KeyError as error:
            raise ValueError(
                f"the checkpoint's experience lacks {error}, as one that another version wrote may: "
                "begin anew with its weights, or go on with the version that wrote it."
            ) from error

    def _refill(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the weights of a checkpoint of another number of ranks, in episodes of its own."""
        steps, ranks = checkpoint["lightning_rl"]["environment_steps"], self.trainer.world_size
        # Not the run's own seed, whose first episodes were lived already.
        self.experience = self.make_experience(checkpoint["experience"]["collector"]["run_seed"] + steps)
        per_step = self.environment.action_repeat * ranks
        self.experience.collector.steps = -(-steps // per_step)  # rounded up: what was logged lies in the past
        refilled = self.experience.take_over(checkpoint["experience"])
        rank_zero_info(
            f"The checkpoint is of {checkpoint['lightning_rl']['world_size']} ranks, and there are {ranks} now: "
            f"weights, optimizers and counts go on; every rank begins new episodes, and {refilled}."
        )

    def _store_plain_hyperparameters(self) -> None:
        """Turns the hyperparameters into plain values, from which ``load_from_checkpoint`` builds the module again.

        Those that came from the command line are plain already.
        """
        if "_instantiator" not in self.hparams:
            values = storable(self)
            self.hparams.clear()
            self.save_hyperparameters(values)
