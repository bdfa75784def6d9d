"""Checkpoints on the disk: whole or not at all, and never more than data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_rl import SACModule, checkpoint_io
from lightning_rl.checkpoint_io import WholeCheckpointIO, read_whole, write_whole

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


class Payload:
    """Unpickling it leaves a trace."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.fixture
def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on a file takes its first bytes, and the next ones meet the device that is always full."""

    def save(content: Any, file: Any) -> None:
        file.write(b"the beginning")
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"the rest")

    return lambda: monkeypatch.setattr(checkpoint_io.torch, "save", save)


def numbers(value: float) -> dict[str, Any]:
    return {"x": torch.full((50_000,), value), "n": 3}


def test_what_was_written_is_read_and_no_other_file_stays() -> None:
    write_whole(numbers(1.0), Path("folder/a.ckpt"))
    write_whole(numbers(2.0), Path("folder/a.ckpt"))
    read = read_whole(Path("folder/a.ckpt"))
    assert read["n"] == 3
    assert (read["x"] == 2).all()
    assert os.listdir("folder") == ["a.ckpt"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "hole", "text", "empty"])
def test_a_damaged_file_is_named_and_never_loaded(damage: str) -> None:
    path = Path("a.ckpt")
    write_whole(numbers(1.0), path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if damage == "flipped":
        content[middle] ^= 1
    if damage == "hole":
        content[middle : middle + 4096] = bytes(4096)
    path.write_bytes({"truncated": content[:middle], "text": b"hello", "empty": b""}.get(damage, bytes(content)))
    with pytest.raises(ValueError, match=r"a\.ckpt is torn, or no checkpoint"):
        read_whole(path)


def test_an_error_inside_of_pytorch_is_told_as_the_disks() -> None:
    write_whole(numbers(1.0), Path("a.ckpt"))
    Path(".a.ckpt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"a\.ckpt could not be written \(No space left on device\)"):
        write_whole(numbers(2.0), Path("a.ckpt"))
    assert (read_whole(Path("a.ckpt"))["x"] == 1).all()
    assert os.listdir() == ["a.ckpt"]


def test_a_missing_file_is_said_to_be_missing() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint nowhere\.ckpt"):
        read_whole(Path("nowhere.ckpt"))


def test_a_pickled_payload_is_refused_and_never_runs(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_sac())
    trainer.save_checkpoint("good.ckpt", weights_only=False)
    torch.save({**torch.load("good.ckpt", weights_only=True), "more": Payload()}, "evil.ckpt")
    for use in (
        lambda: quiet_trainer(max_epochs=2).fit(small_sac(), ckpt_path="evil.ckpt"),
        lambda: quiet_trainer().test(small_sac(), ckpt_path="evil.ckpt"),
    ):
        with pytest.raises(ValueError, match=r"evil\.ckpt carries more than tensors and plain values"):
            use()
    with pytest.raises(Exception, match="weights_only"):
        SACModule.load_from_checkpoint("evil.ckpt")
    assert not Path("executed").exists()


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    small_sac: SAC, quiet_trainer: MakeTrainer, fill_the_disk: Callable[[], None]
) -> None:
    trainer = quiet_trainer(max_epochs=1, logger=False)
    trainer.fit(small_sac())
    last = Path("checkpoints/last.ckpt")
    before = last.read_bytes()
    fill_the_disk()
    with pytest.raises(
        OSError, match=r"(best|last)\.ckpt could not be written .*; the one before.* is as it was\. Make room"
    ):
        quiet_trainer(max_epochs=2, logger=False).fit(small_sac(), ckpt_path=last)
    assert last.read_bytes() == before
    assert not list(Path().rglob("*.partial"))


def test_a_full_disk_is_said_and_training_goes_on_where_that_was_asked_for(
    small_sac: SAC, quiet_trainer: MakeTrainer, fill_the_disk: Callable[[], None]
) -> None:
    def run(epochs: int, checkpoint: Path | None = None) -> Trainer:
        seed_everything(0)
        trainer = quiet_trainer(max_epochs=epochs, logger=False, plugins=[WholeCheckpointIO(on_failure="warn")])
        trainer.fit(small_sac(), ckpt_path=checkpoint)
        return trainer

    run(1)
    last = Path("checkpoints/last.ckpt")
    before = {path.name: path.read_bytes() for path in last.parent.iterdir()}
    fill_the_disk()
    with pytest.warns(UserWarning, match=r"could not be written .* Training goes on"):
        assert run(3, last).global_step == 3 * 80 - 8
    assert {path.name: path.read_bytes() for path in last.parent.iterdir()} == before


def test_no_checkpoint_goes_for_one_that_could_not_be_written(fill_the_disk: Callable[[], None]) -> None:
    plugin = WholeCheckpointIO(on_failure="warn")
    plugin.save_checkpoint(numbers(1.0), "1.ckpt")
    fill_the_disk()
    with pytest.warns(UserWarning, match="Training goes on"):
        plugin.save_checkpoint(numbers(2.0), "2.ckpt")
    plugin.remove_checkpoint("1.ckpt")  # as ModelCheckpoint does to keep one
    assert Path("1.ckpt").exists()


def test_a_users_own_plugin_stays(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    plugin = WholeCheckpointIO(on_failure="warn")
    trainer = quiet_trainer(max_epochs=1, plugins=[plugin])
    trainer.fit(small_sac())
    assert trainer.strategy.checkpoint_io is plugin
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_sac())
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpointIO)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["experience"]["buffer"].pop("reward"), "lacks 'reward'"),
        (lambda c: c["experience"].pop("random"), "lacks 'random'"),
        (lambda c: c["state_dict"].pop("log_alpha"), "log_alpha"),
        (lambda c: c["state_dict"].update(log_alpha=torch.zeros(3)), r"log_alpha.*shape"),
        (lambda c: c["experience"]["buffer"].update(observation=torch.zeros(5, 7, 3)), "observation"),
    ],
)
def test_what_is_missing_or_of_another_shape_is_named(
    small_sac: SAC, quiet_trainer: MakeTrainer, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small_sac())
    trainer.save_checkpoint("a.ckpt", weights_only=False)
    checkpoint = torch.load("a.ckpt", weights_only=True)
    spoil(checkpoint)
    torch.save(checkpoint, "a.ckpt")
    with pytest.raises((ValueError, RuntimeError), match=rf"(?s){message}"):
        quiet_trainer(max_epochs=2).fit(small_sac(), ckpt_path="a.ckpt")


def test_message() -> None:
    with pytest.raises(ValueError, match="on_failure='ignore': 'raise' or 'warn'"):
        WholeCheckpointIO(on_failure="ignore")  # type: ignore[arg-type]
