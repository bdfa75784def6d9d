from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import FallingNoise

TRPO = Callable[..., TRPOModule]
MakeTrainer = Callable[..., Trainer]


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


def test_a_resumed_run_goes_on_with_the_noise_it_had(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    def run(epochs: int, checkpoint: str | None = None) -> tuple[list[float], dict[str, Any]]:
        seed_everything(3)
        module = small_trpo()
        used = deviations(module)
        callback = FallingNoise(first=0.5, last=0.1, updates=25)
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[callback], logger=False)
        trainer.fit(module, ckpt_path=checkpoint)
        trainer.save_checkpoint(f"{epochs}.ckpt", weights_only=False)
        return used, module.state_dict()

    whole, unbroken = run(3)
    first, _ = run(2)
    rest, resumed = run(3, "2.ckpt")
    assert first + rest == whole
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 0.0}, "first=0.0: a finite number above zero"),
        ({"last": float("inf")}, "last=inf: a finite number above zero"),
        ({"updates": 0}, "updates=0: an integer of at least 1"),
    ],
)
def test_message(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FallingNoise(**{"first": 0.5, "last": 0.1, "updates": 5, **change})


def test_it_is_for_a_gaussian_policy_of_trpo(
    small_sac: Callable[..., SACModule], small_trpo: TRPO, quiet_trainer: MakeTrainer
) -> None:
    callback = FallingNoise(first=0.5, last=0.1, updates=5)
    with pytest.raises(TypeError, match=r"TRPOModule, and this SACModule has no policy"):
        quiet_trainer(max_epochs=1, callbacks=[callback]).fit(small_sac())
    with pytest.raises(TypeError, match=r"this TRPOModule has a CategoricalPolicy"):
        quiet_trainer(max_epochs=1, callbacks=[callback]).fit(small_trpo(env="CartPole-v1"))
