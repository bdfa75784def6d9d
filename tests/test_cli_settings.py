"""The command line's settings: from flags, from files, from neither."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
import yaml

from lightning_rl import RLModule, SACModule, TRPOModule
from lightning_rl.cli import hyperparameters, main

CONFIGS = Path(__file__).parents[1] / "configs"
RESULTS = Path(__file__).parents[1] / "results"


def test_flags_alone_train(capsys: pytest.CaptureFixture[str]) -> None:
    model = {
        "env": "Pendulum-v1",
        "num_envs": "2",
        "gamma": "0.9",
        "hidden_sizes": "[8]",
        "activation": "torch.nn.Tanh",
        "learning_starts": "32",
        "steps_per_epoch": "160",
        "eval_episodes": "1",
        "optimizer": "torch.optim.AdamW",
        "optimizer.lr": "1e-3",
        "lr_scheduler": "torch.optim.lr_scheduler.ExponentialLR",
        "lr_scheduler.gamma": "0.999",
    }
    flags = [part for name, value in model.items() for part in (f"--model.{name}", value)]
    trainer = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.precision", "64-true"]
    main(["fit", "--model", "SACModule", *flags, *trainer, "--trainer.log_every_n_steps", "5"])
    checkpoint = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["gamma"] == 0.9
    assert len(checkpoint["lr_schedulers"]) == 3
    assert "decoupled_weight_decay" in checkpoint["optimizer_states"][0]["param_groups"][0]
    assert SACModule.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt").gamma == 0.9


@pytest.mark.parametrize("algorithm", [SACModule, TRPOModule])
def test_every_hyperparameter_is_a_documented_flag(
    algorithm: type[RLModule], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", algorithm.__name__])
    shown = " ".join(capsys.readouterr().out.split())
    for name in algorithm.__init__.__annotations__.keys() - {"return"}:
        assert re.search(rf"--model\.{name} \S+ [^-]", shown), f"{name} has no documentation"
    assert "torch.nn.Bilinear" not in shown  # nor any other of PyTorch's hundreds of modules


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        main([*args, "--print_config"])
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["model"]
    return settings


def test_a_configuration_of_one_algorithm_has_nothing_of_the_others_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    defaults = inspect.signature(TRPOModule).parameters
    Path("trpo.yaml").write_text("model: {class_path: lightning_rl.TRPOModule, init_args: {env: CartPole-v1}}")
    for arguments in (["--config", "trpo.yaml"], ["--model", "TRPOModule", "--model.env", "CartPole-v1"]):
        model = printed(["fit", *arguments], capsys)
        assert model["class_path"] == "lightning_rl.TRPOModule"
        assert model["init_args"]["hidden_sizes"] == list(defaults["hidden_sizes"].default) == [64, 64]
        assert model["init_args"]["activation"] == "torch.nn.Tanh"
        assert model["init_args"]["gamma"] == defaults["gamma"].default


@pytest.mark.parametrize("arguments", [[], ["--model.gamma", "0.9"], ["--config", "trainer.yaml"]])
def test_without_a_model_it_is_sac(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("trainer.yaml").write_text("trainer: {max_epochs: 3}\nmodel: {init_args: {gamma: 0.9}}")
    model = printed(["fit", *arguments], capsys)
    assert model["class_path"] == "lightning_rl.SACModule"
    assert model["init_args"]["gamma"] == (0.9 if arguments else 0.98)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_printed_configuration_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(path), "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["model"]["init_args"]["env"]
    Path("printed.yaml").write_text(printed)
    if "backend: envpool" in printed:
        pytest.importorskip("envpool")
    if "mujoco" in str(gymnasium.spec(yaml.safe_load(printed)["model"]["init_args"]["env"]).entry_point):
        pytest.importorskip("mujoco")
    main(["fit", "--config", "printed.yaml", "--trainer.fast_dev_run", "true"])


def test_modules_of_the_working_directory_are_found() -> None:
    Path("walkers.py").write_text("import gymnasium\nmake = lambda: gymnasium.make('Pendulum-v1')\n")
    script = Path(sys.executable).with_name("lightning-rl")
    done = subprocess.run([script, "check", "walkers.make"], capture_output=True, text=True, check=False)
    assert "walkers.make can be learned in by SAC and TRPO" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("content", "message"), [(None, "File does not exist"), ("a: [1\n", "Problems parsing config"), ("\0", "config")]
)
def test_a_file_that_is_no_configuration_is_told_of(
    content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("bad.yaml").write_text(content)
    with pytest.raises(SystemExit) as left:
        main(["fit", "--config", "bad.yaml"])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("run", sorted(path.parent for path in RESULTS.glob("*/*/policy.ckpt")), ids=str)
def test_committed_policies_and_their_settings_are_taken(run: Path) -> None:
    settings = hyperparameters(run / "policy.ckpt")
    module = {"SACModule": SACModule, "TRPOModule": TRPOModule}[settings.pop("_class_path").rpartition(".")[2]]
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert config.keys() | settings.keys() - {"_instantiator"} <= inspect.signature(module).parameters.keys()
