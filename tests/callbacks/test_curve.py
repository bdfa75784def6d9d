import csv
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_rl import SACModule
from lightning_rl.callbacks import BestCheckpoint, LastCheckpoint, LearningCurve
from lightning_rl.curves import read_curve
from lightning_rl.experience import Collector, Episode

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


def test_a_bare_run_leaves_its_curve_in_its_folder_and_in_tensorboard(
    small_sac: SAC, quiet_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    returns: dict[int, list[float]] = {}
    finished = Collector.finished

    def watched(collector: Collector) -> list[Episode]:
        episodes = finished(collector)
        returns.setdefault(trainer.current_epoch, []).extend(episode.episode_return for episode in episodes)
        return episodes

    monkeypatch.setattr(Collector, "finished", watched)
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(small_sac())
    assert sum(map(len, returns.values())) == 480 // 30
    folder = Path(trainer.log_dir)
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    curve = read_curve(folder)
    assert curve.label == "SAC on Pendulum-v1"
    assert curve.settings["gamma"] == 0.98
    points = curve.points
    assert [point.step for point in points] == [160, 320, 480]
    assert [point.train_return for point in points] == pytest.approx(
        [sum(each) / len(each) for each in returns.values()], rel=1e-6
    )
    assert points[-1].val_return == pytest.approx(float(trainer.callback_metrics["val/return"]), rel=1e-6)
    assert 0 < points[0].minutes < points[1].minutes < points[2].minutes
    logged = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert [event.step for event in logged.Images("curve")] == [160, 320, 480]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # which it has
def test_a_resumed_run_draws_all_of_its_curve_in_another_folder(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    seed_everything(0)
    unbroken = quiet_trainer(max_epochs=3, logger=CSVLogger("unbroken"))
    unbroken.fit(small_sac())
    seed_everything(0)
    quiet_trainer(max_steps=96, max_epochs=3, logger=CSVLogger("first")).fit(small_sac())  # in the second epoch
    resumed = quiet_trainer(max_epochs=3, logger=CSVLogger("second"))
    resumed.fit(small_sac(), ckpt_path="first/lightning_logs/version_0/checkpoints/last.ckpt")
    rows = []
    for trainer in (unbroken, resumed):
        with (Path(trainer.log_dir) / "curve.csv").open(newline="") as file:
            rows.append([{**row, "minutes": ""} for row in csv.DictReader(file)])
    assert len(rows[0]) == 3
    assert rows[0] == rows[1]


def test_an_epoch_without_evaluation_is_a_point_too(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trainer = quiet_trainer(max_epochs=4, check_val_every_n_epoch=2)
    trainer.fit(small_sac())
    points = read_curve(Path(trainer.log_dir)).points
    assert [point.step for point in points] == [160, 320, 480, 640]
    assert [point.val_return == point.val_return for point in points] == [False, True, False, True]
    assert all(point.train_return == point.train_return for point in points)


def test_without_loggers_nothing_is_written(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    quiet_trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(small_sac())
    assert list(Path().iterdir()) == []


def test_a_trial_run_writes_nothing(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    quiet_trainer(fast_dev_run=True).fit(small_sac())
    assert list(Path().iterdir()) == []


def test_the_clock_stands_still_between_runs(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    curve = LearningCurve()
    trainer = quiet_trainer(max_epochs=1, callbacks=[curve])
    trainer.fit(small_sac())
    first = curve.state_dict()["minutes"]
    time.sleep(0.2)
    assert curve.state_dict()["minutes"] == first >= curve.points[-1].minutes
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module)
    assert len(curve.points) == 2
    assert curve.points[1].minutes > first


def test_another_run_begins_another_curve(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    curve = LearningCurve()
    quiet_trainer(max_epochs=2, callbacks=[curve]).fit(small_sac())
    quiet_trainer(max_epochs=1, callbacks=[curve]).fit(small_sac())
    assert [point.step for point in curve.points] == [160]


def test_a_full_disk_costs_the_picture_and_not_the_run(
    small_sac: SAC, quiet_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning_rl.callbacks.curve.write_curve", full)
    module = small_sac()
    with pytest.warns(UserWarning, match=r"could not be written .*No space left"):
        quiet_trainer(max_epochs=1).fit(module)
    assert module.environment_steps == 160


def test_loggers_without_a_folder_leave_the_curve_beside_the_checkpoints(
    small_sac: SAC, quiet_trainer: MakeTrainer
) -> None:
    class Remote(DummyLogger):
        save_dir = None

    quiet_trainer(max_epochs=1, logger=Remote(), callbacks=[BestCheckpoint(), LastCheckpoint()]).fit(small_sac())
    [checkpoint] = Path().rglob("best.ckpt")
    assert (checkpoint.parent.parent / "curve.png").is_file()
