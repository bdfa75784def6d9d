import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.functional import explained_variance

from lightning_rl.algorithms.hyperparameters import require_integer, require_within
from lightning_rl.algorithms.module import Acting, RLModule
from lightning_rl.distributed import average
from lightning_rl.experience import ExplorationNoise
from lightning_rl.experience.returns import generalized_advantages, monte_carlo_returns
from lightning_rl.experience.rollout import Rollout, RolloutMemory
from lightning_rl.experience.rollout_experience import RolloutExperience
from lightning_rl.garbage import swept
from lightning_rl.moments import ReturnScaler, moments, pooled
from lightning_rl.networks import track
from lightning_rl.networks.categorical_policy import CategoricalPolicy
from lightning_rl.networks.make_policy import make_policy
from lightning_rl.networks.mirror import Mirror
from lightning_rl.networks.policy import GreedyPolicy
from lightning_rl.networks.value import ValueNetwork
from lightning_rl.products import fast_products
from lightning_rl.trust_region import (
    LineSearch,
    fisher_vector_product,
    flatten,
    line_search,
    natural_step,
    unflatten,
)

UNUSABLE_IN_A_ROW = 10
WORTH_FAST_PRODUCTS = 1024
"""Rows of a minibatch from which oneDNN's products, with 64 to 128 units, make up for what calling them costs."""


class PolicyStep(NamedTuple):
    """A step of the policy's parameters within the trust region."""

    step: Sequence[Tensor]
    """One tensor a parameter; zeros where no step could be taken."""
    search: LineSearch
    gradient_norm: float
    entropy: float
    unusable: str | None
    """Why the numbers allowed no step, if they did not."""


class TRPOModule(RLModule):
    """Trust region policy optimization (Schulman et al. 2015, arXiv 1502.05477) with GAE (1506.02438).

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
        hidden_sizes: widths of the hidden layers of policy and value function.
        activation: the class of the activation after each hidden layer; it may be traced: no branching on numbers.
        gamma: discount γ of the return.
        gae_lambda: λ of the advantage estimate: 0 trusts the value function, 1 the rewards.
        max_kl: δ, the mean KL divergence from the old policy that a step may reach.
        cg_iters: iterations of conjugate gradient.
        cg_damping: added to the Fisher matrix's diagonal.
        fisher_stride: takes every n-th state for the Fisher matrix; 1 takes all.
        line_search_steps: step sizes tried at most.
        line_search_decay: each is this fraction of the one before.
        rollout_steps: steps of each environment a rollout.
        squash_actions: whether tanh brings a Gaussian's samples into the bounds of the actions, instead of clipping:
            then a policy that acts at full force still feels what a smaller action would change.
        mirror: in which the environment looks the same, as with the two legs of a walker exchanged: the policy then
            does the same in the mirror, and the value function is fitted to what it shows as well. Nobody checks
            that the environment does. Actions are real numbers.
        noise_correlation: correlation ρ of successive sampling noise, in [0, 1), where actions are real numbers; 0 is
            white noise, the paper's. Log-probabilities are those of single actions, whatever ρ is.
        value_epochs: passes of the value function's fit over a rollout.
        value_batch_size: transitions a step of that fit, per rank.
        value_rollouts: rollouts that the fit draws from, the newest and those before it: rare events, such as falls,
            are then not forgotten at once. A pass stays as long as one rollout.
        value_hidden_sizes: widths of the value function's hidden layers; ``hidden_sizes`` if they are not given.
        value_sees_time: whether the value function sees how much of the time limit has passed, which the policy does
            not: what is left to gain often depends on it, and what it cannot know is noise in the advantages (Pardo et
            al. 2018, 1712.00378).
        value_target: what the value function is fitted to: ``monte_carlo`` returns with bootstrap, or ``gae``, the
            advantage estimate plus the value.
        normalize_observations: whether policy and value function look at observations through their running mean and
            deviation; ``value`` means the value function alone.
        normalize_rewards: whether rewards are divided by the running standard deviation of the return.
        policy_averaging: rate at which a second policy follows the policy, per update: it is then the one that is
            validated, tested and exported, while the policy itself acts and learns; 0 means none.
        memory_on_device: whether rollouts are valued and kept on the accelerator: they move there once, instead of
            for every use.
        steps_per_epoch: environment steps an epoch, over all ranks; an evaluation follows each epoch.
        eval_episodes: greedy episodes an evaluation, over all ranks.
        optimizer: makes the value function's optimizer from its parameters.
        lr_scheduler: makes a learning-rate schedule from that optimizer; it is stepped once a rollout (a
            ``ReduceLROnPlateau`` once an evaluation).
        policy_lr_scheduler: makes a schedule of the policy's steps, whose rate begins at one and scales the natural
            step: the divergence that is reached follows its square.

    Raises:
        ValueError: a number out of its range, or an environment that Gymnasium does not know.
        TypeError: a space that TRPO cannot learn in.
    """

    algorithm = "TRPO"

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
        hidden_sizes: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        max_kl: float = 0.01,
        cg_iters: int = 10,
        cg_damping: float = 0.1,
        fisher_stride: int = 1,
        line_search_steps: int = 10,
        line_search_decay: float = 0.8,
        rollout_steps: int = 128,
        squash_actions: bool = False,
        mirror: Mirror | None = None,
        noise_correlation: float = 0.0,
        value_epochs: int = 10,
        value_batch_size: int = 512,
        value_rollouts: int = 1,
        value_hidden_sizes: Sequence[int] | None = None,
        value_sees_time: bool = False,
        value_target: Literal["monte_carlo", "gae"] = "monte_carlo",
        normalize_observations: bool | Literal["value"] = True,
        normalize_rewards: bool = True,
        policy_averaging: float = 0.0,
        memory_on_device: bool = False,
        steps_per_epoch: int = 20_480,
        eval_episodes: int = 10,
        optimizer: Callable[[Any], Optimizer] = lambda parameters: Adam(parameters, lr=1e-3, fused=True),
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        policy_lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
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
        self.save_hyperparameters()
        self._store_plain_hyperparameters()
        require_integer(1, hidden_sizes=hidden_sizes, cg_iters=cg_iters, fisher_stride=fisher_stride)
        require_integer(1, line_search_steps=line_search_steps, rollout_steps=rollout_steps)
        require_integer(1, value_epochs=value_epochs, value_batch_size=value_batch_size, value_rollouts=value_rollouts)
        value_sizes = hidden_sizes if value_hidden_sizes is None else value_hidden_sizes
        require_integer(1, value_hidden_sizes=value_sizes)
        require_within(0, 1, gamma=gamma, gae_lambda=gae_lambda, policy_averaging=policy_averaging)
        require_within(0, 1, open_low=True, open_high=True, line_search_decay=line_search_decay)
        require_within(0, 1, open_high=True, noise_correlation=noise_correlation)
        require_within(0, math.inf, open_low=True, max_kl=max_kl)
        require_within(0, math.inf, cg_damping=cg_damping)
        if normalize_observations not in (True, False, "value"):
            raise ValueError(f"normalize_observations={normalize_observations!r}: true, false or 'value' was expected.")
        if value_target not in ("monte_carlo", "gae"):
            raise ValueError(f"value_target={value_target!r}: 'monte_carlo' or 'gae' was expected.")
        if rollout_steps * num_envs < value_batch_size:
            raise ValueError(
                f"a rollout of rollout_steps={rollout_steps} steps in num_envs={num_envs} environments is shorter than "
                f"a minibatch of value_batch_size={value_batch_size}: value_batch_size may be at most "
                f"{rollout_steps * num_envs}."
            )
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.max_kl = max_kl
        self.cg_iters = cg_iters
        self.cg_damping = cg_damping
        self.fisher_stride = fisher_stride
        self.line_search_steps = line_search_steps
        self.line_search_decay = line_search_decay
        self.rollout_steps = rollout_steps
        self.noise_correlation = noise_correlation
        self.value_epochs = value_epochs
        self.value_batch_size = value_batch_size
        self.value_rollouts = value_rollouts
        self.value_sees_time = value_sees_time
        self.value_target = value_target
        self.normalize_rewards = normalize_rewards
        self.policy_averaging = policy_averaging
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.policy_lr_scheduler = policy_lr_scheduler
        self.observation_size = math.prod(self.observation_space.shape)
        self.policy = make_policy(
            self.environment.name,
            self.action_space,
            self.observation_size,
            hidden_sizes=hidden_sizes,
            activation=activation,
            normalize_observations=normalize_observations is True,
            squash_actions=squash_actions,
            mirror=mirror,
        )
        self.averaged_policy = deepcopy(self.policy).requires_grad_(False) if policy_averaging else None
        if noise_correlation and isinstance(self.policy, CategoricalPolicy):
            raise ValueError(
                f"noise_correlation={noise_correlation}: only Gaussian noise can be correlated, and "
                f"{self.environment.name} has the action space {self.action_space}: leave noise_correlation at 0."
            )
        self.value = ValueNetwork(
            self.observation_size + value_sees_time, value_sizes, activation, bool(normalize_observations)
        )
        self.unusable_in_a_row = 0
        self.unusable = 0

    # The step, in the order of the paper.

    def training_step(self, rollout: Rollout, batch_idx: int) -> None:
        """One step of the policy within the trust region, then the value function's fit; one ``global_step``."""
        policy_optimizer, value_optimizer = self.update_optimizers()
        with torch.autocast(self.device.type, enabled=False):  # a KL divergence of 0.01 needs more digits
            policy = self.policy_step(rollout, policy_optimizer.param_groups[0]["lr"])
        self.apply_gradients(policy_optimizer, [-step for step in policy.step])  # which it multiplies by its rate
        value_loss = self.fit_value(rollout, value_optimizer)
        self.count_unusable(what_went_wrong(policy, value_loss))
        self.update_normalizers(rollout)
        if self.averaged_policy is not None:
            track(self.averaged_policy, self.policy, self.policy_averaging)
        self.step_schedules()
        self.report(self.summary(rollout, policy, value_loss))

    @fast_products()
    def policy_step(self, rollout: Rollout, rate: float) -> PolicyStep:
        """The natural gradient's direction, as far as the KL divergence allows and the surrogate objective rises.

        Args:
            rollout: of the policy as it is.
            rate: by which the optimizer is going to multiply the step: the line search looks where that leads.
        """
        parameters = list(self.learned().values())
        distribution = self.policy(rollout.observation)
        old, advantage = distribution.detach(), self.normalized(rollout.advantage)
        entropy = float(self.policy.entropy(old).mean())

        def surrogate(new: Tensor) -> Tensor:
            """E[A π/π_old] (1502.05477, eq. 14)."""
            return (advantage * (self.policy.log_prob(new, rollout.action) - rollout.log_prob).exp()).mean()

        gradient = flatten(average(torch.autograd.grad(surrogate(distribution), parameters)))
        full_step = self.full_step(rollout.observation, parameters, gradient)
        if full_step is None:
            nothing = LineSearch(0.0, 0.0, 0.0, 0)
            zeros = [torch.zeros_like(parameter) for parameter in parameters]
            return PolicyStep(zeros, nothing, float(gradient.norm()), entropy, what_is_unusable(advantage, gradient))

        before = surrogate(old)

        @torch.no_grad()
        def evaluate(fraction: float) -> tuple[float, float]:
            step = unflatten(rate * fraction * full_step, parameters)
            moved = [parameter + change for parameter, change in zip(parameters, step, strict=True)]
            new = self.distribution_with(moved, rollout.observation)
            gain, kl = average([surrogate(new) - before, self.policy.kl(old, new).mean()])
            return float(gain), float(kl)

        search = line_search(evaluate, self.line_search_steps, self.line_search_decay, self.max_kl)
        step = unflatten(search.fraction * full_step, parameters)
        return PolicyStep(step, search, float(gradient.norm()), entropy, None)

    @swept()  # a linearised network, if there are many states, is a graph, whose nodes hold one another
    def full_step(self, observation: Tensor, parameters: Sequence[Tensor], gradient: Tensor) -> Tensor | None:
        """The step that the line search begins with, ``[n]``, if any; F is of every `fisher_stride`-th state."""
        states = observation.flatten(0, 1)[:: self.fisher_stride]
        distribution = partial(self.distribution_with, observation=states)
        product = fisher_vector_product(distribution, parameters, self.policy.fisher_product, self.cg_damping)
        return natural_step(product, gradient, self.cg_iters, self.max_kl)

    def distribution_with(self, parameters: Sequence[Tensor], observation: Tensor) -> Tensor:
        """The distributions' parameters if the policy had other parameters in the place of those that it learns."""
        named = dict(zip(self.learned(), parameters, strict=True))
        distribution: Tensor = functional_call(self.policy, named, (observation,))
        return distribution

    def learned(self) -> dict[str, nn.Parameter]:
        """The policy's parameters that learn, by name: a callback may have taken some over."""
        return {name: parameter for name, parameter in self.policy.named_parameters() if parameter.requires_grad}

    def normalized(self, advantage: Tensor) -> Tensor:
        """The advantages with mean zero and deviation one, over all ranks."""
        over_all = pooled(moments(advantage.unsqueeze(-1)))
        return (advantage - over_all.mean.to(advantage)) / (over_all.variance.to(advantage).sqrt() + 1e-8)

    def fit_value(self, rollout: Rollout, optimizer: Any) -> float:
        """Fits V to its targets by `value_epochs` passes of minibatches; returns the mean loss of the last one.

        A loss or gradient that is not finite ends the fit before it reaches the weights, and NaN is returned.
        """
        seen, target = self.seen_by_value(rollout.observation, rollout.elapsed), rollout.value_target.flatten()
        seen = seen.flatten(0, 1)
        if rollout.earlier is not None:
            seen = torch.cat([seen, self.seen_by_value(rollout.earlier.observation, rollout.earlier.elapsed)])
            target = torch.cat([target, rollout.earlier.value_target])
        parameters, size = list(self.value.parameters()), self.value_batch_size
        losses: list[Tensor] = []
        with fast_products() if size >= WORTH_FAST_PRODUCTS else nullcontext():
            for order in rollout.order:
                losses = []
                inputs_of_all = self.half_mirrored(seen[order])
                for inputs, targets in zip(inputs_of_all.split(size), target[order].split(size), strict=True):
                    loss = self.value_loss(inputs, targets)
                    # The loss is averaged with its gradients, so that all ranks decide alike.
                    loss, *gradients = average([loss.detach(), *torch.autograd.grad(loss, parameters)])
                    if not flatten([loss, *gradients]).sum().isfinite():  # which no other number can make good again
                        return math.nan
                    self.apply_gradients(optimizer, gradients)
                    losses.append(loss)
        return float(torch.stack(losses).mean())

    def half_mirrored(self, seen: Tensor) -> Tensor:
        """Every other one of rows in random order as it looks in the mirror, if there is one: V is the same there.

        Args:
            seen: ``[n, …]``, as `seen_by_value` gives it; it is changed.
        """
        if self.policy.reflections is not None:
            own = slice(None, self.observation_size)  # but for the time, which no mirror changes
            seen[::2, own] = self.policy.reflections.of_observation(seen[::2, own])
        return seen

    def value_loss(self, seen: Tensor, target: Tensor) -> Tensor:
        """Mean (V(s) − target)².

        Args:
            seen: ``[batch, …]``, as `seen_by_value` gives it.
            target: ``[batch]``.
        """
        loss: Tensor = (self.value(seen) - target).square().mean()
        return loss

    def seen_by_value(self, observation: Tensor, elapsed: Tensor) -> Tensor:
        """What the value function looks at: the observation, and the share of the time limit that has passed."""
        if not self.value_sees_time:
            return observation
        passed = elapsed * self.environment.action_repeat / self.time_limit
        passed = passed.clamp(max=1)  # the limit may break the last action off
        return torch.cat([observation, passed.to(observation).unsqueeze(-1)], dim=-1)

    def update_normalizers(self, rollout: Rollout) -> None:
        """Takes a rollout's observations into account where they are normalised: only now, after its last use."""
        if self.policy.normalizer is not None:
            self.policy.normalizer.update(pooled(moments(rollout.observation)))
        if self.value.normalizer is not None:
            seen = self.seen_by_value(rollout.observation, rollout.elapsed)
            self.value.normalizer.update(pooled(moments(seen)))

    def count_unusable(self, problem: str | None) -> None:
        """Counts the updates that the numbers did not allow, whole or in part.

        Raises:
            FloatingPointError: there were ten in a row.
        """
        self.unusable_in_a_row = 0 if problem is None else self.unusable_in_a_row + 1
        self.unusable += problem is not None
        if problem is not None:
            rank_zero_warn(f"{problem[:1].upper()}{problem[1:]}.")
        if self.unusable_in_a_row == UNUSABLE_IN_A_ROW:
            self.unusable_in_a_row = 0  # whoever goes on has ten more
            raise FloatingPointError(
                f"{UNUSABLE_IN_A_ROW} updates in a row met numbers that cannot be used; in the last one {problem}. "
                "None of them reached a weight. Look at the rewards' scale, the learning rate and cg_damping."
            )

    def summary(self, rollout: Rollout, policy: PolicyStep, value_loss: float) -> dict[str, float]:
        """What is logged of a step."""
        explained = explained_variance(rollout.value.flatten(), rollout.value_target.flatten())
        assert isinstance(explained, Tensor)
        return {
            "trpo/surrogate_gain": policy.search.gain,
            "trpo/kl": policy.search.kl,
            "trpo/step_fraction": policy.search.fraction,
            "trpo/line_search_trials": policy.search.trials,
            "trpo/gradient_norm": policy.gradient_norm,
            "trpo/entropy": policy.entropy,
            "trpo/explained_variance": explained.item(),
            "trpo/value_loss": value_loss,
            "trpo/unusable": self.unusable,
        }

    def configure_optimizers(self) -> Any:
        """Gradient descent at a rate of one carries the policy's steps; the value function has its own optimizer."""
        # The first optimizer is the one that counts: one rollout is one step.
        optimizers = [SGD(self.learned().values(), lr=1.0), self.optimizer(list(self.value.parameters()))]
        pairs = zip((self.policy_lr_scheduler, self.lr_scheduler), optimizers, strict=True)
        return optimizers, [make(optimizer) for make, optimizer in pairs if make is not None]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counts of skipped steps."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lightning_rl"]["unusable"] = [self.unusable, self.unusable_in_a_row]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the counts of skipped steps over.

        Raises:
            ValueError: the checkpoint does not fit.
        """
        super().on_load_checkpoint(checkpoint)
        self.unusable, self.unusable_in_a_row = checkpoint["lightning_rl"]["unusable"]

    # Acting.

    def greedy_policy(self) -> nn.Module:
        """The mode of the averaged policy, if there is one, or of the policy."""
        return GreedyPolicy(self.averaged_policy or self.policy)

    def sampled_action(self, observation: Tensor) -> Tensor:
        """An action sampled from the policy, in the environment's units."""
        noise = self.policy.draw_noise([len(observation)], torch.default_generator)
        return self.policy.to_environment(self.policy.sample(self.policy(observation), noise.to(observation)))

    def acting_at_rest(self) -> Acting:
        """The policy's ways to explore, which stay the same for a whole rollout."""
        return Acting(self.policy.at_rest(), self.policy.to_environment_at_rest())

    @torch.no_grad()
    @fast_products()  # as in the update, so that a policy that has not moved has a ratio of one
    def log_prob_of(self, observation: Tensor, action: Tensor) -> Tensor:
        """Log π(a|s), on the observations' device."""
        distribution = self.policy(observation.to(self.device, self.parameter_dtype))
        return self.policy.log_prob(distribution, action.to(self.device)).to(observation.device)

    @torch.no_grad()
    @fast_products()
    def value_of(self, observation: Tensor, elapsed: Tensor) -> Tensor:
        """V(s), on the observations' device."""
        seen = self.seen_by_value(observation.to(self.device, self.parameter_dtype), elapsed.to(self.device))
        value: Tensor = self.value(seen)
        return value.to(observation.device)

    # The experience.

    def estimate(
        self, reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and value targets of a rollout, ``[steps, num_envs]`` each."""
        advantage = generalized_advantages(reward, value, next_value, terminated, ended, self.gamma, self.gae_lambda)
        if self.value_target == "gae":
            return advantage, advantage + value
        return advantage, monte_carlo_returns(reward, next_value, terminated, ended, self.gamma)

    def make_experience(self, run_seed: int) -> RolloutExperience:
        """An empty rollout memory before environments that have not been stepped."""
        discrete = isinstance(self.policy, CategoricalPolicy)
        return RolloutExperience(
            self.make_collector(run_seed),
            RolloutMemory(
                self.rollout_steps,
                self.num_envs,
                self.observation_size,
                self.policy.action_size,
                torch.int64 if discrete else torch.float32,
            ),
            ExplorationNoise(
                self.noise_correlation,
                self.num_envs,
                self.policy.noise_size,
                white=lambda shape, random: self.policy.draw_noise(shape[:-1], random),
            ),
            self,
            self.estimate,
            epochs=self.value_epochs,
            value_rollouts=self.value_rollouts,
            return_scaler=ReturnScaler(self.gamma, self.num_envs) if self.normalize_rewards else None,
            run_seed=run_seed,
            rank=self.global_rank,
            device=self.memory_device,
        )


def what_went_wrong(policy: PolicyStep, value_loss: float) -> str | None:
    """Which part of an update the numbers did not allow, if any."""
    if policy.unusable is not None:
        return f"a step was skipped: {policy.unusable}"
    return None if math.isfinite(value_loss) else "the value function's fit broke off: its loss is not finite"


def what_is_unusable(advantage: Tensor, gradient: Tensor) -> str:
    """What is wrong with numbers that allow no step."""
    if not bool(advantage.isfinite().all()):
        return "advantages that are not finite"
    if not bool(gradient.isfinite().all()):
        return "a gradient that is not finite"
    if not bool(gradient.any()):
        return "a gradient that vanished"
    return "a curvature that is not positive"
