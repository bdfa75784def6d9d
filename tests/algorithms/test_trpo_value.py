"""What TRPO's value function is fitted to, and what it sees."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_rl import TRPOModule
from lightning_rl.experience import Rollout

TRPO = Callable[..., TRPOModule]
MakeTrainer = Callable[..., Trainer]


def test_the_value_function_is_fitted_to_the_last_rollouts(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(value_rollouts=3)
    lived: list[tuple[torch.Tensor, torch.Tensor]] = []
    fit_value = module.fit_value

    def watch(rollout: Rollout, optimizer: Any) -> float:
        earlier = lived[-2:]
        if earlier:
            assert rollout.earlier is not None
            assert torch.equal(rollout.earlier.observation, torch.cat([observation for observation, _ in earlier]))
            assert rollout.earlier.elapsed.shape == rollout.earlier.value_target.shape
            assert torch.equal(rollout.earlier.value_target, torch.cat([target for _, target in earlier]))
        lived.append((rollout.observation.flatten(0, 1).clone(), rollout.value_target.flatten().clone()))
        assert rollout.order.shape == (2, 32)
        assert all(len(set(order.tolist())) == 32 for order in rollout.order)
        assert rollout.order.max() < 32 * (1 + len(earlier))
        return fit_value(rollout, optimizer)

    module.fit_value = watch
    quiet_trainer(max_epochs=1).fit(module)
    assert len(lived) == 10


def test_statistics_are_frozen_from_a_rollouts_first_step_to_the_end_of_its_update(
    small_trpo: TRPO, quiet_trainer: MakeTrainer
) -> None:
    module = small_trpo()
    seen: list[torch.Tensor] = []
    for name in ("explore", "log_prob_of", "policy_step"):
        original = getattr(module, name)

        def watch(*arguments: Any, original: Any = original) -> Any:
            seen.append(module.policy.normalizer.mean.clone())
            return original(*arguments)

        setattr(module, name, watch)
    quiet_trainer(max_epochs=1).fit(module)
    calls = 16 + 1 + 1
    for rollout in range(10):
        means = seen[rollout * calls : (rollout + 1) * calls]
        assert all(torch.equal(mean, means[0]) for mean in means)
    assert not torch.equal(seen[0], seen[-1])


@pytest.mark.parametrize(
    ("normalize", "policys", "values"), [(True, True, True), ("value", False, True), (False, False, False)]
)
def test_observations_are_normalised_where_it_was_asked_for(
    small_trpo: TRPO, quiet_trainer: MakeTrainer, normalize: Any, policys: bool, values: bool
) -> None:
    module = small_trpo(normalize_observations=normalize)
    quiet_trainer(max_epochs=1).fit(module)
    for network, normalises in ((module.policy, policys), (module.value, values)):
        assert (network.normalizer is not None) is normalises
        if network.normalizer is not None:
            assert int(network.normalizer.count) == 320


def test_the_value_function_sees_the_time_and_the_policy_does_not(small_trpo: TRPO, quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(value_sees_time=True, value_rollouts=2)
    seen: list[torch.Tensor] = []
    bootstrapped: list[torch.Tensor] = []
    fit_value, value_of = module.fit_value, module.value_of

    def watch(rollout: Rollout, optimizer: Any) -> float:
        seen.append(rollout.elapsed.clone())
        return fit_value(rollout, optimizer)

    def watch_values(observation: torch.Tensor, elapsed: torch.Tensor) -> torch.Tensor:
        if elapsed.dim() == 1:
            bootstrapped.append(elapsed.clone())
        return value_of(observation, elapsed)

    module.fit_value, module.value_of = watch, watch_values
    quiet_trainer(max_epochs=1).fit(module)
    elapsed = torch.cat(seen)  # of episodes of 30 steps
    assert torch.equal(elapsed, (torch.arange(160) % 30).float().unsqueeze(-1).expand(-1, 2))
    # After an episode's last step 30 steps have passed; after a rollout's last one, what the next one begins with.
    ends = [set(each.tolist()) for each in bootstrapped]
    assert ends[0] == {16}
    assert ends[1] == {2, 30}
    observation = torch.randn(5, 3)
    early, late = (module.value_of(observation, torch.full((5,), passed)) for passed in (0.0, 30.0))
    assert not torch.equal(early, late)
    half = torch.cat([observation, torch.full((5, 1), 0.5)], dim=-1)
    torch.testing.assert_close(module.value_of(observation, torch.full((5,), 15.0)), module.value(half).detach())
    assert module.policy(observation).shape == (5, 2)


def test_the_time_that_the_value_function_sees_counts_the_steps_that_actions_are_held_for(small_trpo: TRPO) -> None:
    module = small_trpo(value_sees_time=True, action_repeat=3)  # an episode of 30 steps has 10 actions
    seen = module.seen_by_value(torch.randn(2, 3), torch.tensor([0.0, 5.0]))
    assert seen[:, -1].tolist() == [0.0, 0.5]
    module = small_trpo(value_sees_time=True, action_repeat=4)  # whose eighth action is held for two steps
    seen = module.seen_by_value(torch.randn(2, 3), torch.tensor([7.0, 8.0]))
    assert seen[:, -1].tolist() == [pytest.approx(28 / 30), 1.0]
