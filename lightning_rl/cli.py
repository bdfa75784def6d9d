from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_rl.algorithms import RLModule
from lightning_rl.callbacks import TrajectoryWriter
from lightning_rl.loggers import share_folder

TRAINER_DEFAULTS = {
    "logger": [
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "."}},
        {"class_path": "lightning_rl.loggers.CSVLogger", "init_args": {"save_dir": "."}},
    ],
}


class RLCLI(LightningCLI):
    """LightningCLI with this package's modules, logging to TensorBoard and CSV in one folder a run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """A command without ``--model`` means SAC, or whatever the checkpoint holds."""
        parser.set_defaults({"model": {"class_path": "lightning_rl.SACModule"}})

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Sets up the run's folder, and somewhere for predictions to go."""
        trainer = super().instantiate_trainer(**kwargs)
        checkpoint = self._get(self.config, "ckpt_path") if self.subcommand == "fit" else None
        share_folder(trainer.loggers, Path(checkpoint) if checkpoint and Path(checkpoint).is_file() else None)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if self.subcommand == "predict" and not any(isinstance(each, BasePredictionWriter) for each in callbacks):
            callbacks.append(TrajectoryWriter())
        return trainer


def main(args: list[str] | None = None) -> None:
    """The command ``lightning-rl``."""
    RLCLI(
        RLModule,
        subclass_mode_model=True,
        trainer_defaults=TRAINER_DEFAULTS,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        args=args,
    )
