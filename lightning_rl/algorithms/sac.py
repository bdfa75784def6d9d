import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from lightning.pytorch import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_rl.adam import AdamState, adam_state, is_plain_adam, step_scales, take_step
from lightning_rl.algorithms.hyperparameters import require_integer, require_multiple, require_within
from lightning_rl.algorithms.items import tell_of_short_items
from lightning_rl.algorithms.module import Acting, RLModule
from lightning_rl.compilation import Settled, between_replays, can_compile, compiled
from lightning_rl.denormals import flush_denormals
from lightning_rl.distributed import average
from lightning_rl.experience import Noise, ReplayBuffer, ReplayExperience, Transition, Updates
from lightning_rl.networks import DoubleCritic, GaussianNetwork, SquashedGaussianActor, track
from lightning_rl.products import fast_products

ROUNDS_TO_FLUSH = 50  # it takes as long as a fifth of an update; numbers become denormal after hundreds of them
COMPILED = ("critic_gradients", "actor_gradients", "update_at_once")
OPTIMIZED = ("critics", "actor", "temperature")
CRITICS, ACTOR, TEMPERATURE = range(3)


class CriticGradients(NamedTuple):
    """What one batch says of the critics."""

    gradients: Sequence[Tensor]
    """One for each parameter that learns."""
    total: Tensor
    """The sum of all of them, which is finite only if they are."""
    loss: Tensor
    q: Tensor
    """The mean of both critics' values over the batch."""


class ActorGradients(NamedTuple):
    """What one batch says of the actor."""

    gradients: Sequence[Tensor]
    """One for each parameter that learns."""
    total: Tensor
    """The sum of all of them, which is finite only if they are."""
    loss: Tensor
    log_prob: Tensor
    """``[batch]``, of the actions that the actor takes now."""


class UpdateSummary(NamedTuple):
    """What an update tells of itself, to be logged."""

    critic_loss: Tensor
    actor_loss: Tensor
    q: Tensor
    """The mean of both critics' values over the batch."""
    log_prob: Tensor
    """``[batch]``, of the actions that the actor takes now."""


MakeUpdate = Callable[[Transition, Noise], UpdateSummary]
"""Makes one update with a batch and its noise."""


class SACModule(RLModule):
    """Soft actor-critic (Haarnoja et al. 2018, arXiv 1801.01290 and 1812.05905) with twin critics.

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
        hidden_sizes: widths of the hidden layers of actor and critics.
        activation: the class of the activation after each hidden layer.
        actor: a network of one's own, observation ``[batch, observation_size]`` to the mean and the logarithm of the
            standard deviation of a Gaussian, both ``[batch, action_size]``; squashing and scaling are added to it.
        critic: twin critics of one's own, observation ``[batch, observation_size]`` and action
            ``[batch, action_size]`` in (-1, 1) to both values, ``[2, batch]``.
        gamma: discount γ of the return.
        tau: rate τ at which the target critics follow the critics, per update.
        alpha: temperature α: the weight of the entropy, or ``auto`` to learn it.
        target_entropy: the entropy that ``alpha="auto"`` aims at, in nats of normalised actions; ``auto`` is minus the
            number of action dimensions.
        batch_size: transitions a gradient update, per rank.
        buffer_size: transitions that the replay buffer holds, per rank.
        learning_starts: environment steps with uniformly random actions before the first update, per rank.
        train_freq: environment steps a round, over the environments of one rank.
        gradient_steps: updates after each round; -1 means as many as the round had steps.
        rounds_per_item: rounds that one item of Lightning's loop carries, each with its updates. What is learned stays
            the same, unless a callback changes settings between items: it saves what the loop costs an item, where a
            round is short. Hooks, logging and limits count items.
        noise_correlation: correlation ρ of successive exploration noise, in [0, 1); 0 is white noise.
        actor_averaging: rate at which a second actor follows the actor, per update: it is then the one that is
            validated, tested and exported, while the actor itself explores; 0 means none.
        save_replay_buffer: whether checkpoints hold the replay buffer, which resuming exactly needs.
        memory_on_device: whether the replay buffer is kept in the accelerator's memory, where a batch is then gathered,
            and only its indices and noise travel; a million of BipedalWalker-v3's transitions take 120 MB.
        steps_per_epoch: environment steps an epoch, over all ranks; an evaluation follows each epoch.
        eval_episodes: greedy episodes an evaluation, over all ranks.
        compile: whether an update is compiled by ``torch.compile``, Adam's steps included in a run of one CPU process:
            half a minute at the beginning for faster updates, and again whenever γ, τ, the target entropy or the
            averaging changes. Needs a C++ compiler, and without one goes on uncompiled. On a GPU what gives the
            gradients is replayed as CUDA graphs.
        optimizer: makes an optimizer from parameters, one each for critics, actor and temperature.
        lr_scheduler: makes a learning-rate schedule from an optimizer; it is stepped once an update (a
            ``ReduceLROnPlateau`` once an evaluation).

    Raises:
        ValueError: a number out of its range, or an environment that Gymnasium does not know.
        TypeError: a space that SAC cannot learn in.
    """

    algorithm = "SAC"

    def __init__(
        self,
        env: str | Callable[..., Any] = "BipedalWalker-v3",
        env_kwargs: dict[str, Any] | None = None,
        num_envs: int = 16,
        backend: Literal["sync", "async", "envpool"] = "sync",
        max_episode_steps: int | None = None,
        action_repeat: int = 1,
        env_timeout: float | None = 60.0,
        restart_envs: bool = False,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: type[nn.Module] = nn.ReLU,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        gamma: float = 0.98,
        tau: float = 0.01,
        alpha: float | Literal["auto"] = "auto",
        target_entropy: float | Literal["auto"] = "auto",
        batch_size: int = 256,
        buffer_size: int = 1_000_000,
        learning_starts: int = 10_000,
        train_freq: int = 16,
        gradient_steps: int = 10,
        rounds_per_item: int = 1,
        noise_correlation: float = 0.9,
        actor_averaging: float = 0.0,
        save_replay_buffer: bool = True,
        memory_on_device: bool = False,
        steps_per_epoch: int = 10_240,
        eval_episodes: int = 10,
        compile: bool = False,
        optimizer: Callable[[Any], Optimizer] = lambda parameters: Adam(parameters, lr=3e-4, fused=True),
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__(
            env,
            env_kwargs,
            num_envs,
            backend,
            max_episode_steps,
            action_repeat,
            env_timeout,
            restart_envs,
            memory_on_device,
            steps_per_epoch,
            eval_episodes,
        )
        with warnings.catch_warnings():  # networks that are given are not stored: see the next line
            warnings.filterwarnings("ignore", message="Attribute '(actor|critic)' is an instance of `nn.Module`")
            self.save_hyperparameters()
        self._store_plain_hyperparameters()
        action_space = _bounded(self.environment.name, self.action_space)
        require_integer(1, hidden_sizes=hidden_sizes, batch_size=batch_size)
        require_integer(1, buffer_size=buffer_size, train_freq=train_freq, rounds_per_item=rounds_per_item)
        require_integer(0, learning_starts=learning_starts)
        require_integer(-1, gradient_steps=gradient_steps)
        require_within(0, 1, gamma=gamma, tau=tau, actor_averaging=actor_averaging)
        require_within(0, 1, open_high=True, noise_correlation=noise_correlation)
        require_multiple(
            learning_starts=(learning_starts, "num_envs", num_envs),
            train_freq=(train_freq, "num_envs", num_envs),
            buffer_size=(buffer_size, "num_envs", num_envs),
        )
        if learning_starts > buffer_size:
            raise ValueError(
                f"learning_starts={learning_starts} is beyond buffer_size={buffer_size}: the buffer would never hold "
                "enough for the first update."
            )
        self.gamma = gamma
        self.tau = tau
        self.batch_size = batch_size
        self.buffer_size = buffer_size
        self.learning_starts = learning_starts
        self.train_freq = train_freq
        self.gradient_steps = train_freq if gradient_steps == -1 else gradient_steps
        self.rounds_per_item = rounds_per_item
        self.updates_per_item = self.gradient_steps * rounds_per_item
        self.noise_correlation = noise_correlation
        self.actor_averaging = actor_averaging
        self.save_replay_buffer = save_replay_buffer
        self.compiles = compile
        self._updates_at_once = False
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

        sizes = (int(np.prod(self.observation_space.shape)), int(np.prod(action_space.shape)))
        self.observation_size, self.action_size = sizes
        self.actor = SquashedGaussianActor(actor or GaussianNetwork(*sizes, hidden_sizes, activation), action_space)
        self.critic = critic or DoubleCritic(*sizes, hidden_sizes, activation)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.averaged_actor = deepcopy(self.actor).requires_grad_(False) if actor_averaging else None
        self.learns_alpha = alpha == "auto"
        for name, value in (("alpha", alpha), ("target_entropy", target_entropy)):
            if isinstance(value, str) and value != "auto":
                raise ValueError(f"{name}={value!r}: a number or 'auto' was expected.")
        if alpha != "auto":
            require_within(0, math.inf, alpha=alpha)
        if target_entropy != "auto":
            require_within(-math.inf, math.inf, target_entropy=target_entropy)
        self.target_entropy = -float(self.action_size) if target_entropy == "auto" else float(target_entropy)
        initial_alpha = 1.0 if alpha == "auto" else float(alpha)
        self.log_alpha = nn.Parameter(torch.tensor(initial_alpha).log(), requires_grad=self.learns_alpha)

    def setup(self, stage: str) -> None:
        """Begins or goes on with the experience, and compiles what an update calls where that is asked for."""
        super().setup(stage)
        device = self.trainer.strategy.root_device
        if stage == "fit" and self.compiles and can_compile(device):
            for name in COMPILED:
                setattr(self, name, compiled(getattr(self, name), device.type))

    def on_fit_start(self) -> None:
        """Says what the base does, and where items are shorter than they need be."""
        super().on_fit_start()
        rounds_per_epoch = self.steps_per_epoch // (self.train_freq * self.trainer.world_size)
        tell_of_short_items(self.trainer, self.updates_per_item, rounds_per_epoch)

    def on_train_start(self) -> None:
        """Chooses how updates are made, now that callbacks and optimizers are known."""
        super().on_train_start()
        self._updates_at_once = self._may_update_at_once()

    def teardown(self, stage: str) -> None:
        """Closes all environments, and lets go of what was compiled: it could not be copied or pickled."""
        self._updates_at_once = False
        for name in COMPILED:
            self.__dict__.pop(name, None)
        super().teardown(stage)

    # The update, in the order of the slides.

    def training_step(self, updates: Updates, batch_idx: int) -> None:
        """The gradient updates that follow one round of interaction, and the item's other rounds."""
        if batch_idx % max(1, ROUNDS_TO_FLUSH // self.rounds_per_item) == 0:
            for optimizer in self.trainer.optimizers:
                flush_denormals(optimizer)
        update = self._compiled_update() if self._updates_at_once else self._update_step_by_step()
        done = self.learn_from(updates, update)
        acting: Acting | None = None  # made once for all other rounds: it reads the weights as they change
        while self.item_goes_on():
            acting = acting or self._acting_for_host()
            done += self.learn_from(self.next_round(acting), update)
        if self.is_logging_step():
            self.report(self.summary(done))

    @fast_products()
    def learn_from(self, updates: Updates, update: MakeUpdate) -> list[UpdateSummary]:
        """The gradient updates that follow one round of interaction."""
        done: list[UpdateSummary] = []
        for batch, noise in self.each_update(updates):
            done.append(update(batch, noise))
            self.step_schedules()
        return done

    def update(
        self, descend: Callable[[int, Sequence[Tensor], Tensor], None], batch: Transition, noise: Noise
    ) -> UpdateSummary:
        """One update of critics, actor, temperature and targets.

        Args:
            descend: takes an optimizer's step: its index, gradients for its parameters, and the sum of all of them.
            batch: ``[batch, …]``.
            noise: ``[batch, action_size]`` each.

        Returns:
            What the batch said, without gradients.
        """
        critic = self.critic_gradients(batch, noise.next)
        descend(CRITICS, critic.gradients, critic.total)
        actor = self.actor_gradients(batch, noise.actor)
        descend(ACTOR, actor.gradients, actor.total)
        if self.learns_alpha:
            alpha = self.alpha_gradient(actor.log_prob)
            descend(TEMPERATURE, [alpha], alpha)
        track(self.target_critic, self.critic, self.tau)
        if self.averaged_actor is not None:
            track(self.averaged_actor, self.actor, self.actor_averaging)
        return UpdateSummary(critic.loss, actor.loss, critic.q, actor.log_prob)

    def critic_gradients(self, batch: Transition, noise: Tensor) -> CriticGradients:
        """∇θ of Σᵢ mean (Qᵢ(s, a) − y)², with y = r + γ (1 − terminated) (minᵢ Qᵢ⁻(s', a') − α log π(a'|s')).

        Haarnoja et al. 2018 (1812.05905), eq. 5–6, with the minimum of two target critics. The next
        action a' comes from the current actor.

        Args:
            batch: ``[batch, …]``.
            noise: ``[batch, action_size]``, of the next action.
        """
        with torch.no_grad():
            next_action, next_log_prob = self.actor.rsample(batch.next_observation, noise)
            next_q = self.target_critic(batch.next_observation, next_action).amin(0)
            next_value = next_q - self.alpha * next_log_prob
            target = batch.reward + self.gamma * next_value.masked_fill(batch.terminated, 0)
        q = self.critic(batch.observation, batch.action)
        loss = (q - target).square().mean(-1).sum()
        gradients = torch.autograd.grad(loss, learned(self.critic))
        return CriticGradients(gradients, sum_of(gradients), loss.detach(), q.detach().mean())

    def actor_gradients(self, batch: Transition, noise: Tensor) -> ActorGradients:
        """∇φ of mean α log π(f(ε, s)|s) − minᵢ Qᵢ(s, f(ε, s)), with respect to the actor alone: the critic is frozen.

        Haarnoja et al. 2018 (1812.05905), eq. 9.

        Args:
            batch: ``[batch, …]``.
            noise: ε, ``[batch, action_size]``.
        """
        action, log_prob = self.actor.rsample(batch.observation, noise)
        q = self.critic(batch.observation, action).amin(0)
        loss = (self.alpha * log_prob - q).mean()
        gradients = torch.autograd.grad(loss, learned(self.actor))
        return ActorGradients(gradients, sum_of(gradients), loss.detach(), log_prob.detach())

    def alpha_gradient(self, log_prob: Tensor) -> Tensor:
        """The derivative of mean −log α (log π + target entropy) with respect to log α (1812.05905, eq. 18).

        log α stands for α, as in the authors' implementation: a small temperature then grows back as fast as it fell.

        Args:
            log_prob: ``[batch]``, of the actions that the actor takes now.

        Returns:
            ``[]``.
        """
        return -(log_prob.mean() + self.target_entropy)

    @property
    def alpha(self) -> Tensor:
        """The temperature α, a constant of the critics' and the actor's losses."""
        return self.log_alpha.detach().exp()

    def each_update(self, updates: Updates) -> Iterator[tuple[Transition, Noise]]:
        """The minibatches of a round one by one, no more of them than ``max_steps`` allows."""
        batches = map(Transition._make, zip(*(field.unbind() for field in updates.batch), strict=True))
        noises = map(Noise._make, zip(*(field.unbind() for field in updates.noise), strict=True))
        return islice(zip(batches, noises, strict=False), self.updates_left())

    def _update_step_by_step(self) -> MakeUpdate:
        update = partial(self.update, partial(self.descend, self.update_optimizers()))
        return self._replayed(update) if self._replays() else update

    def _replays(self) -> bool:
        """Whether gradients come from CUDA graphs."""
        return "critic_gradients" in self.__dict__ and self.device.type == "cuda"

    def _replayed(self, update: MakeUpdate) -> MakeUpdate:
        """An update whose gradients lie where the next one's will: they are given up with it."""
        update_that_stays = between_replays(update)

        def replayed(batch: Transition, noise: Noise) -> UpdateSummary:
            summary = UpdateSummary(*update_that_stays(batch, noise))
            for optimizer in self.trainer.optimizers:
                optimizer.zero_grad()
            return summary

        return replayed

    def descend(self, optimizers: Sequence[Any], index: int, gradients: Sequence[Tensor], total: Tensor) -> None:
        """Averages the gradients over ranks and takes an optimizer's step.

        Args:
            optimizers: `update_optimizers`.
            index: which of them.
            gradients: one for each of its parameters, in their order.
            total: their sum, ``[]``, of their dtype.

        Raises:
            FloatingPointError: a gradient is not finite, on whichever rank; the step was not taken.
        """
        total, *gradients = average([total, *gradients])
        if not math.isfinite(total):
            raise self._not_finite(index)
        self.apply_gradients(optimizers[index], gradients)

    def _not_finite(self, index: int) -> FloatingPointError:
        return FloatingPointError(
            f"at global_step={self.trainer.global_step} a gradient of the {OPTIMIZED[index]} is not finite, and was "
            "not applied: no weight is spoiled, nor the last checkpoint. Look at the learning rates, the rewards' "
            "scale, and at networks and optimizers of your own."
        )

    # The update in one compiled function.

    def update_at_once(self, states: Sequence[AdamState], scales: Tensor, *sample: Tensor) -> tuple[Tensor, ...]:
        """`update` with the optimizers' steps in it, to be compiled as one function of tensors.

        Args:
            states: what the optimizers remember.
            scales: of their next steps, ``[optimizers, 6]``.
            *sample: the fields of a `Transition`, ``[batch, …]``, and those of a `Noise`, ``[batch, action_size]``.

        Returns:
            ``[optimizers]`` booleans, whether each step was taken, and the fields of what `update` gives. From the
            first gradient on that is not finite no step is taken, and targets and averages stay as they were.
        """
        fields = len(Transition._fields)
        batch, noise = Transition(*sample[:fields]), Noise(*sample[fields:])
        taken: list[Tensor] = []
        networks = [network for network in (self.target_critic, self.averaged_actor) if network is not None]
        followers = [each for network in networks for each in (*network.parameters(), *network.buffers())]
        before = [follower.clone() for follower in followers]

        def descend(index: int, gradients: Sequence[Tensor], total: Tensor) -> None:
            finite = total.isfinite()
            taken.append(taken[-1] & finite if taken else finite)
            take_step(states[index], scales[index], gradients, taken[-1])

        summary = self.update(descend, batch, noise)
        for follower, old in zip(followers, before, strict=True):
            follower.copy_(torch.where(taken[-1], follower, old))
        return torch.stack(taken), *summary

    def _compiled_update(self) -> MakeUpdate:
        """`update_at_once` for the updates of an item, in which no callback changes the networks."""
        optimizers = self.trainer.optimizers
        states = [adam_state(optimizer) for optimizer in optimizers]
        counts = [int(state.steps[0]) for state in states]
        settled: dict[tuple[float, ...], Settled] = {}  # by the numbers that are compiled into a function

        def update(batch: Transition, noise: Noise) -> UpdateSummary:
            counts[:] = [count + 1 for count in counts]
            numbers = self.gamma, self.tau, self.target_entropy, self.actor_averaging
            if numbers not in settled:
                settled[numbers] = Settled(partial(self.update_at_once, states))
            taken, *summary = settled[numbers](step_scales(optimizers, counts), *batch, *noise)
            for index, was_taken in enumerate(taken.tolist()):
                if not was_taken:
                    raise self._not_finite(index)
                if index == CRITICS:
                    self.count_step()
            return UpdateSummary(*summary)

        return update

    def _may_update_at_once(self) -> bool:
        """Whether it was compiled, and nothing waits for the optimizers' steps: no rank, hook or class of one's own."""
        trainer: Any = self.trainer  # whose own annotations miss its callbacks
        hook = "on_before_optimizer_step"
        return (
            "update_at_once" in self.__dict__
            and trainer.world_size == 1
            and all(map(is_plain_adam, trainer.optimizers))
            and not any(is_overridden(name, self, SACModule) for name in ("descend", "apply_gradients", hook))
            and not any(is_overridden(hook, callback, Callback) for callback in trainer.callbacks)
        )

    def next_round(self, acting: Acting) -> Updates:
        """Another round of interaction for the same item; it goes through the module's hooks for a batch, as others do.

        Args:
            acting: the way to explore.
        """
        with outside_precision(self.device.type):
            updates = self.trainer.precision_plugin.convert_input(self.next_item(acting))
        updates = self.on_before_batch_transfer(updates, 0)
        updates = self.transfer_batch_to_device(updates, self.device, 0)
        moved: Updates = self.on_after_batch_transfer(updates, 0)
        return moved

    def item_goes_on(self) -> bool:
        """Whether more rounds belong to this item: it ends where its number of rounds divides those of the run.

        So it does when an item was broken off in the middle, and goes on in a resumed run.
        """
        assert self.experience is not None
        per_round, steps = self.experience.steps_per_round, self.experience.collector.steps
        return steps % (per_round * self.rounds_per_item) >= per_round and self.updates_left() != 0

    def updates_left(self) -> int | None:
        """How many updates ``max_steps`` still allows, if it is set."""
        limit = self.trainer.max_steps
        return None if limit == -1 else max(0, limit - self.trainer.global_step)

    def is_logging_step(self) -> bool:
        """Whether the trainer logs this item: it costs time, so one in ``log_every_n_steps`` is logged."""
        trainer: Any = self.trainer  # whose own annotations miss these two
        every = trainer.log_every_n_steps
        return bool(trainer.fast_dev_run) or (every > 0 and (self.trainer.fit_loop.total_batch_idx + 1) % every == 0)

    def summary(self, done: Sequence[UpdateSummary]) -> dict[str, float]:
        """What is logged of an item's updates: their means, and the temperature after the last one."""
        if not done:
            return {}

        def mean(values: Sequence[Tensor]) -> float:
            return float(torch.stack([value.float().mean() for value in values]).mean())

        return {
            "sac/critic_loss": mean([update.critic_loss for update in done]),
            "sac/actor_loss": mean([update.actor_loss for update in done]),
            "sac/q": mean([update.q for update in done]),
            "sac/alpha": float(self.alpha),
            "sac/entropy": -mean([update.log_prob for update in done]),
        }

    def configure_optimizers(self) -> Any:
        """One optimizer each for the critics, the actor and, where it is learned, the temperature."""
        parameters = [learned(self.critic), learned(self.actor)]
        if self.learns_alpha:
            parameters.append([self.log_alpha])
        optimizers = [self.optimizer(each) for each in parameters]
        if self.lr_scheduler is None:
            return optimizers
        return optimizers, [self.lr_scheduler(optimizer) for optimizer in optimizers]

    # Acting.

    def greedy_policy(self) -> nn.Module:
        """The averaged actor, if there is one, or the actor: what they give is their mode."""
        return self.averaged_actor or self.actor

    def sampled_action(self, observation: Tensor) -> Tensor:
        """An action sampled from the actor, in the environment's units."""
        noise = torch.randn(len(observation), self.action_size, dtype=self.parameter_dtype, device=self.device)
        return self.actor.to_environment(self.actor.explore(observation, noise))

    def acting_at_rest(self) -> Acting:
        """The actor's ways to explore, which read its weights as they change."""
        return Acting(self.actor.explore_at_rest(), self.actor.to_environment_at_rest())

    # The experience.

    def make_experience(self, run_seed: int) -> ReplayExperience:
        """An empty replay buffer before environments that have not been stepped."""
        return ReplayExperience(
            self.make_collector(run_seed),
            ReplayBuffer(self.buffer_size, self.num_envs, self.observation_size, self.action_size, self.memory_device),
            self.explore,
            self.environment_units,
            batch_size=self.batch_size,
            learning_starts=self.learning_starts,
            train_freq=self.train_freq,
            gradient_steps=self.gradient_steps,
            noise_correlation=self.noise_correlation,
            run_seed=run_seed,
            rank=self.global_rank,
            keep_buffer=self.save_replay_buffer,
        )


@contextmanager
def outside_precision(device_type: str) -> Iterator[None]:
    """Leaves autocast and the default dtype that the precision plugin sets around a ``training_step``."""
    before = torch.get_default_dtype()
    if before == torch.float32 and not torch.is_autocast_enabled(device_type):  # which need not be left
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def learned(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn: a part of a network of the user's own may be frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of all the numbers of the tensors, ``[]``."""
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def _bounded(name: str, space: gym.Space[Any]) -> Box:
    """The action space, if SAC can act in it.

    Raises:
        TypeError: it is discrete, holds integers, or is no ``Box``.
        ValueError: it is unbounded.
    """
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        advice = "wrap the environment" if isinstance(space, gym.spaces.MultiBinary) else "use TRPO"
        raise TypeError(
            f"{name} has the action space {space}, and SAC needs a bounded Box: {advice} for discrete actions."
        )
    if not isinstance(space, Box):
        raise TypeError(
            f"{name} has the action space {type(space).__name__}, and SAC needs a bounded Box: wrap the environment "
            "so that an action is one vector."
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise TypeError(f"{name} has the action space {space}, which holds integers, and SAC acts in real numbers.")
    if not space.is_bounded():
        raise ValueError(
            f"{name} has unbounded actions ({space}), and SAC squashes actions into bounds: use TRPO, or give the "
            "environment bounds of your choice with gymnasium.wrappers.TransformAction(env, lambda action: action, "
            "Box(low, high))."
        )
    return space
