from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from lightning_rl.evaluation import Trajectory


class TrajectoryWriter(BasePredictionWriter):
    """Saves the trajectories of ``predict`` as `trajectories.pt`: a list of dicts of tensors and plain values.

    ``torch.load(path)`` reads it without pickled classes. Every rank writes its own file.

    Args:
        folder: where to; the run's log folder if it is not given.
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self._folder = folder

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Writes the file and says where it is."""
        folder = Path(self._folder or trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = folder / f"trajectories{suffix}.pt"
        trajectories: list[Trajectory] = [trajectory for batch in predictions for trajectory in batch]
        torch.save([trajectory._asdict() for trajectory in trajectories], path)
        rank_zero_info(f"{len(trajectories)} trajectories are in {path}")
