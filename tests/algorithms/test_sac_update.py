"""One update of SAC against the equations, written out in float64 without any of the library's code."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.distributions import Normal

from lightning_rl import SACModule
from lightning_rl.experience import EpochStream, Noise, Transition, Updates

GAMMA, TAU, LEARNING_RATE, BATCH = 0.9, 0.05, 1e-3, 12


def linear_layers(critic: nn.Module, which: int) -> list[tuple[Tensor, Tensor]]:
    layers = [layer for layer in critic.layers if hasattr(layer, "weight")]
    return [(layer.weight[which], layer.bias[which, 0]) for layer in layers]


def q_value(layers: list[tuple[Tensor, Tensor]], observation: Tensor, action: Tensor) -> Tensor:
    x = torch.cat([observation, action], 1)
    for weight, bias in layers[:-1]:
        x = torch.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return (x @ weight + bias)[:, 0]


def policy(actor: nn.Module, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    x = observation
    for layer in actor.network.trunk:
        if isinstance(layer, nn.Linear):
            x = torch.relu(x @ layer.weight.T + layer.bias)
    mean = x @ actor.network.mean.weight.T + actor.network.mean.bias
    std = (x @ actor.network.log_std.weight.T + actor.network.log_std.bias).clamp(-20, 2).exp()
    u = mean + std * noise
    action = torch.tanh(u)
    return action, (Normal(mean, std).log_prob(u) - torch.log(1 - action**2)).sum(1)


def adam_step(parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Adam's first step: both moments, bias-corrected, are the gradient and its square."""
    return [p - LEARNING_RATE * g / (g.abs() + 1e-8) for p, g in zip(parameters, gradients, strict=True)]


def random_batch() -> tuple[Transition, Noise]:
    torch.manual_seed(5)
    batch = Transition(
        observation=torch.randn(BATCH, 3).double(),
        action=torch.rand(BATCH, 1).double() * 2 - 1,
        reward=torch.randn(BATCH).double(),
        next_observation=torch.randn(BATCH, 3).double(),
        terminated=torch.rand(BATCH) < 0.3,
    )
    return batch, Noise(torch.randn(BATCH, 1).double(), torch.randn(BATCH, 1).double())


@pytest.fixture
def module(small_sac: Callable[..., SACModule]) -> SACModule:
    torch.manual_seed(1)
    module = small_sac(
        gamma=GAMMA,
        tau=TAU,
        actor_averaging=0.1,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=LEARNING_RATE),
    ).double()
    with torch.no_grad():  # a temperature, and targets, that are not the initial ones
        module.log_alpha.fill_(-0.7)
        for parameter in module.target_critic.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def test_one_update_is_the_equations(module: SACModule, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, noise = random_batch()
    alpha = math.exp(-0.7)
    critics = [linear_layers(module.critic, which) for which in (0, 1)]
    targets = [linear_layers(module.target_critic, which) for which in (0, 1)]

    next_action, next_log_prob = policy(module.actor, batch.next_observation, noise.next)
    next_q = torch.minimum(*(q_value(target, batch.next_observation, next_action) for target in targets))
    y = (batch.reward + GAMMA * (1 - batch.terminated.double()) * (next_q - alpha * next_log_prob)).detach()
    critic_loss = sum(((q_value(critic, batch.observation, batch.action) - y) ** 2).mean() for critic in critics)
    old_critic = list(module.critic.parameters())
    new_critic = adam_step(old_critic, torch.autograd.grad(critic_loss, old_critic))
    new_target = [(1 - TAU) * t + TAU * c for t, c in zip(module.target_critic.parameters(), new_critic, strict=True)]

    frozen = SimpleNamespace(
        layers=[SimpleNamespace(weight=w, bias=b) for w, b in zip(new_critic[::2], new_critic[1::2], strict=True)]
    )
    action, log_prob = policy(module.actor, batch.observation, noise.actor)
    q = torch.minimum(*(q_value(linear_layers(frozen, which), batch.observation, action) for which in (0, 1)))
    old_actor = list(module.actor.parameters())
    new_actor = adam_step(old_actor, torch.autograd.grad((alpha * log_prob - q).mean(), old_actor))
    averaged = [0.9 * a + 0.1 * b for a, b in zip(module.averaged_actor.parameters(), new_actor, strict=True)]

    # d/d(log α) of −log α (log π + H); the target entropy H is −1 for one action.
    new_log_alpha = adam_step([module.log_alpha], [-(log_prob.detach() - 1).mean()])
    expected = [tensor.detach().clone() for tensor in (*new_critic, *new_target, *new_actor, *averaged, *new_log_alpha)]

    run_one_step(module, batch, noise, monkeypatch)

    models = (module.critic, module.target_critic, module.actor, module.averaged_actor)
    actual = [parameter for model in models for parameter in model.parameters()] + [module.log_alpha]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-12)


def test_critics_are_frozen_while_the_actor_learns(module: SACModule) -> None:
    batch, noise = random_batch()
    gradients = module.actor_gradients(batch, noise.actor).gradients
    assert [g.shape for g in gradients] == [p.shape for p in module.actor.parameters()]
    assert all(parameter.grad is None for parameter in module.critic.parameters())


def test_fixed_temperature_is_not_learned(small_sac: Callable[..., SACModule]) -> None:
    module = small_sac(alpha=0.2)
    assert len(module.configure_optimizers()) == 2
    torch.testing.assert_close(module.alpha, torch.tensor(0.2))


def test_truncated_transition_bootstraps_and_terminated_one_does_not(module: SACModule) -> None:
    batch, noise = random_batch()
    ended, going_on = (batch._replace(terminated=torch.full((BATCH,), flag)) for flag in (True, False))
    q = module.critic(batch.observation, batch.action)
    without_bootstrap = (q - batch.reward).square().mean(-1).sum()
    torch.testing.assert_close(module.critic_gradients(ended, noise.next).loss, without_bootstrap.detach())
    assert not torch.isclose(module.critic_gradients(going_on, noise.next).loss, without_bootstrap)


def run_one_step(module: SACModule, batch: Transition, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a real Trainer take one ``training_step`` on given data."""
    item = Updates(Transition(*(x[None] for x in batch)), Noise(*(x[None] for x in noise)))
    monkeypatch.setattr(module, "train_dataloader", lambda: EpochStream(lambda: item, 1))
    trainer = Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=100,
    )
    trainer.fit(module)
    assert trainer.global_step == 1
