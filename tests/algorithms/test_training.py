"""Real Trainer runs: what is counted, what stops, what is written."""

import csv
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_rl import SACModule
from lightning_rl.callbacks import ModelCheckpoint
from lightning_rl.experience import EpochStream
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]
WARM_UP_ITEMS, ITEMS, UPDATES = 1, 10, 8  # of small_sac: the second item ends with enough transitions for updates


def rows(folder: str = "lightning_logs/version_0") -> list[dict[str, str]]:
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_bare_module_is_the_walker() -> None:
    module = SACModule()
    assert module.environment.name == "BipedalWalker-v3"
    assert (module.gamma, module.tau, module.batch_size, module.buffer_size) == (0.98, 0.01, 256, 1_000_000)
    assert module.target_entropy == -4
    [critic, actor, alpha] = module.configure_optimizers()
    assert [type(o) for o in (critic, actor, alpha)] == [torch.optim.Adam] * 3
    assert [o.param_groups[0]["lr"] for o in (critic, actor, alpha)] == [3e-4] * 3


def test_global_step_counts_updates_and_loggers_count_environment_steps(
    small_sac: SAC, quiet_trainer: MakeTrainer
) -> None:
    module = small_sac()
    trainer = quiet_trainer(max_epochs=2, logger=[CSVLogger(".", version=0), TensorBoardLogger(".", version=0)])
    trainer.fit(module)
    assert module.environment_steps == 320
    assert trainer.global_step == (2 * ITEMS - WARM_UP_ITEMS) * UPDATES
    validated = [row for row in rows() if row["val/return"]]
    assert [int(row["step"]) for row in validated] == [160, 320]
    logged = [int(row["step"]) for row in rows() if row["sac/critic_loss"]]
    assert logged == [80, 160, 240, 320]  # every fifth item of 16 steps
    assert {"val/return_std", "val/return_min", "val/return_max", "val/length", "train/return"} <= validated[0].keys()
    events = EventAccumulator("lightning_logs/version_0").Reload()
    assert [event.step for event in events.Scalars("val/return")] == [160, 320]


def test_loggers_count_the_steps_that_actions_are_held_for(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(action_repeat=3)
    trainer = quiet_trainer(max_epochs=2, logger=CSVLogger(".", version=0))
    trainer.fit(module)
    assert module.environment_steps == 3 * 320
    assert trainer.global_step == (2 * ITEMS - WARM_UP_ITEMS) * UPDATES
    validated = [row for row in rows() if row["val/return"]]
    assert [(int(row["step"]), float(row["val/length"])) for row in validated] == [(480, 10), (960, 10)]


def test_training_returns_are_those_of_the_episodes_that_ended(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(max_episode_steps=8)
    trainer = quiet_trainer(max_epochs=1, logger=CSVLogger("."), log_every_n_steps=1)
    trainer.fit(module)
    first = rows()[0]
    rewards = module.experience.buffer.reward[:8]  # an item is 8 steps of 2 environments: two whole episodes
    assert float(first["train/return"]) == pytest.approx(float(rewards.sum(0).mean()), rel=1e-5)
    assert float(first["train/length"]) == 8


@pytest.mark.parametrize("limit", [5, 8, 21])
def test_max_steps_is_kept_to_the_update(small_sac: SAC, quiet_trainer: MakeTrainer, limit: int) -> None:
    module = small_sac()
    trainer = quiet_trainer(max_steps=limit)
    trainer.fit(module)
    assert trainer.global_step == limit
    assert module.critic.layers[0].weight.isfinite().all()


def test_each_round_is_collected_by_the_policy_that_the_last_item_left(
    small_sac: SAC, quiet_trainer: MakeTrainer
) -> None:
    module = small_sac(learning_starts=0)
    acted, trained = [], []

    class Watch(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            trained.append(module.actor.network.mean.weight.detach().clone())

    act = module.explore

    def explore(observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        acted.append(module.actor.network.mean.weight.detach().clone())
        return act(observation, noise)

    module.explore = explore
    quiet_trainer(max_epochs=1, callbacks=[Watch()]).fit(module)
    vector_steps = 8
    assert len(acted) == ITEMS * vector_steps
    for item in range(1, ITEMS):
        assert torch.equal(acted[item * vector_steps], trained[item - 1])
        assert not torch.equal(acted[item * vector_steps], trained[item])


def test_an_epoch_of_pure_warm_up_evaluates_and_checkpoints(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac(learning_starts=400)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module)
    assert trainer.global_step == 0
    assert "val/return" in trainer.callback_metrics
    assert Path("lightning_logs/version_0/checkpoints/last.ckpt").exists()


def test_best_and_last_checkpoint_of_a_bare_trainer(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac()
    trainer = quiet_trainer(max_epochs=4)
    trainer.fit(module)
    folder = Path("lightning_logs/version_0/checkpoints")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    best = torch.load(folder / "best.ckpt", weights_only=True)
    last = torch.load(folder / "last.ckpt", weights_only=True)
    assert last["lightning_rl"]["environment_steps"] == 640
    validated = {int(row): value for row, value in validation_curve()}
    assert best["lightning_rl"]["environment_steps"] == max(validated, key=validated.get)


def validation_curve() -> list[tuple[int, float]]:
    events = EventAccumulator("lightning_logs/version_0").Reload()
    return [(event.step, event.value) for event in events.Scalars("val/return")]


@pytest.mark.parametrize(
    ("own", "is_best"),
    [
        (ModelCheckpoint(monitor="val/return", mode="max", filename="mine"), True),
        (lightning_callbacks.ModelCheckpoint(filename="mine", save_weights_only=True), False),
        (lightning_callbacks.ModelCheckpoint(save_weights_only=True), False),
        (ModelCheckpoint(every_n_train_steps=72, save_weights_only=True), False),
    ],
)
def test_a_users_checkpoints_stay_and_snapshots_are_not_the_best(
    small_sac: SAC, quiet_trainer: MakeTrainer, own: lightning_callbacks.ModelCheckpoint, is_best: bool
) -> None:
    trainer = quiet_trainer(max_epochs=1, callbacks=[own])
    trainer.fit(small_sac())
    names = {path.name for path in Path(own.dirpath).iterdir()}
    assert names == {"last.ckpt", Path(own.best_model_path).name} | (set() if is_best else {"best.ckpt"})
    assert (trainer.checkpoint_callback is own) == is_best


def test_a_checkpoint_after_some_time_never_comes_and_that_is_said(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    own = ModelCheckpoint(train_time_interval=timedelta(seconds=1))
    with pytest.warns(UserWarning, match="train_time_interval.* never saves"):
        quiet_trainer(max_epochs=1, callbacks=[own]).fit(small_sac())


def test_checkpoints_every_so_many_updates_fire_when_the_number_is_crossed(
    small_sac: SAC, quiet_trainer: MakeTrainer
) -> None:
    every = ModelCheckpoint(dirpath="every", every_n_train_steps=30, save_top_k=-1, filename="{step}")
    quiet_trainer(max_epochs=2, callbacks=[every]).fit(small_sac())
    saved = sorted(int(path.stem.split("=")[1]) for path in Path("every").glob("step=*.ckpt"))
    assert saved == [32, 64, 96, 120, 152]  # 30, 60, 90, 120 and 150, at the ends of items of 8


def test_early_stopping_watches_the_validation_return(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    stopping = EarlyStopping(monitor="val/return", mode="max", patience=1, min_delta=1e9)
    trainer = quiet_trainer(max_epochs=9, callbacks=[stopping])
    trainer.fit(small_sac())
    assert trainer.current_epoch == 2


def test_timer_and_learning_rate_monitor(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    def decay(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)

    module = small_sac(lr_scheduler=decay)
    timer = Timer(duration={"hours": 1})
    trainer = quiet_trainer(
        max_epochs=1, callbacks=[timer, LearningRateMonitor(logging_interval="step")], logger=CSVLogger(".")
    )
    trainer.fit(module)
    assert timer.time_elapsed() > 0
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == pytest.approx([3e-4 * 0.99**trainer.global_step] * 3)  # one step of the schedule an update
    assert any(row.get("lr-Adam") for row in rows())


def test_plateau_schedule_waits_for_evaluations(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=0.5, patience=0, threshold=1e9, threshold_mode="abs"
        )

    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(small_sac(lr_scheduler=plateau))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(3e-4 / 4)


@pytest.mark.parametrize(
    "settings",
    [{"max_time": {"seconds": 1}}, {"callbacks": [Timer(duration={"seconds": 1}, interval="step")]}],
    ids=["max_time", "Timer"],
)
def test_time_stops_the_run(small_sac: SAC, quiet_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    trainer = quiet_trainer(**settings, max_epochs=-1)
    trainer.fit(small_sac(steps_per_epoch=1_600_000))
    assert trainer.should_stop
    assert 0 < trainer.global_step < 800_000


def test_fast_dev_run_and_limits(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac()
    quiet_trainer(fast_dev_run=True).fit(module)
    assert module.environment_steps == 16
    assert not Path("lightning_logs").exists()
    limited = small_sac()
    quiet_trainer(max_epochs=3, limit_train_batches=4, limit_val_batches=1, log_every_n_steps=1).fit(limited)
    assert limited.environment_steps == 3 * 4 * 16


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precisions(small_sac: SAC, quiet_trainer: MakeTrainer, precision: str) -> None:
    module = small_sac()
    trainer = quiet_trainer(max_epochs=1, precision=precision)
    trainer.fit(module)
    assert trainer.global_step == (ITEMS - WARM_UP_ITEMS) * UPDATES
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert {parameter.dtype for parameter in module.parameters()} == {expected}
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_half_precision_with_loss_scaling_is_refused(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac()
    trainer = quiet_trainer(max_epochs=1)
    trainer.strategy.precision_plugin.precision = "16-mixed"  # which Lightning grants on a GPU alone
    with pytest.raises(ValueError, match=r"precision=.16-mixed.*bf16-mixed"):
        trainer.fit(module)


def test_fit_after_fit_goes_on(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac()
    quiet_trainer(max_epochs=1).fit(module)
    assert module.experience.buffer.size == 160
    again = quiet_trainer(max_epochs=1)
    again.fit(module)
    assert (module.environment_steps, module.experience.buffer.size) == (320, 320)
    assert again.global_step == ITEMS * UPDATES  # no second warm-up


def test_one_seed_twice_gives_the_same_weights(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    weights = []
    for seed in (7, 7, 8):
        seed_everything(seed)
        module = small_sac()
        quiet_trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(module)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_a_seed_one_is_drawn_and_said(
    small_sac: SAC, quiet_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    seeds = []
    for _ in range(2):
        module = small_sac()
        quiet_trainer(fast_dev_run=True).fit(module)
        seeds.append(module.experience.collector.state_dict()["run_seed"])
        assert f"drawn seed {seeds[-1]}" in caplog.text
    assert seeds[0] != seeds[1]


def test_the_stream_has_a_length_so_that_nothing_is_fetched_ahead(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    module = small_sac()
    drawn = []
    module.train_dataloader = lambda: EpochStream(
        lambda: (drawn.append(module.environment_steps), module.next_item())[1], 3
    )
    ends = []

    class Watch(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            ends.append(len(drawn))

    quiet_trainer(max_epochs=1, callbacks=[Watch()], log_every_n_steps=1).fit(module)
    assert ends == [1, 2, 3]
