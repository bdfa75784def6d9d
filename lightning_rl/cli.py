import argparse
import os
import pickle
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from rich.console import Console
from rich.table import Table

from lightning_rl.algorithms import RLModule
from lightning_rl.callbacks import TrajectoryWriter
from lightning_rl.callbacks.checkpoints import run_folder
from lightning_rl.checkpoint_io import read_whole
from lightning_rl.commands import COMMANDS
from lightning_rl.loggers import share_folder

TRAINER_DEFAULTS = {
    "logger": [
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "."}},
        {"class_path": "lightning_rl.loggers.CSVLogger", "init_args": {"save_dir": "."}},
    ],
}

TEST_COLUMNS = {
    "return": "mean return",
    "return_std": "standard deviation",
    "return_min": "lowest",
    "return_max": "highest",
    "length": "mean length",
}


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's help, without the hundreds of classes that PyTorch has for an ``nn.Module``."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action)
        return re.sub(r", known subclasses: torch\.nn\.Module[^)]*", "", text)


class ArgumentParser(LightningArgumentParser):
    """Lightning's parser with that help; parsers of a class's arguments are made of the same type."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs})


class RunConfig(SaveConfigCallback):
    """Keeps `config.yaml` in the run's folder, once that is known; the working directory is the user's."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing: not all loggers and checkpoints know their folder yet."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it."""
        self._write(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it, if nothing but a validation was asked for."""
        self._write(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it."""
        self._write(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if self.already_saved:
            return
        folder = run_folder(trainer)  # asks all ranks
        self.already_saved = True
        if folder is not None and folder.resolve() != Path.cwd() and trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / self.config_filename
            self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=self.multifile)


class RLCLI(LightningCLI):
    """LightningCLI with this package's modules, logging to TensorBoard and CSV in one folder a run."""

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would lay the checkpoint's hyperparameters over the user's (`checkpoint_settings`)."""

    def before_instantiate_classes(self) -> None:
        """Lets the loggers write where ``--trainer.default_root_dir`` says, as a bare Trainer's do."""
        trainer = self._get(self.config, "trainer")
        loggers = trainer.logger if isinstance(trainer.logger, list) else []
        for logger in loggers if trainer.default_root_dir else []:
            if logger.get("init_args.save_dir") == ".":
                logger.init_args.save_dir = str(trainer.default_root_dir)

    def after_test(self) -> None:
        """Prints the test's statistics, a line of a table."""
        if self.trainer.is_global_zero:
            metrics = {name.removeprefix("test/"): float(v) for name, v in self.trainer.callback_metrics.items()}
            batches = int(self.trainer.num_test_batches[0])  # which limit_test_batches may limit
            episodes = min(self.model.eval_episodes, batches * self.model.num_envs * self.trainer.world_size)
            table = Table(title=f"{self.model.environment.name}, {episodes} test episodes")
            for title in TEST_COLUMNS.values():
                table.add_column(title, justify="right")
            table.add_row(*(f"{metrics[name]:.1f}" for name in TEST_COLUMNS))
            Console().print(table)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Sets up the run's folder, and somewhere for predictions to go."""
        trainer = super().instantiate_trainer(**kwargs)
        checkpoint = self._get(self.config, "ckpt_path") if self.subcommand == "fit" else None
        share_folder(trainer.loggers, Path(checkpoint) if checkpoint and Path(checkpoint).is_file() else None)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if self.subcommand == "predict" and not any(isinstance(each, TrajectoryWriter) for each in callbacks):
            callbacks.append(TrajectoryWriter())
        return trainer


def main(args: list[str] | None = None) -> None:
    """The command ``lightning-rl``."""
    given = sys.argv[1:] if args is None else args
    if args is None and os.getcwd() not in sys.path:  # a script sees its own folder instead of the user's modules
        sys.path.insert(0, os.getcwd())
    if given[:1] and given[0] in COMMANDS:
        COMMANDS[given[0]](given[1:])
        return
    if not given or given[0].startswith("-"):  # no subcommand
        run(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = checkpoint_settings(given, Path(folder))
        # Lightning's own table of a test has a row a metric, with twelve digits; `after_test` prints one that is read.
        quiet = ["--verbose", "false"] if given[0] == "test" else []
        run([*given[:1], *(settings or default_model(given[1:])), *quiet, *given[1:]])


def checkpoint_settings(args: list[str], folder: Path) -> list[str]:
    """The hyperparameters of ``--ckpt_path`` as a first ``--config``, which the user's own and all flags override."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ordered: Any = {"dest": "settings", "action": "append", "default": []}
    parser.add_argument("--ckpt_path", type=lambda path: {"ckpt_path": path}, **ordered)
    parser.add_argument("-c", "--config", type=_content, **ordered)
    checkpoint = None
    for each in parser.parse_known_args(args)[0].settings:  # the last one holds, as for the parser that reads them next
        checkpoint = each.get("ckpt_path", checkpoint)
    if checkpoint is None or is_for_lightning(checkpoint):
        return []
    settings = hyperparameters(Path(checkpoint))
    class_path = settings.pop("_class_path", None)
    if class_path is None:
        return []
    settings.pop("_instantiator", None)
    path = folder / "checkpoint.yaml"
    path.write_text(yaml.safe_dump({"model": {"class_path": class_path, "init_args": settings}}))
    return ["--config", str(path)]


def is_for_lightning(checkpoint: str) -> bool:
    """Whether ``--ckpt_path`` is one of Lightning's words, such as ``last``, or an address, and no file here."""
    return not Path(checkpoint).is_file() and (not Path(checkpoint).suffix or ":" in checkpoint)


def hyperparameters(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's hyperparameters; one that cannot be read ends the command with what is wrong with it."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        try:
            content = read_whole(checkpoint)
        except (OSError, ValueError) as error:
            sys.exit(f"lightning-rl: error: {error}")
    if not isinstance(content, dict):
        sys.exit(f"lightning-rl: error: {checkpoint} is no checkpoint: it holds a {type(content).__name__}.")
    settings: dict[str, Any] = content.get("hyper_parameters", {})
    return settings


def default_model(args: list[str]) -> list[str]:
    """``--model SACModule`` where no argument and no configuration names a model.

    A default of the parser's own would leave SAC's hyperparameters behind where another model has some of their names.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", "--model.class_path")
    parser.add_argument("-c", "--config", action="append", default=[])
    given = parser.parse_known_args(args)[0]
    models = [given.model, *(_content(each).get("model") for each in given.config)]
    named = any(isinstance(model, str) or (isinstance(model, dict) and "class_path" in model) for model in models)
    return [] if named else ["--model", "lightning_rl.SACModule"]


def _content(config: str) -> dict[str, Any]:
    """What a configuration says; of a file that is none the parser tells, which reads it next."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        content = yaml.safe_load(Path(config).read_text())
        return content if isinstance(content, dict) else {}
    return {}


def run(args: list[str]) -> None:
    """Runs the command with these arguments."""
    # LightningCLI warns of arguments given from Python while the process has some, which are the same ones.
    sys.argv = [sys.argv[0], *args]
    RLCLI(
        RLModule,
        subclass_mode_model=True,
        parser_class=ArgumentParser,
        parser_kwargs={"epilog": "Without a Trainer: check, export and plot; each has a --help of its own."},
        trainer_defaults=TRAINER_DEFAULTS,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=RunConfig,
    )
