import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import FallingNoise, GrowingHorizon, GrowingPenalty, RisingCorrelation

TRPO = Callable[..., TRPOModule]
MakeTrainer = Callable[..., Trainer]


def discounts(module: TRPOModule) -> list[float]:
    """The discount of each rollout's advantages, as they are estimated."""
    used: list[float] = []
    estimate = module.estimate
    module.estimate = lambda *arguments: (used.append(module.gamma), estimate(*arguments))[1]
    return used


def deviations(module: TRPOModule) -> list[float]:
    """The standard deviation with which each environment step's action was sampled: 16 steps a rollout."""
    used: list[float] = []
    explore = module.explore

    def watch(observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        [sigma] = module.policy(observation)[:, 1:].exp().unique().tolist()
        used.append(sigma)
        return explore(observation, noise)

    module.explore = watch
    return used


def noises(module: TRPOModule) -> list[torch.Tensor]:
    """The noise of each environment step, ``[num_envs]``."""
    used: list[torch.Tensor] = []
    explore = module.explore

    def watch(observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        used.append(noise[:, 0].clone())
        return explore(observation, noise)

    module.explore = watch
    return used


def rewards(module: TRPOModule) -> list[torch.Tensor]:
    """The rewards of each rollout, ``[steps, num_envs]``, as its advantages are estimated from them."""
    used: list[torch.Tensor] = []
    estimate = module.estimate
    module.estimate = lambda *arguments: (used.append(arguments[0].clone()), estimate(*arguments))[1]
    return used


def test_the_horizon_grows_linearly_from_rollout_to_rollout(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(gamma=0.9)
    used = discounts(module)
    quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.98, updates=8)]).fit(module)
    assert [1 / (1 - gamma) for gamma in used] == pytest.approx([10, 15, 20, 25, 30, 35, 40, 45, 50, 50])


def test_a_horizon_without_end_cannot_grow(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="gamma=1 is a horizon without end"):
        quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.98, updates=8)]).fit(small_trpo(gamma=1.0))


def test_the_horizon_stands_still_before_it_grows(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(gamma=0.9)
    used = discounts(module)
    quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.98, updates=8, begin=4)]).fit(module)
    assert [1 / (1 - gamma) for gamma in used] == pytest.approx([10, 10, 10, 10, 10, 20, 30, 40, 50, 50])


def test_the_noise_falls_geometrically_and_is_not_learned(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo()
    used = deviations(module)
    quiet_trainer(max_epochs=1, callbacks=[FallingNoise(first=0.8, last=0.1, updates=6)]).fit(module)
    expected = [0.8 * 0.125 ** (min(rollout, 6) / 6) for rollout in range(10) for _ in range(16)]
    assert used == pytest.approx(expected, rel=1e-5)
    assert module.policy.log_std.requires_grad  # a later run may learn it


def test_a_step_has_the_whole_divergence_for_the_mean(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo()
    steps: list[tuple[int, float]] = []
    policy_step = module.policy_step

    def watch(*arguments: Any) -> Any:
        taken = policy_step(*arguments)
        steps.append((sum(step.numel() for step in taken.step), taken.search.kl))
        return taken

    module.policy_step = watch
    quiet_trainer(max_epochs=1, callbacks=[FallingNoise(first=0.5, last=0.1, updates=6)]).fit(module)
    everything = sum(parameter.numel() for parameter in module.policy.parameters())
    assert {count for count, _ in steps} == {everything - 1}
    assert max(kl for _, kl in steps) > 0.5 * module.max_kl


def test_the_correlation_of_the_noise_rises(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    seed_everything(0)
    module = small_trpo(num_envs=16, rollout_steps=250, max_episode_steps=10_000, steps_per_epoch=16_000)
    used = noises(module)
    callback = RisingCorrelation(correlation=0.9, updates=3, begin=1)
    quiet_trainer(max_epochs=1, limit_val_batches=0, log_every_n_steps=1, callbacks=[callback]).fit(module)
    rollouts = torch.stack(used).view(4, 250, 16)
    seen = [float((rollout[:-1] * rollout[1:]).mean() / rollout.square().mean()) for rollout in rollouts]
    # The standard error of a correlation over 4,000 numbers is below 0.02, and about twice that where they resemble
    # each other most.
    assert seen == pytest.approx([0.0, 0.0, 0.45, 0.9], abs=0.08)


def test_rewards_below_a_sinking_floor_count_as_the_floor(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(normalize_rewards=False)
    used, lived = rewards(module), []
    count = module.estimate

    def estimate(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lived.append(module.experience.memory.reward.clone())
        return count(*arguments)

    module.estimate = estimate
    callback = GrowingPenalty(first=-1.0, last=-9.0, updates=6, begin=2)
    quiet_trainer(max_epochs=1, callbacks=[callback]).fit(module)
    floors = [-1, -1, -1, -3, -5, -7, -math.inf, -math.inf, -math.inf, -math.inf]
    for counted, reward, floor in zip(used, lived, floors, strict=True):
        assert torch.equal(counted, torch.where(reward < floor, floor, reward))
    assert min(float(reward.min()) for reward in lived[:6]) < -5  # Pendulum's are as low as -16


def test_a_floor_does_not_outlive_its_callback(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    seed_everything(0)
    module = small_trpo(normalize_rewards=False)
    used = rewards(module)
    trainer = quiet_trainer(max_epochs=1, callbacks=[GrowingPenalty(first=-1.0, last=-9.0, updates=600)])
    trainer.fit(module)
    assert min(float(reward.min()) for reward in used) > -2
    assert trainer.callback_metrics["train/return"] < -45  # of 30 steps: the environment's own
    used.clear()
    quiet_trainer(max_epochs=1).fit(module)
    assert min(float(reward.min()) for reward in used) < -3


def test_a_floor_does_not_outlive_an_interruption(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    class Breaks(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            assert pl_module.experience.reward_floor == -1.0
            raise ZeroDivisionError

    module = small_trpo()
    callbacks = [GrowingPenalty(first=-1.0, last=-9.0, updates=600), Breaks()]
    with pytest.raises(ZeroDivisionError):
        quiet_trainer(max_epochs=1, callbacks=callbacks).fit(module)
    assert module.experience.reward_floor == -math.inf


@pytest.mark.parametrize(
    ("make", "watch"),
    [
        (lambda: GrowingHorizon(gamma=0.98, updates=25), discounts),
        (lambda: FallingNoise(first=0.5, last=0.1, updates=25), deviations),
        (lambda: RisingCorrelation(correlation=0.9, updates=25), noises),
        (lambda: GrowingPenalty(first=-1.0, last=-5.0, updates=25), rewards),
    ],
)
def test_a_resumed_run_goes_on_with_what_it_had(
    small_trpo: TRPO, quiet_trainer: MakeTrainer, make: Callable[[], Callback], watch: Callable[[TRPOModule], list[Any]]
) -> None:
    def run(epochs: int, checkpoint: str | None = None) -> tuple[list[Any], dict[str, Any]]:
        seed_everything(3)
        module = small_trpo(gamma=0.9)
        used = watch(module)
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[make()], logger=False)
        trainer.fit(module, ckpt_path=checkpoint)
        trainer.save_checkpoint(f"{epochs}.ckpt", weights_only=False)
        return used, module.state_dict()

    whole, unbroken = run(3)
    first, _ = run(2)
    rest, resumed = run(3, "2.ckpt")
    assert len(first + rest) == len(whole)
    assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(first + rest, whole, strict=True))
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (GrowingHorizon, {"gamma": 1.0, "updates": 5}, r"gamma=1.0: a number in \[0, 1\)"),
        (GrowingHorizon, {"gamma": 0.9, "updates": 0}, "updates=0: an integer of at least 1"),
        (GrowingHorizon, {"gamma": 0.9, "updates": 5, "begin": 5}, "begin=5: an integer from 0 to updates=5"),
        (FallingNoise, {"first": 0.0, "last": 0.1, "updates": 5}, "first=0.0: a finite number above zero"),
        (FallingNoise, {"first": 0.5, "last": float("inf"), "updates": 5}, "last=inf: a finite number above zero"),
        (GrowingPenalty, {"first": 0.0, "last": -9.0, "updates": 5}, "first=0.0, last=-9.0: finite numbers below zero"),
        (GrowingPenalty, {"first": -9.0, "last": -1.0, "updates": 5}, "first=-9.0, last=-1.0.*last the lower"),
        (GrowingPenalty, {"first": -1.0, "last": -math.inf, "updates": 5}, "last=-inf: finite numbers"),
        (RisingCorrelation, {"correlation": 1.0, "updates": 5}, r"correlation=1.0: a number in \[0, 1\)"),
    ],
)
def test_message(make: Callable[..., Callback], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_the_horizon_of_sac_grows_with_its_updates(
    small_sac: Callable[..., SACModule], quiet_trainer: MakeTrainer
) -> None:
    module, used = small_sac(gamma=0.9), []
    gradients = module.critic_gradients
    module.critic_gradients = lambda batch, noise: (used.append(module.gamma), gradients(batch, noise))[1]
    quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.95, updates=32, begin=16)]).fit(module)
    assert [1 / (1 - gamma) for gamma in used[::8]] == pytest.approx([10, 10, 10, 15, 20, 20, 20, 20, 20])
    assert used == [each for each in used[::8] for _ in range(8)]  # an item's updates share it


def test_a_compiled_horizon_changes_at_once_or_not_at_all(
    small_sac: Callable[..., SACModule], quiet_trainer: MakeTrainer
) -> None:
    module = small_sac(gamma=0.9, compile=True)
    with pytest.raises(ValueError, match=r"each discount is compiled anew.*begin=31"):
        quiet_trainer(max_epochs=1, callbacks=[GrowingHorizon(gamma=0.95, updates=32, begin=16)]).fit(module)
    GrowingHorizon(gamma=0.95, updates=32, begin=31).change(module, 1.0)
    assert module.gamma == pytest.approx(0.95)


@pytest.mark.parametrize(
    "callback", [FallingNoise(first=0.5, last=0.1, updates=5), RisingCorrelation(correlation=0.5, updates=5)]
)
def test_noise_that_changes_is_for_a_gaussian_policy_of_trpo(
    small_sac: Callable[..., SACModule], small_trpo: TRPO, quiet_trainer: MakeTrainer, callback: Callback
) -> None:
    with pytest.raises(TypeError, match=r"TRPOModule, and this SACModule has no policy"):
        quiet_trainer(max_epochs=1, callbacks=[callback]).fit(small_sac())
    with pytest.raises(TypeError, match=r"this TRPOModule has a CategoricalPolicy"):
        quiet_trainer(max_epochs=1, callbacks=[callback]).fit(small_trpo(env="CartPole-v1"))


def test_a_penalty_that_grows_is_for_rollouts(small_sac: Callable[..., SACModule], quiet_trainer: MakeTrainer) -> None:
    callback = GrowingPenalty(first=-1.0, last=-9.0, updates=5)
    with pytest.raises(TypeError, match=r"rollouts of TRPOModule, and this SACModule has none"):
        quiet_trainer(max_epochs=1, callbacks=[callback]).fit(small_sac())
