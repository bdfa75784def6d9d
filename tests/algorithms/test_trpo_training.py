"""TRPO in real Trainer runs."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from lightning_rl import TRPOModule

TRPO = Callable[..., TRPOModule]
MakeTrainer = Callable[..., Trainer]


class Matching(gym.Env[np.ndarray, Any]):
    """One step an episode; the reward is one where the action is what the observation asks for."""

    def __init__(self, action_space: gym.Space[Any], start: int = 0, observation_space: Any = None) -> None:
        self.action_space = action_space
        self.observation_space = observation_space or Box(-1, 1, (2,))
        self.start = start

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.wanted = self.np_random.integers(0, 2, size=2)
        return (2.0 * self.wanted - 1).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        chosen = np.atleast_1d(action) - self.start
        reward = float((chosen == self.wanted[: len(chosen)]).mean())
        return (2.0 * self.wanted - 1).astype(np.float32), reward, True, False, {}


class Silent(Matching):
    """One state, and whatever one does there, nothing comes of it: no action has an advantage."""

    def __init__(self) -> None:
        super().__init__(Discrete(2))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, dtype=np.float32), 0.0, True, False, {}


@pytest.mark.parametrize("space", [Discrete(2), Discrete(2, start=5), MultiDiscrete([2, 2])])
def test_learns_a_discrete_choice(small_trpo: TRPO, quiet_trainer: MakeTrainer, space: Any) -> None:
    seed_everything(0)
    settings = {"action_space": space, "start": int(getattr(space, "start", np.zeros(1)).min())}
    module = small_trpo(env=Matching, env_kwargs=settings, rollout_steps=64, max_kl=0.05, eval_episodes=20)
    trainer = quiet_trainer(max_epochs=4)
    module.steps_per_epoch = 640
    trainer.fit(module)
    assert trainer.callback_metrics["val/return"] == 1.0
    observation = np.array([[1, -1], [-1, 1]], dtype=np.float32)
    assert all(space.contains(action) for action in module.act(observation))


def test_one_rollout_is_one_global_step_and_none_is_stale(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo()
    acted: list[torch.Tensor] = []
    left: list[torch.Tensor] = []
    explore = module.explore

    def watch(observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        acted.append(module.policy.log_std.detach().clone())
        return explore(observation, noise)

    class Watch(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            left.append(module.policy.log_std.detach().clone())

    module.explore = watch
    trainer = quiet_trainer(max_epochs=1, callbacks=[Watch()])
    trainer.fit(module)
    assert trainer.global_step == 10
    assert module.environment_steps == 320
    assert len(acted) == 10 * 16
    for rollout in range(1, 10):
        assert all(torch.equal(weight, left[rollout - 1]) for weight in acted[16 * rollout : 16 * (rollout + 1)])
        assert not torch.equal(left[rollout], left[rollout - 1])


def test_the_averaged_policy_follows_and_is_the_one_that_is_evaluated(
    small_trpo: TRPO, quiet_trainer: MakeTrainer
) -> None:
    seed_everything(0)
    module = small_trpo(policy_averaging=0.25)
    expected = {name: value.clone() for name, value in module.policy.state_dict().items()}

    class Follow(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            for name, value in module.policy.state_dict().items():
                is_parameter = name in dict(module.policy.named_parameters())
                expected[name] = 0.75 * expected[name] + 0.25 * value if is_parameter else value.clone()

    quiet_trainer(max_epochs=2, callbacks=[Follow()]).fit(module)
    assert module.averaged_policy is not None
    torch.testing.assert_close(module.averaged_policy.state_dict(), expected)
    assert not torch.equal(module.averaged_policy.log_std, module.policy.log_std)
    observation = np.array([0.8, 0.6, 1.0], dtype=np.float32)
    averaged = module.act(observation)
    module.averaged_policy = None
    assert not np.array_equal(averaged, module.act(observation))


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_sampling_noise_is_correlated_within_an_episode(
    small_trpo: TRPO, quiet_trainer: MakeTrainer, correlation: float
) -> None:
    module = small_trpo(noise_correlation=correlation)
    drawn: list[torch.Tensor] = []
    explore = module.explore
    module.explore = lambda observation, noise: (drawn.append(noise), explore(observation, noise))[1]
    quiet_trainer(max_epochs=4).fit(module)
    noise = torch.stack(drawn)[..., 0]  # [640, num_envs], of episodes of 30 steps side by side
    first = torch.arange(1, len(noise)) % 30 == 0
    before, after = noise[:-1], noise[1:]
    found = {
        of: float(torch.corrcoef(torch.stack([before[rows].flatten(), after[rows].flatten()]))[0, 1])
        for of, rows in {"same": ~first, "next": first}.items()
    }
    assert found["same"] == pytest.approx(correlation, abs=0.15)  # standard error 0.03 at most, of 1,236 pairs
    assert found["next"] == pytest.approx(0, abs=0.6)  # of 42 pairs 0.15


def test_a_rollout_is_of_the_policy_that_the_step_before_left(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo()
    actions: list[torch.Tensor] = []
    explore = module.explore

    def watch(observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        actions.append(explore(observation, noise))
        with torch.no_grad():
            assert torch.equal(actions[-1], module.policy.explore(observation, noise))
        return actions[-1]

    module.explore = watch
    quiet_trainer(max_epochs=1).fit(module)
    assert len(actions) == 160
    assert module._policy_at_rest is None


def test_squashed_actions_reach_the_environment_and_not_the_density(
    small_trpo: TRPO, quiet_trainer: MakeTrainer
) -> None:
    module = small_trpo(squash_actions=True)
    taken: list[tuple[torch.Tensor, torch.Tensor]] = []
    environment_units = module.environment_units

    def watch(action: torch.Tensor) -> Any:
        taken.append((action, torch.from_numpy(environment_units(action))))
        return environment_units(action)

    module.environment_units = watch
    quiet_trainer(max_epochs=1).fit(module)
    sampled, acted = (torch.cat(each) for each in zip(*taken, strict=True))
    assert sampled.abs().max() > 2  # of standard deviation one
    torch.testing.assert_close(acted, 2 * sampled.tanh())  # torques of at most 2


def test_every_accepted_step_stays_within_the_trust_region(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    logged: list[dict[str, float]] = []
    module = small_trpo(max_kl=0.02)
    report = module.report
    module.report = lambda values: (logged.append(dict(values)), report(values))
    quiet_trainer(max_epochs=2, log_every_n_steps=1).fit(module)
    assert len(logged) == 20
    accepted = [values for values in logged if values["trpo/step_fraction"] > 0]
    assert accepted
    assert all(0 < values["trpo/kl"] <= 0.02 and values["trpo/surrogate_gain"] > 0 for values in accepted)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precisions(small_trpo: TRPO, quiet_trainer: MakeTrainer, precision: str) -> None:
    module = small_trpo(env="CartPole-v1")
    computed: set[torch.dtype] = set()
    kl = module.policy.kl
    module.policy.kl = lambda old, new: (computed.add(new.dtype), kl(old, new))[1]
    trainer = quiet_trainer(max_epochs=1, precision=precision)
    trainer.fit(module)
    assert trainer.global_step == 10
    expected = torch.float64 if precision == "64-true" else torch.float32
    # A KL divergence of a hundredth has no meaning in bfloat16's eight bits: the policy's step never is in it.
    assert computed == {expected} == {parameter.dtype for parameter in module.parameters()}
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_a_fisher_matrix_of_every_nth_state_trains(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(fisher_stride=4)
    seen: list[int] = []
    forward = module.policy.forward
    module.policy.forward = lambda observation: (seen.append(observation.shape[:-1].numel()), forward(observation))[1]
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module)
    assert 2 * 10 <= seen.count(2 * 16 // 4) <= (2 + module.cg_iters) * 10  # once for Jᵀ, once a product for J
    assert trainer.callback_metrics["trpo/kl"] <= module.max_kl


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_act_takes_one_observation_or_many(small_trpo: TRPO, env: str) -> None:
    module = small_trpo(env=env)
    many = np.stack([module.observation_space.sample() for _ in range(5)])
    greedy = module.act(many)
    assert len(greedy) == 5
    assert all(module.action_space.contains(action) for action in greedy)
    assert np.array_equal(module.act(many[2]), greedy[2])
    assert module.action_space.contains(module.act(many[0]))
    sampled = [module.act(many, deterministic=False) for _ in range(20)]
    assert all(module.action_space.contains(action) for action in sampled[0])
    assert any((actions != sampled[0]).any() for actions in sampled)


def test_ten_rollouts_without_a_signal_stop_the_run(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(env=Silent)
    before = {name: value.clone() for name, value in module.policy.named_parameters()}
    logged: list[float] = []
    report = module.report
    module.report = lambda values: (logged.append(values["trpo/unusable"]), report(values))
    with (
        pytest.warns(UserWarning, match="A step was skipped: a gradient that vanished"),
        pytest.raises(FloatingPointError, match=r"10 updates in a row .* last one a step was skipped: a gradient"),
    ):
        quiet_trainer(max_epochs=2).fit(module)
    assert logged == list(range(1, 10))
    assert all(torch.equal(value, before[name]) for name, value in module.policy.named_parameters())


def test_envpool_has_discrete_environments(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    pytest.importorskip("envpool")
    module = small_trpo(env="CartPole-v1", backend="envpool")
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module)
    assert module.environment_steps == 320
    assert float(trainer.callback_metrics["train/length"]) == float(trainer.callback_metrics["train/return"]) > 1


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"gae_lambda": 2}, ValueError, r"gae_lambda=2: a number in \[0, 1\]"),
        ({"max_kl": 0}, ValueError, r"max_kl=0: a number in \(0, inf\)"),
        ({"hidden_sizes": (8, 0)}, ValueError, "hidden_sizes=0: an integer of at least 1"),
        ({"cg_iters": 0}, ValueError, "cg_iters=0: an integer of at least 1"),
        ({"value_batch_size": 64}, ValueError, "rollout_steps=16 .* num_envs=2 .* value_batch_size=64.*at most 32"),
        ({"value_target": "td"}, ValueError, "'monte_carlo' or 'gae'"),
        ({"policy_averaging": -0.1}, ValueError, r"policy_averaging=-0.1: a number in \[0, 1\]"),
        ({"env": "CartPole-v1", "squash_actions": True}, ValueError, "squash_actions=True: CartPole-v1 .*Discrete"),
        ({"normalize_observations": "values"}, ValueError, "normalize_observations='values': true, false or 'value'"),
        ({"noise_correlation": 1}, ValueError, r"noise_correlation=1: a number in \[0, 1\)"),
        ({"env": "CartPole-v1", "noise_correlation": 0.5}, ValueError, "noise_correlation=0.5: .*Discrete.* at 0"),
        (
            {"env": Matching, "env_kwargs": {"action_space": Discrete(2), "observation_space": Dict(a=Box(0, 1))}},
            TypeError,
            "Dict.*FlattenObservation",
        ),
        ({"env": Matching, "env_kwargs": {"action_space": MultiBinary(2)}}, TypeError, "MultiBinary.*MultiDiscrete"),
        (
            {"env": Matching, "env_kwargs": {"action_space": Discrete(2)}, "backend": "envpool"},
            ValueError,
            "Matching'.*list_all_envs",
        ),
    ],
)
def test_message(small_trpo: TRPO, overrides: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small_trpo(**overrides)


def test_a_missing_envpool_says_what_to_install(small_trpo: TRPO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "envpool", None)
    with pytest.raises(ImportError, match=r"lightning-rl\[envpool\]"):
        small_trpo(backend="envpool")


def test_a_discrete_policy_does_not_load_a_continuous_checkpoint(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    continuous = small_trpo()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(continuous)
    trainer.save_checkpoint("continuous.ckpt", weights_only=False)
    with pytest.raises(ValueError, match=r"trained on Pendulum-v1 .*Box.*CartPole-v1 .*Discrete"):
        quiet_trainer(max_epochs=1).fit(small_trpo(env="CartPole-v1"), ckpt_path="continuous.ckpt")
