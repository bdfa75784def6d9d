"""Policies that look the same in a mirror."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box
from lightning.pytorch import Trainer
from torch.testing import assert_close

from lightning_rl import Mirror, TRPOModule
from lightning_rl.export import export_policy
from lightning_rl.moments import moments
from lightning_rl.networks.gaussian_policy import GaussianPolicy
from lightning_rl.networks.mirror import Reflection
from lightning_rl.networks.policy import GreedyPolicy

# Five numbers seen, of which the first two change places and the fourth its sign; three done, the middle one negated.
MIRROR = Mirror([(0, 1)], [(0, 2)], observation_negated=[3], action_negated=[1])
OF_OBSERVATION = torch.tensor(
    [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, -1, 0], [0, 0, 0, 0, 1]], dtype=torch.float64
)
OF_ACTION = torch.tensor([[0, 0, 1], [0, -1, 0], [1, 0, 0]], dtype=torch.float64)
PENDULUM = Mirror([], [], observation_negated=[1, 2], action_negated=[0])  # hung up the other way round

MakeTrainer = Callable[..., Trainer]


def policy_of_random_weights(**settings: Any) -> GaussianPolicy:
    torch.manual_seed(0)
    space = Box(np.float32([-1, -2, -1]), np.float32([3, 2, 3]))
    policy = GaussianPolicy(5, space, mirror=MIRROR, **settings).double()
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter)
    return policy


@pytest.mark.parametrize("normalizes", [False, True])
@pytest.mark.parametrize("squashes", [False, True])
def test_a_policy_does_in_the_mirror_what_the_mirror_shows(normalizes: bool, squashes: bool) -> None:
    policy = policy_of_random_weights(normalize_observations=normalizes, squash_actions=squashes)
    observation = torch.randn(7, 5, dtype=torch.float64)
    if policy.normalizer is not None:
        policy.normalizer.update(moments(3 * observation + 1))
    here, there = policy(observation), policy(observation @ OF_OBSERVATION.T)
    mean, log_std = here.chunk(2, -1)
    assert_close(there.chunk(2, -1)[0], mean @ OF_ACTION.T)
    assert not mean.allclose(mean @ OF_ACTION.T)
    assert_close(log_std @ OF_ACTION.T.abs(), log_std)
    network = policy.network(policy.normalize(observation))
    assert_close(mean, (network + policy.network(policy.normalize(observation @ OF_OBSERVATION.T)) @ OF_ACTION.T) / 2)
    # The bounds [-1, 3] are one pair's, and [-2, 2] look the same negated: so do the environment's actions.
    greedy = GreedyPolicy(policy)
    assert_close(greedy(observation @ OF_OBSERVATION.T), greedy(observation) @ OF_ACTION.T)
    noise = torch.randn(7, 3, dtype=torch.float64)
    assert_close(policy.at_rest()(observation, noise), policy.explore(observation, noise))
    assert_close(greedy.at_rest()(observation), greedy(observation))


def test_a_walker_does_in_the_mirror_what_the_mirror_shows() -> None:
    """Two of Gymnasium's walkers, one of which begins as the other one's mirror image, its legs exchanged.

    But for the hips' zero, which is the angle that each leg was made with, 0.05 radians forwards or backwards. And
    Box2D begins each step with the impulses of the last one, which are not exchanged: hence the tolerance.
    """
    config = yaml.safe_load((Path(__file__).parents[2] / "configs/trpo/bipedal_walker_fast.yaml").read_text())
    mirror = Mirror(**config["model"]["init_args"]["mirror"])
    of_observation = Reflection("observation", 24, mirror.observation_pairs, mirror.observation_negated)
    of_action = Reflection("action", 4, mirror.action_pairs, mirror.action_negated)
    walkers = [gym.make("BipedalWalker-v3") for _ in range(2)]
    for walker in walkers:
        walker.reset(seed=0)
    exchange_legs(walkers[1].unwrapped)
    zero = np.zeros(24)
    zero[[4, 9]] = 0.1, -0.1
    apart = 0.0
    for action in np.random.default_rng(0).uniform(-1, 1, (12, 4)).astype(np.float32):
        seen, reward, *_ = walkers[0].step(action)
        there, reward_there, *_ = walkers[1].step(of_action(torch.from_numpy(action)).numpy())
        np.testing.assert_allclose(there, of_observation(torch.from_numpy(seen)).numpy() + zero, atol=0.01)
        assert reward_there == pytest.approx(reward, abs=0.01)
        apart = max(apart, np.abs(seen[4:9] - seen[9:14]).max())
    assert apart > 0.5  # the legs did different things


def exchange_legs(walker: Any) -> None:
    """Puts each leg where the other one is, as fast as that."""
    for one, other in zip(walker.legs[:2], walker.legs[2:], strict=True):
        states = [((*leg.position,), leg.angle, (*leg.linearVelocity,), leg.angularVelocity) for leg in (one, other)]
        for leg, state in zip((other, one), states, strict=True):
            leg.position, leg.angle, leg.linearVelocity, leg.angularVelocity = state


def test_training_keeps_the_symmetry_and_a_checkpoint_the_mirror(small_trpo: Any, quiet_trainer: MakeTrainer) -> None:
    module: TRPOModule = small_trpo(mirror=PENDULUM, normalize_observations="value")
    before = [layer.weight.clone() for layer in module.policy.network[::2]]
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(module)
    after = [layer.weight for layer in module.policy.network[::2]]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    trainer.save_checkpoint("trained.ckpt", weights_only=False)
    loaded = TRPOModule.load_from_checkpoint("trained.ckpt")
    observation = torch.randn(7, 3)
    greedy = loaded.greedy_policy()
    assert_close(greedy(observation * torch.tensor([1.0, -1.0, -1.0])), -greedy(observation))
    assert (greedy(observation) == module.greedy_policy()(observation)).all()


@pytest.mark.parametrize("sees_time", [False, True])
def test_the_value_function_is_fitted_to_every_other_state_in_the_mirror(
    small_trpo: Any, quiet_trainer: MakeTrainer, sees_time: bool
) -> None:
    module: TRPOModule = small_trpo(mirror=PENDULUM, value_sees_time=sees_time)
    fitted: list[torch.Tensor] = []
    fit, value_loss = module.fit_value, module.value_loss

    def watched_loss(seen: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        fitted.append(seen.clone())
        return value_loss(seen, target)

    def watched_fit(rollout: Any, optimizer: Any) -> float:
        before = rollout.observation.clone()
        loss = fit(rollout, optimizer)
        assert (rollout.observation == before).all()
        expected = module.seen_by_value(before, rollout.elapsed).flatten(0, 1)[rollout.order]
        expected[:, ::2, 1:3] *= -1
        assert (torch.cat(fitted) == expected.flatten(0, 1)).all()
        fitted.clear()
        return loss

    module.value_loss, module.fit_value = watched_loss, watched_fit
    quiet_trainer(max_epochs=1, limit_val_batches=0, enable_checkpointing=False).fit(module)


def test_an_exported_policy_has_the_mirror_in_it(small_trpo: Any) -> None:
    module: TRPOModule = small_trpo(mirror=PENDULUM)
    torch.nn.init.normal_(module.policy.network[-1].weight)
    export_policy(module, Path("policy.pt2"))
    exported = torch.export.load("policy.pt2").module()
    observation = torch.randn(7, 3)
    assert_close(exported(observation), module.greedy_policy()(observation))
    assert_close(exported(observation * torch.tensor([1.0, -1.0, -1.0])), -exported(observation))


@pytest.mark.parametrize(
    ("mirror", "message"),
    [
        (
            Mirror([(0, 3)], []),
            "mirror: observation_pairs names the places [0, 3]: each at most once, an integer from 0",
        ),
        (Mirror([(0.0, 1)], []), "mirror: observation_pairs names the places [0.0, 1]: each at most once, an integer"),
        (Mirror([(0, 1, 2)], []), "mirror: observation_pairs=[(0, 1, 2)]: pairs of two places were expected."),
        (Mirror([(0, 1), (1, 2)], []), "mirror: observation_pairs names the places [0, 1, 1, 2]"),
        (Mirror([], [], action_negated=[-1]), "mirror: action_negated names the places [-1]: each at most once, an"),
        (
            Mirror([(0, 1)], [], observation_negated=[1]),
            "mirror: of the pair [0, 1] of observation_pairs one place alone is in observation_negated: both or none",
        ),
    ],
)
def test_message(small_trpo: Any, mirror: Mirror, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        small_trpo(mirror=mirror)


@pytest.mark.parametrize(
    ("mirror", "low", "high"),
    [
        (Mirror([], [(0, 1)]), [0, -1], [1, 1]),
        (Mirror([], [(0, 1)]), [-np.inf, -5], [3, np.inf]),  # of both the scale is one and the middle zero
        (Mirror([], [], action_negated=[0]), [-1, -1], [np.inf, 1]),
    ],
)
def test_bounds_that_look_different_in_the_mirror_are_told(mirror: Mirror, low: list[float], high: list[float]) -> None:
    with pytest.raises(ValueError, match="bounds that look different in it"):
        GaussianPolicy(3, Box(np.float32(low), np.float32(high)), mirror=mirror)


def test_a_mirror_in_its_plain_form_is_told(small_trpo: Any) -> None:
    with pytest.raises(TypeError, match="or None was expected"):
        small_trpo(mirror={"observation_pairs": []})


def test_choices_are_not_mirrored(small_trpo: Any) -> None:
    with pytest.raises(ValueError, match=r"CartPole-v1 has the action space Discrete.*leave mirror at None"):
        small_trpo(env="CartPole-v1", mirror=Mirror([], []))
