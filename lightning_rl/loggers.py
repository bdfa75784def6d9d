"""Loggers that go on where an interrupted run left them."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import loggers as lightning_loggers
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

AXES = ("train", "val", "test", "sac", "trpo")
"""What the names of metrics over environment steps begin with."""


class _ContinuingWriter(ExperimentWriter):
    """Appends to the metrics that are there; Lightning's own deletes them."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.metrics_keys, _ = self._rows()

    def rewind(self, step: int) -> None:
        """Forgets the rows after a step, which will be lived again."""
        path = Path(self.metrics_file_path)
        header, rows = self._rows()
        if not rows:
            return
        # A callback such as LearningRateMonitor counts in steps of its own: its rows go with those around them.
        lived = [index for index, row in enumerate(rows) if _is_ours(row) and int(row["step"]) <= step]
        kept = rows[: lived[-1] + 1] if lived and step > 0 else []
        temporary = path.with_suffix(".csv.part")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=header)
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(path)

    def _rows(self) -> tuple[list[str], list[dict[str, str]]]:
        path = Path(self.metrics_file_path)
        if not path.exists():
            return [], []
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)

    def _check_log_dir_exists(self) -> None:
        """Other loggers may share the folder, and a resumed run has its metrics there."""


def _is_ours(row: dict[str, str]) -> bool:
    """Whether a row's step counts environment steps."""
    return any(value and name.partition("/")[0] in AXES for name, value in row.items())


class CSVLogger(lightning_loggers.CSVLogger):
    """Lightning's CSVLogger, which keeps the metrics of the run that it resumes."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of `metrics.csv`."""
        if self._experiment is None:
            self._experiment = _ContinuingWriter(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Forgets the rows after a step; all of them where training begins at step 0."""
        writer = self.experiment
        if isinstance(writer, _ContinuingWriter):
            writer.rewind(step)


def share_folder(loggers: Sequence[Logger], checkpoint: Path | None) -> None:
    """Gives all file loggers one folder: a new one, or that of the run whose checkpoint is resumed.

    TensorBoard is told to forget what was logged after that checkpoint, which will be lived again.

    Args:
        loggers: those that write elsewhere, or whose version was chosen, are left alone.
        checkpoint: ``RUN/checkpoints/NAME.ckpt``, if training goes on from one.
    """
    sharing = [each for each in loggers if isinstance(each, TensorBoardLogger | lightning_loggers.CSVLogger)]
    sharing = [each for each in sharing if each._version is None]
    if not sharing:
        return
    root = Path(sharing[0].root_dir).resolve()
    version, forgotten = sharing[0].version, None
    if checkpoint is not None and (run := checkpoint.resolve().parent.parent).parent == root:
        version = run.name
        forgotten = _environment_steps(checkpoint) + 1
    for logger in sharing:
        if Path(logger.root_dir).resolve() == root:
            logger._version = version
            # The command line gives every argument, an absent one as None.
            if isinstance(logger, TensorBoardLogger) and logger._kwargs.get("purge_step") is None:
                logger._kwargs["purge_step"] = forgotten


def _environment_steps(checkpoint: Path) -> int:
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    steps: int = content.get("lightning_rl", {}).get("environment_steps", 0)
    return steps
