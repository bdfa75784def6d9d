"""One step of TRPO against a plain re-computation: dense Fisher matrix, direct solve, torch.distributions."""

import math
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR

from lightning_rl import TRPOModule
from lightning_rl.experience import EpochStream
from lightning_rl.experience.rollout import Rollout

TRPO = Callable[..., TRPOModule]
STEPS, ENVIRONMENTS = 12, 3


def distribution(module: TRPOModule, weights: dict[str, Tensor], observation: Tensor) -> Distribution:
    flat = functional_call(module.policy, weights, (observation,))
    if module.action_space.shape == ():
        return Categorical(logits=flat)
    mean, log_std = flat.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def random_rollout(module: TRPOModule) -> Rollout:
    torch.manual_seed(2)
    observation = torch.randn(STEPS, ENVIRONMENTS, module.observation_size).double()
    with torch.no_grad():
        now = distribution(module, dict(module.policy.named_parameters()), observation)
        action = now.sample()
        log_prob = now.log_prob(action)
    return Rollout(
        observation=observation,
        elapsed=torch.zeros(STEPS, ENVIRONMENTS),
        action=action.unsqueeze(-1) if module.action_space.shape == () else action,
        log_prob=log_prob,
        value=torch.randn(STEPS, ENVIRONMENTS).double(),
        value_target=torch.randn(STEPS, ENVIRONMENTS).double(),
        advantage=torch.randn(STEPS, ENVIRONMENTS).double(),
        order=torch.stack([torch.randperm(STEPS * ENVIRONMENTS) for _ in range(2)]),
    )


def dense_step(module: TRPOModule, rollout: Rollout) -> dict[str, Tensor]:
    """θ + β F⁻¹ g halved until the surrogate rises within the trust region, F the Hessian of the KL divergence."""
    old = {name: p.detach().clone() for name, p in module.policy.named_parameters()}
    shapes, sizes = [p.shape for p in old.values()], [p.numel() for p in old.values()]

    def weights(theta: Tensor) -> dict[str, Tensor]:
        return {n: x.view(s) for n, x, s in zip(old, theta.split(sizes), shapes, strict=True)}

    theta = torch.cat([p.flatten() for p in old.values()])
    reference = distribution(module, old, rollout.observation)
    action = rollout.action.squeeze(-1) if module.action_space.shape == () else rollout.action
    advantage = (rollout.advantage - rollout.advantage.mean()) / (rollout.advantage.std(correction=0) + 1e-8)

    def surrogate(t: Tensor) -> Tensor:
        new = distribution(module, weights(t), rollout.observation)
        return (advantage * (new.log_prob(action) - rollout.log_prob).exp()).mean()

    def kl(t: Tensor) -> Tensor:
        return kl_divergence(reference, distribution(module, weights(t), rollout.observation)).mean()

    gradient = torch.autograd.functional.jacobian(surrogate, theta)
    fisher = torch.autograd.functional.hessian(kl, theta) + module.cg_damping * torch.eye(len(theta)).double()
    direction = torch.linalg.solve(fisher, gradient)
    full = math.sqrt(2 * module.max_kl / (direction @ fisher @ direction)) * direction
    for trial in range(module.line_search_steps):
        new = theta + module.line_search_decay**trial * full
        if surrogate(new) > surrogate(theta) and kl(new) <= module.max_kl:
            return weights(new)
    return old


def step(module: TRPOModule, rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(module, "train_dataloader", lambda: EpochStream(lambda: rollout, 1))
    trainer = Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module)
    return trainer


def test_a_schedule_scales_the_step_that_is_looked_at_and_taken(
    small_trpo: TRPO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(factor: float) -> tuple[Tensor, Tensor, float]:
        torch.manual_seed(0)
        settings = {"max_kl": 0.01, "hidden_sizes": (4,), "normalize_observations": False}
        settings["policy_lr_scheduler"] = lambda optimizer: LambdaLR(optimizer, lambda _: factor)
        module = small_trpo(**settings).double()
        rollout = random_rollout(module)
        before = torch.cat([p.detach().flatten() for p in module.policy.parameters()])
        trainer = step(module, rollout, monkeypatch)
        after = torch.cat([p.detach().flatten() for p in module.policy.parameters()])
        return before, after, float(trainer.callback_metrics["trpo/kl"])

    before, full, full_kl = weights(1.0)
    _, half, half_kl = weights(0.5)
    torch.testing.assert_close(half - before, 0.5 * (full - before))
    assert half_kl == pytest.approx(full_kl / 4, rel=0.1)  # a divergence is quadratic in a small step


@pytest.mark.parametrize(("env", "max_kl"), [("Pendulum-v1", 0.01), ("Pendulum-v1", 0.5), ("CartPole-v1", 0.01)])
def test_converged_step_is_the_dense_one(
    small_trpo: TRPO, env: str, max_kl: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = small_trpo(env=env, max_kl=max_kl, cg_iters=200, hidden_sizes=(4,), normalize_observations=False).double()
    rollout = random_rollout(module)
    expected = dense_step(module, rollout)
    before = {name: p.detach().clone() for name, p in module.policy.named_parameters()}
    trainer = step(module, rollout, monkeypatch)
    for name, parameter in module.policy.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-8)
    assert any(not torch.equal(before[name], expected[name]) for name in before)
    assert trainer.global_step == 1
    assert 0 < trainer.callback_metrics["trpo/kl"] <= max_kl


def test_value_function_is_fitted_by_adam_in_the_given_order(small_trpo: TRPO, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = small_trpo(
        value_batch_size=8,
        normalize_observations=False,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    ).double()
    rollout = random_rollout(module)
    reference = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    reference.load_state_dict(
        dict(zip(reference.state_dict(), (p.clone() for p in module.value.state_dict().values()), strict=True))
    )
    adam = torch.optim.Adam(reference.parameters(), lr=0.01)
    observation = rollout.observation.flatten(0, 1)
    for order in rollout.order:
        for start in range(0, len(order), 8):
            index = order[start : start + 8]
            loss = ((reference(observation[index])[:, 0] - rollout.value_target.flatten()[index]) ** 2).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    step(module, rollout, monkeypatch)
    for ours, theirs in zip(module.value.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("advantage", math.nan, "advantages that are not finite"),
        ("log_prob", -math.inf, "a gradient that is not finite"),
        ("advantage", 0.0, "a gradient that vanished"),
    ],
)
def test_unusable_numbers_leave_the_policy_alone(
    small_trpo: TRPO, field: str, value: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = small_trpo().double()
    rollout = random_rollout(module)
    rollout = rollout._replace(**{field: torch.full_like(getattr(rollout, field), value)})
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with pytest.warns(UserWarning, match=f"A step was skipped: {reason}"):
        trainer = step(module, rollout, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=False))
    assert trainer.callback_metrics["trpo/unusable"] == 1
    assert trainer.global_step == 1


@pytest.mark.parametrize("target", [math.nan, 1e200])  # the square of which is beyond float64
def test_an_unusable_value_loss_leaves_the_value_function_alone(
    small_trpo: TRPO, target: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = small_trpo(value_batch_size=16).double()
    rollout = random_rollout(module)
    rollout.value_target[-1, -1] = target
    before = [parameter.detach().clone() for parameter in module.policy.parameters()]
    with pytest.warns(UserWarning, match=r"The value function's fit broke off: its loss is not finite\."):
        trainer = step(module, rollout, monkeypatch)
    assert trainer.callback_metrics["trpo/unusable"] == 1
    assert all(parameter.isfinite().all() for parameter in module.value.parameters())
    assert not math.isfinite(trainer.callback_metrics["trpo/value_loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))


def test_a_curvature_that_is_not_positive_leaves_the_policy_alone(
    small_trpo: TRPO, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = small_trpo().double()
    monkeypatch.setattr("lightning_rl.algorithms.trpo.fisher_vector_product", lambda *_: lambda vector: -vector)
    before = [parameter.detach().clone() for parameter in module.policy.parameters()]
    with pytest.warns(UserWarning, match="a curvature that is not positive"):
        step(module, random_rollout(module), monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:A reason")
def test_ten_unusable_steps_in_a_row_stop_the_run(small_trpo: TRPO) -> None:
    module = small_trpo()
    for _ in range(9):
        module.count_unusable("a reason")
    module.count_unusable(None)
    for _ in range(9):
        module.count_unusable("a reason")
    with pytest.raises(FloatingPointError, match=r"^10 updates in a row .* in the last one a reason\. None of"):
        module.count_unusable("a reason")
    assert module.unusable == 19


def test_a_step_that_the_line_search_does_not_accept_is_not_taken(
    small_trpo: TRPO, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = small_trpo(line_search_steps=1, max_kl=50.0).double()  # so large a step leaves its quadratic model
    before = [parameter.detach().clone() for parameter in module.policy.parameters()]
    trainer = step(module, random_rollout(module), monkeypatch)
    assert trainer.callback_metrics["trpo/step_fraction"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))
