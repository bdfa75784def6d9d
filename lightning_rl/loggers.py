"""Loggers that go on where an interrupted run left them."""

import csv
from collections.abc import Sequence
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import loggers as lightning_loggers
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only


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
        kept = [row for row in rows if step > 0 and int(row["step"]) <= step]
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

    Args:
        loggers: those that write elsewhere, or whose version was chosen, are left alone.
        checkpoint: ``RUN/checkpoints/NAME.ckpt``, if training goes on from one.
    """
    sharing = [each for each in loggers if isinstance(each, TensorBoardLogger | lightning_loggers.CSVLogger)]
    sharing = [each for each in sharing if each._version is None]
    if not sharing:
        return
    run = None if checkpoint is None else checkpoint.resolve().parent.parent
    root = Path(sharing[0].root_dir).resolve()
    version = run.name if run is not None and run.parent == root else sharing[0].version
    for logger in sharing:
        if Path(logger.root_dir).resolve() == root:
            logger._version = version
