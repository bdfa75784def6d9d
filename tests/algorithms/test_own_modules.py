"""Networks of one's own, and evaluation that does not depend on how it is run."""

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from lightning_rl import SACModule

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


class LinearActor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.layer(observation).chunk(2, dim=-1)
        return mean, log_std


class SeparateCritics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([observation, action], dim=-1)
        return torch.stack([self.first(x)[:, 0], self.second(x)[:, 0]])


def test_own_networks_train_and_are_asked_for_when_loading(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(actor=LinearActor(), critic=SeparateCritics())
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module)
    assert not any(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    trainer.save_checkpoint("own.ckpt", weights_only=False)
    loaded = SACModule.load_from_checkpoint("own.ckpt", actor=LinearActor(), critic=SeparateCritics())
    observation = module.observation_space.sample()
    assert (loaded.act(observation) == module.act(observation)).all()
    with pytest.raises(Exception, match="could not store; give it again"):
        SACModule.load_from_checkpoint("own.ckpt")


class FrozenEncoderActor(LinearActor):
    """Looks through a layer that came from elsewhere and does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.encoder(observation).tanh())


class FrozenEncoderCritics(SeparateCritics):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return super().forward(self.encoder(observation).tanh(), action)


def test_frozen_parts_of_own_networks_stay_as_they_are(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(actor=FrozenEncoderActor(), critic=FrozenEncoderCritics())
    networks = {"actor": module.actor, "critic": module.critic}
    before = {f"{name}.{n}": p.detach().clone() for name, net in networks.items() for n, p in net.named_parameters()}
    quiet_trainer(max_epochs=1).fit(module)
    after = {f"{name}.{n}": p for name, net in networks.items() for n, p in net.named_parameters()}
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "encoder" in name}
    assert len(same) == 4


def test_acting_is_done_as_in_an_evaluation(small_sac: SAC) -> None:
    actor = LinearActor()
    actor.layer = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.Dropout(0.5), actor.layer)
    module = small_sac(actor=actor)
    observation = module.observation_space.sample()
    assert len({float(module.act(observation)[0]) for _ in range(20)}) == 1
    assert module.training
    assert not actor.layer[0].training


@pytest.mark.parametrize("env", ["BipedalWalker-v3", "Pendulum-v1"])
def test_evaluation_does_not_depend_on_the_number_of_environments(
    small_sac: SAC, quiet_trainer: MakeTrainer, env: str
) -> None:
    results = []
    for num_envs in (1, 2, 4):
        seed_everything(0)
        module = small_sac(env=env, num_envs=num_envs, max_episode_steps=150, eval_episodes=4)
        results.append(quiet_trainer(logger=False).validate(module, verbose=False))
    assert results[0] == results[1] == results[2]
