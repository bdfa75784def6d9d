"""Going on from a checkpoint gives, to the bit, what the unbroken run gives."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import BestCheckpoint, LastCheckpoint, ModelCheckpoint
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]
STATE = ("state_dict", "experience", "optimizer_states", "lr_schedulers", "global_step", "epoch", "lightning_rl")


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """The places where two checkpoints differ."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        return [place for key in left for place in differences(left[key], right[key], f"{where}/{key}")]
    if isinstance(left, list | tuple):
        assert len(left) == len(right)
        pairs = enumerate(zip(left, right, strict=True))
        return [place for i, (a, b) in pairs for place in differences(a, b, f"{where}/{i}")]
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [where]


def state(trainer: Trainer) -> dict[str, Any]:
    trainer.save_checkpoint("state.ckpt", weights_only=False)
    checkpoint = torch.load("state.ckpt", weights_only=True)
    return {key: checkpoint[key] for key in STATE}


def metrics() -> list[dict[str, str]]:
    with Path("lightning_logs/run/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


WALKER = {"env": "BipedalWalker-v3", "max_episode_steps": 1600, "steps_per_epoch": 320}


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("sac", {}),
        ("sac", {**WALKER, "buffer_size": 640}),
        (
            "sac",
            {
                "actor_averaging": 0.01,
                "noise_correlation": 0.0,
                "alpha": 0.1,
                "gradient_steps": 5,
                "backend": "async",
            },
        ),
        ("sac", {"precision": "64-true"}),
        ("sac", {"action_repeat": 4}),
        ("trpo", {}),
        ("trpo", {"precision": "64-true", "value_rollouts": 2}),
        ("trpo", {**WALKER, "noise_correlation": 0.5}),
        ("trpo", {"squash_actions": True, "normalize_observations": "value", "value_sees_time": True}),
        ("trpo", {"env": "CartPole-v1", "value_target": "gae", "backend": "async"}),
        ("trpo", {"action_repeat": 4, "value_sees_time": True}),
        (
            "trpo",
            {
                "policy_averaging": 0.1,
                "value_rollouts": 3,
                "value_hidden_sizes": (4, 4),
                "normalize_rewards": False,
                "normalize_observations": False,
                "fisher_stride": 2,
            },
        ),
    ],
)
def test_resuming_from_any_checkpoint_is_exact(
    request: pytest.FixtureRequest, quiet_trainer: MakeTrainer, algorithm: str, settings: dict[str, Any]
) -> None:
    make = request.getfixturevalue(f"small_{algorithm}")
    every = {"sac": 30, "trpo": 4}[algorithm]
    precision = settings.get("precision", "32-true")
    settings = {name: value for name, value in settings.items() if name != "precision"}

    def run(max_epochs: int, checkpoint: str | None = None) -> tuple[dict[str, Any], list[dict[str, str]]]:
        seed_everything(3)
        snapshots = ModelCheckpoint(dirpath="snapshots", every_n_train_steps=every, save_top_k=-1, filename="{step}")
        callbacks = [snapshots, BestCheckpoint(), LastCheckpoint()]
        logger = CSVLogger(".", version="run")
        trainer = quiet_trainer(max_epochs=max_epochs, callbacks=callbacks, logger=logger, precision=precision)
        trainer.fit(make(**settings), ckpt_path=checkpoint)
        return state(trainer), metrics()

    unbroken, curve = run(3)
    taken = sorted(Path("snapshots").glob("step=*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    assert len(taken) >= 4
    Path("snapshots").rename("taken")
    for path in (taken[0], taken[1], taken[-1]):  # in the middle of an epoch, and at its end
        resumed, joined = run(3, str(Path("taken") / path.name))
        assert differences(unbroken, resumed) == []
        assert joined == curve


@pytest.mark.parametrize("algorithm", ["sac", "trpo"])
def test_resuming_before_an_evaluation_in_the_middle_of_an_epoch_does_not_lose_it(
    request: pytest.FixtureRequest, quiet_trainer: MakeTrainer, algorithm: str
) -> None:
    make = request.getfixturevalue(f"small_{algorithm}")
    halving = {"lr_scheduler": lambda optimizer: ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)}

    def run(checkpoint: str | None = None) -> tuple[dict[str, Any], list[dict[str, str]]]:
        seed_everything(3)
        snapshots = ModelCheckpoint(dirpath="snapshots", every_n_train_steps=1, save_top_k=-1, filename="{step}")
        logger = CSVLogger(".", version="run")
        trainer = quiet_trainer(max_epochs=2, val_check_interval=0.5, callbacks=[snapshots], logger=logger)
        trainer.fit(make(**halving), ckpt_path=checkpoint)
        return state(trainer), metrics()

    whole, curve = run()
    Path("snapshots").rename("taken")
    Path("lightning_logs/run").rename("before")
    middle = {"sac": 240, "trpo": 480}[algorithm]  # the environment step of the second epoch's first evaluation
    taken = {path: torch.load(path, weights_only=True) for path in Path("taken").glob("*.ckpt")}
    [(path, checkpoint)] = [each for each in taken.items() if each[1]["lightning_rl"]["environment_steps"] == middle]
    assert len(checkpoint["callbacks"]["LearningCurve"]["points"]) == 3
    resumed, rest = run(str(path))
    assert differences(whole, resumed) == []
    assert rest == [row for row in curve if int(row["step"]) > middle]


@pytest.mark.parametrize("how", ["max_steps", "early"])
def test_a_run_that_stops_in_the_middle_of_an_epoch_keeps_its_end(
    small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer, how: str
) -> None:
    stop = EarlyStopping("val/return", stopping_threshold=-1e9, mode="max")
    settings = {"max_steps": 5} if how == "max_steps" else {"callbacks": [stop], "max_epochs": 5}
    trainer = quiet_trainer(val_check_interval=0.5, **settings)
    trainer.fit(small_trpo())
    assert trainer.global_step == 5
    [last] = Path("lightning_logs").glob("**/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 5
    assert len(checkpoint["callbacks"]["LearningCurve"]["points"]) == 1


def test_who_may_not_stop_yet_does_not_save_at_every_item(
    small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(
        "lightning_rl.callbacks.checkpoints.save_last", lambda trainer: saved.append(trainer.global_step)
    )
    stop = EarlyStopping("val/return", stopping_threshold=-1e9, mode="max")
    quiet_trainer(callbacks=[stop], min_epochs=3, max_epochs=5).fit(small_trpo())
    assert saved == [10, 20, 30]


class Forgetful(nn.Module):
    """Critics with dropout, which draws from PyTorch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([observation, action], dim=-1)).T


def test_resuming_with_dropout_is_exact(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    def run(max_epochs: int, checkpoint: str | None = None) -> Trainer:
        seed_everything(3)
        trainer = quiet_trainer(max_epochs=max_epochs, enable_checkpointing=False, logger=False)
        trainer.fit(small_sac(critic=Forgetful()), ckpt_path=checkpoint)
        return trainer

    unbroken = state(run(2))
    run(1).save_checkpoint("first.ckpt", weights_only=False)
    assert differences(unbroken, state(run(2, "first.ckpt"))) == []


def test_the_last_checkpoint_is_beside_the_users_snapshots(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trained: list[int] = []
    for _ in range(2):
        snapshots = ModelCheckpoint(dirpath="mine", every_n_train_steps=24, save_top_k=-1, filename="{step}")
        trainer = quiet_trainer(max_epochs=len(trained) + 1, callbacks=[snapshots])
        module = small_sac()
        trainer.fit(module, ckpt_path="last" if trained else None)
        trained.append(module.environment_steps)
    assert trained == [160, 320]
    assert {"best.ckpt", "last.ckpt", "step=24.ckpt"} <= {path.name for path in Path("mine").iterdir()}


def test_stopping_and_going_on_is_one_run(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    def run(max_epochs: int, checkpoint: str | None = None) -> dict[str, Any]:
        seed_everything(4)
        trainer = quiet_trainer(max_epochs=max_epochs, logger=CSVLogger(".", version="run"))
        trainer.fit(small_sac(), ckpt_path=checkpoint)
        return state(trainer)

    unbroken, curve = run(4), metrics()
    run(2)
    resumed = run(4, "lightning_logs/run/checkpoints/last.ckpt")
    assert differences(unbroken, resumed) == []
    assert metrics() == curve


@pytest.mark.parametrize("algorithm", ["sac", "trpo"])
@pytest.mark.parametrize("stop", ["max_steps", "should_stop"])
def test_going_on_after_a_stop_in_the_middle_of_an_epoch_is_one_run(
    request: pytest.FixtureRequest, quiet_trainer: MakeTrainer, algorithm: str, stop: str
) -> None:
    make = request.getfixturevalue(f"small_{algorithm}")
    third_item = {"sac": 24, "trpo": 3}[algorithm]

    class Stops(Callback):
        """Stops a run as a Timer does whose time is up after the third item."""

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.should_stop or trainer.global_step == third_item

    def run(checkpoint: str | None = None, **settings: Any) -> dict[str, Any]:
        seed_everything(5)
        settings = {"max_epochs": 3, "logger": CSVLogger(".", version="run"), **settings}
        trainer = quiet_trainer(**settings)
        trainer.fit(make(), ckpt_path=checkpoint)
        return state(trainer)

    unbroken, curve = run(), metrics()
    Path("lightning_logs/run/checkpoints").rename("complete")
    stopped = run(**({"max_steps": third_item} if stop == "max_steps" else {"callbacks": [Stops()]}))
    assert stopped["global_step"] == third_item
    Path("lightning_logs/run/checkpoints").rename("kept")
    kept = sorted(path.name for path in Path("kept").iterdir())
    assert kept == (["last.ckpt"] if stop == "max_steps" else ["best.ckpt", "last.ckpt"])
    for name in kept:
        resumed = run(f"kept/{name}")
        assert differences(unbroken, resumed) == []
        assert [row for row in metrics() if row in curve] == curve  # a Timer's stop adds an evaluation


def test_rows_of_a_learning_rate_monitor_are_not_doubled(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    def run(max_epochs: int, checkpoint: str | None = None) -> list[dict[str, str]]:
        seed_everything(6)
        snapshots = ModelCheckpoint(dirpath="snapshots", every_n_train_steps=30, save_top_k=-1, filename="{step}")
        trainer = quiet_trainer(
            max_epochs=max_epochs,
            logger=CSVLogger(".", version="run"),
            callbacks=[LearningRateMonitor(logging_interval="step"), snapshots, BestCheckpoint(), LastCheckpoint()],
        )
        trainer.fit(small_sac(lr_scheduler=decay), ckpt_path=checkpoint)
        return metrics()

    unbroken = run(2)
    assert sum(bool(row["lr-Adam"]) for row in unbroken) == 4
    Path("snapshots").rename("taken")
    for path in Path("taken").iterdir():
        assert run(2, str(path)) == unbroken


def decay(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)


@pytest.mark.parametrize("algorithm", ["sac", "trpo"])
def test_envpool_resumes_all_but_the_episodes(
    request: pytest.FixtureRequest, quiet_trainer: MakeTrainer, algorithm: str
) -> None:
    pytest.importorskip("envpool")
    make = request.getfixturevalue(f"small_{algorithm}")
    trainer = quiet_trainer(max_epochs=1, logger=CSVLogger(".", version="run"))
    trainer.fit(make(backend="envpool"))
    before = state(trainer)
    loaded: list[dict[str, Any]] = []

    class Looks(Callback):
        def on_train_start(self, trainer: Trainer, *_: Any) -> None:
            loaded.append(state(trainer))

    resumed = quiet_trainer(max_epochs=2, logger=CSVLogger(".", version="run"), callbacks=[Looks()])
    module = make(backend="envpool")
    with pytest.warns(UserWarning, match="2 of 2 episodes in flight could not be brought back"):
        resumed.fit(module, ckpt_path="lightning_logs/run/checkpoints/last.ckpt")
    assert differences({**before, "epoch": 0}, {**loaded[0], "epoch": 0}) == []
    assert module.environment_steps == 2 * before["lightning_rl"]["environment_steps"]
