"""What a checkpoint holds, and what it is refused for."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lightning_rl import SACModule, TRPOModule
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


def test_weights_alone_carry_no_experience_and_say_so(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_sac())
    trainer.save_checkpoint("weights.ckpt", weights_only=True)
    assert "experience" not in torch.load("weights.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"weights alone.*load_from_checkpoint"):
        quiet_trainer(max_epochs=2).fit(small_sac(), ckpt_path="weights.ckpt")
    assert SACModule.load_from_checkpoint("weights.ckpt").environment_steps == 160


def test_checkpoints_are_plain_and_build_the_module_again(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(activation=torch.nn.Tanh, actor_averaging=0.1, env_kwargs={"g": 9.0}, hidden_sizes=(8,))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module)
    trainer.save_checkpoint("plain.ckpt", weights_only=False)
    checkpoint = torch.load("plain.ckpt", weights_only=True)
    assert checkpoint["lightning_rl"]["format"] == 1
    loaded = SACModule.load_from_checkpoint("plain.ckpt")
    assert loaded.environment.env_kwargs == {"g": 9.0}
    assert isinstance(loaded.actor.network.trunk[1], torch.nn.Tanh)
    observation = module.observation_space.sample()
    assert (loaded.act(observation) == module.act(observation)).all()
    assert loaded.environment_steps == 160


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"env": "MountainCarContinuous-v0"}, r"trained on Pendulum-v1 .*MountainCarContinuous-v0"),
        ({"buffer_size": 800}, r"buffer_size=400 .* 800"),
        ({"num_envs": 4}, r"2 environments .* num_envs is 4"),
        ({"action_repeat": 2}, r"has action_repeat=1, .* action_repeat=2.*Go on with action_repeat=1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    small_sac: SAC, quiet_trainer: MakeTrainer, overrides: dict[str, Any], message: str
) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_sac(hidden_sizes=(4,)))
    trainer.save_checkpoint("other.ckpt", weights_only=False)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=2).fit(small_sac(hidden_sizes=(4,), **overrides), ckpt_path="other.ckpt")


def test_a_checkpoint_of_the_other_algorithm_is_refused(
    small_sac: SAC, small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer
) -> None:
    for trained, other in ((small_sac, small_trpo), (small_trpo, small_sac)):
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(trained())
        trainer.save_checkpoint("first.ckpt", weights_only=False)
        message = f"is of {type(trained()).algorithm}, and this module is {type(other()).algorithm}"
        with pytest.raises(ValueError, match=message):
            quiet_trainer(max_epochs=2).fit(other(), ckpt_path="first.ckpt")


def test_a_checkpoint_of_a_newer_format_is_refused(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_sac())
    trainer.save_checkpoint("new.ckpt", weights_only=False)
    checkpoint = torch.load("new.ckpt", weights_only=True)
    checkpoint["lightning_rl"]["format"] = 99
    torch.save(checkpoint, "new.ckpt")
    with pytest.raises(ValueError, match="format 99"):
        SACModule.load_from_checkpoint("new.ckpt")


def make_pendulum() -> Any:
    import gymnasium

    return gymnasium.make("Pendulum-v1", g=5.0)


def test_a_callable_environment_goes_on_from_its_own_checkpoint(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trainer = quiet_trainer(max_epochs=1, logger=CSVLogger(".", version="run"))
    trainer.fit(small_sac(env=make_pendulum))
    last = "lightning_logs/run/checkpoints/last.ckpt"
    module = SACModule.load_from_checkpoint(last)
    resumed = quiet_trainer(max_epochs=2, logger=CSVLogger(".", version="run"))
    resumed.fit(module, ckpt_path=last)
    assert module.environment_steps == 320


@pytest.mark.parametrize(
    "settings",
    [
        {"env": partial(make_pendulum)},
        *({"env_kwargs": {"g": np.float64(9.0), "not_plain": it}} for it in (object(), max, {1: 5.0}, [partial(max)])),
    ],
)
def test_an_environment_that_cannot_be_stored_is_asked_for(
    small_sac: SAC, quiet_trainer: MakeTrainer, settings: dict[str, Any]
) -> None:
    module = small_sac(**{"env": make_with, **settings})
    quiet_trainer(max_epochs=1, logger=CSVLogger(".", version="run")).fit(module)
    with pytest.raises(ValueError, match="could not store; give it again"):
        SACModule.load_from_checkpoint("lightning_logs/run/checkpoints/last.ckpt")
    loaded = SACModule.load_from_checkpoint("lightning_logs/run/checkpoints/last.ckpt", **settings)
    assert loaded.environment_steps == 160


def make_with(g: float, not_plain: object) -> Any:
    return make_pendulum()


def test_what_a_checkpoint_cannot_store_is_asked_for(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_sac(env=lambda: make_pendulum()))
    trainer.save_checkpoint("local.ckpt", weights_only=False)
    with pytest.raises(ValueError, match="could not store; give it again"):
        SACModule.load_from_checkpoint("local.ckpt")
    assert SACModule.load_from_checkpoint("local.ckpt", env=make_pendulum).environment.make().unwrapped.g == 5.0


@pytest.mark.parametrize("action_repeat", [1, 2])
def test_steps_that_ranks_do_not_divide_are_rounded_up(
    small_trpo: Any, quiet_trainer: MakeTrainer, action_repeat: int
) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_trpo(action_repeat=action_repeat))
    trainer.save_checkpoint("two.ckpt", weights_only=False)
    content = torch.load("two.ckpt", weights_only=True)
    content["lightning_rl"] |= {"world_size": 2, "environment_steps": 3 * 107 * action_repeat - 1}
    module = small_trpo(action_repeat=action_repeat)
    ranks = SimpleNamespace(root_device=torch.device("cpu"))
    module._trainer = SimpleNamespace(world_size=3, global_rank=0, strategy=ranks)
    module._refill(content)
    assert module.environment_steps == 3 * 107 * action_repeat
