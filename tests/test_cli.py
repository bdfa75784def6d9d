"""The command line, run as a user runs it."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_rl import SACModule
from lightning_rl.cli import checkpoint_settings, main

SMALL = """
seed_everything: 5
trainer:
  accelerator: cpu
  max_epochs: 2
  num_sanity_val_steps: 0
  log_every_n_steps: 5
  enable_model_summary: false
model:
  class_path: SACModule
  init_args:
    env: Pendulum-v1
    max_episode_steps: 30
    num_envs: 2
    hidden_sizes: [16, 16]
    batch_size: 16
    buffer_size: 400
    learning_starts: 32
    train_freq: 16
    gradient_steps: 8
    steps_per_epoch: 160
    eval_episodes: 3
"""


@pytest.fixture
def config() -> str:
    Path("small.yaml").write_text(SMALL)
    return "small.yaml"


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_rl", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=check, env=environment)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_fit_then_validate_test_and_predict_from_its_checkpoint(config: str) -> None:
    main(["fit", "--config", config])
    folder = Path("lightning_logs/version_0")
    assert [int(row["step"]) for row in rows(folder) if row["val/return"]] == [160, 320]
    assert any(path.name.startswith("events.out.tfevents") for path in folder.iterdir())
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    checkpoint = str(folder / "checkpoints" / "best.ckpt")
    for command in ("validate", "test", "predict"):
        main([command, "--config", config, "--ckpt_path", checkpoint])
    [path] = Path("lightning_logs").glob("*/trajectories.pt")
    trajectories = torch.load(path, weights_only=True)
    assert [t["observations"].shape for t in trajectories] == [(31, 3)] * 3
    module = SACModule.load_from_checkpoint(checkpoint)
    first = trajectories[0]
    torch.testing.assert_close(
        torch.from_numpy(module.act(first["observations"][:-1].numpy())), first["actions"], rtol=0, atol=1e-5
    )


def test_a_checkpoint_alone_is_enough_to_test(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", config, "--trainer.max_epochs", "1"])
    capsys.readouterr()
    main(["test", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt", "--trainer.accelerator", "cpu"])
    shown = capsys.readouterr().out
    assert "Pendulum-v1, 3 test episodes" in shown
    assert re.search(r"\W+30\.0\W+$", shown.splitlines()[-2])  # the mean length, at the end of the one row


def test_a_configuration_may_name_the_checkpoint(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", config, "--trainer.max_epochs", "1", "--trainer.default_root_dir", "elsewhere"])
    assert not Path("lightning_logs").exists()
    last = "elsewhere/lightning_logs/version_0/checkpoints/last.ckpt"
    Path("test.yaml").write_text(f"ckpt_path: {last}\ntrainer:\n  accelerator: cpu\n")
    capsys.readouterr()
    main(["test", "--config", "test.yaml"])
    assert "Pendulum-v1, 3 test episodes" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"PK\x03\x04 and then nothing", b""])
def test_a_torn_checkpoint_is_named(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("torn.ckpt").write_bytes(content)
    with pytest.raises(SystemExit, match=r"torn\.ckpt is torn, or no checkpoint"):
        main(["test", "--ckpt_path", "torn.ckpt"])


@pytest.mark.parametrize("command", ["fit", "test"])
def test_an_absent_checkpoint_is_told_of(command: str) -> None:
    with pytest.raises(SystemExit, match=r"error: there is no checkpoint nowhere\.ckpt\.$"):
        main([command, "--ckpt_path", "nowhere.ckpt"])


@pytest.mark.parametrize("checkpoint", ["last", "s3://bucket/run.ckpt", "registry:walker:version:3"])
def test_words_and_addresses_are_left_to_lightning(checkpoint: str) -> None:
    assert checkpoint_settings(["fit", "--ckpt_path", checkpoint], Path()) == []


def test_a_checkpoint_with_code_in_it_is_refused() -> None:
    torch.save({"hyper_parameters": {"gamma": Path("x")}}, "code.ckpt")
    with pytest.raises(SystemExit, match=r"code\.ckpt carries more than tensors and plain values"):
        main(["test", "--ckpt_path", "code.ckpt"])


def test_what_is_no_checkpoint_is_told_of() -> None:
    torch.save(torch.zeros(2), "tensor.ckpt")
    with pytest.raises(SystemExit, match=r"tensor\.ckpt is no checkpoint: it holds a Tensor"):
        main(["test", "--ckpt_path", "tensor.ckpt"])


def test_the_last_checkpoint_that_is_named_holds(config: str, tmp_path: Path) -> None:
    for name, gamma in (("first", 0.5), ("second", 0.6)):
        settings = {"_class_path": "lightning_rl.SACModule", "gamma": gamma}
        torch.save({"hyper_parameters": settings}, f"{name}.ckpt")
    Path("names.yaml").write_text("ckpt_path: first.ckpt\n")
    Path("none.yaml").write_text("ckpt_path: null\n")

    def gamma(*args: str) -> float | None:
        if not checkpoint_settings([*args], tmp_path):
            return None
        found: float = yaml.safe_load((tmp_path / "checkpoint.yaml").read_text())["model"]["init_args"]["gamma"]
        return found

    assert gamma("--config", "names.yaml") == 0.5
    assert gamma("--config", "names.yaml", "--ckpt_path", "second.ckpt") == 0.6
    assert gamma("--ckpt_path=second.ckpt", "--config=names.yaml") == 0.5
    assert gamma("--config", "names.yaml", "--config", "none.yaml") is None


def test_flags_win_over_the_checkpoint(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", config, "--trainer.max_epochs", "1"])
    last = "lightning_logs/version_0/checkpoints/last.ckpt"
    main(["predict", "--ckpt_path", last, "--model.eval_episodes", "1", "--trainer.accelerator", "cpu"])
    [path] = Path("lightning_logs").glob("*/trajectories.pt")
    assert len(torch.load(path, weights_only=True)) == 1
    main(["fit", "--config", config, "--ckpt_path", last, "--model.gamma", "0.5"])
    assert torch.load(last, weights_only=True)["hyper_parameters"]["gamma"] == 0.5


def test_a_file_of_the_users_is_not_written_over(config: str) -> None:
    mine = Path("config.yaml")
    mine.write_text(f"# mine\n{Path(config).read_text()}")
    before = mine.read_text()
    run("fit", "--config", "config.yaml", "--trainer.logger", "false", "--trainer.max_epochs", "1")
    assert mine.read_text() == before
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    assert mine.read_text() == before
    assert "max_epochs: 1" in Path("lightning_logs/version_0/config.yaml").read_text()


def test_the_configuration_that_is_kept_is_whole_though_it_came_in_pieces() -> None:
    parts = yaml.safe_load(SMALL)
    Path("trainer.yaml").write_text(yaml.safe_dump(parts["trainer"]))
    Path("model.yaml").write_text(yaml.safe_dump(parts["model"]))
    run("fit", "--trainer", "trainer.yaml", "--model", "model.yaml", "--trainer.max_epochs", "1")
    kept = yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())
    assert kept["model"]["init_args"]["buffer_size"] == 400
    assert kept["trainer"]["max_epochs"] == 1
    assert not Path("lightning_logs/version_0/model.yaml").exists()


class Foreign(DummyLogger):
    """Writes into the working directory."""

    save_dir = "."


def test_the_working_directory_gets_no_configuration() -> None:
    mine = Path("config.yaml")
    mine.write_text(f"# mine\n{SMALL}")
    before = mine.read_text()
    foreign = ["--trainer.logger", "test_cli.Foreign", "--trainer.enable_checkpointing", "false"]
    main(["fit", "--config", "config.yaml", *foreign, "--trainer.max_epochs", "1"])
    assert mine.read_text() == before


def test_an_unknown_key_is_refused(config: str) -> None:
    Path(config).write_text(SMALL + "    gama: 0.9\n")
    result = run("fit", "--config", config, check=False)
    assert result.returncode == 2
    assert "gama" in result.stderr


def test_tensorboard_forgets_what_is_lived_again(config: str) -> None:
    folder = Path("lightning_logs/version_0/checkpoints")
    main(["fit", "--config", config, "--trainer.max_epochs", "1"])
    (folder / "last.ckpt").rename(folder / "first.ckpt")
    for _ in range(2):
        main(["fit", "--config", config, "--ckpt_path", str(folder / "first.ckpt")])
    events = EventAccumulator("lightning_logs/version_0").Reload()
    assert [event.step for event in events.Scalars("val/return")] == [160, 320]


def test_resuming_goes_on_in_the_same_folder(config: str) -> None:
    main(["fit", "--config", config, "--trainer.max_epochs", "3"])
    unbroken = rows(Path("lightning_logs/version_0"))
    main(["fit", "--config", config, "--trainer.max_epochs", "1"])
    last = "lightning_logs/version_1/checkpoints/last.ckpt"
    main(["fit", "--config", config, "--trainer.max_epochs", "3", "--ckpt_path", last])
    assert rows(Path("lightning_logs/version_1")) == unbroken
    assert sorted(path.name for path in Path("lightning_logs").iterdir()) == ["version_0", "version_1"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_saves_and_goes_on_as_if_nothing_had_been(config: str, number: int, status: int) -> None:
    Path(config).write_text(SMALL.replace("max_epochs: 2", "max_epochs: 12"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lightning_rl", "fit", "--config", config]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    curve = Path("lightning_logs/version_0/metrics.csv")
    while not curve.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert "finishing the current item" in output
    last = "lightning_logs/version_0/checkpoints/last.ckpt"
    interrupted = torch.load(last, weights_only=True)["lightning_rl"]["environment_steps"]
    assert interrupted < 12 * 160
    run("fit", "--config", config, "--ckpt_path", last)
    run("fit", "--config", config)
    checkpoints = [torch.load(f"lightning_logs/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in (0, 1)]
    for name, weight in checkpoints[0]["state_dict"].items():
        assert torch.equal(weight, checkpoints[1]["state_dict"][name])
    assert rows(Path("lightning_logs/version_0")) == rows(Path("lightning_logs/version_1"))
