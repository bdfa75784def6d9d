from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_rl.evaluation import Trajectory


class TrajectoryWriter(Callback):
    """Saves the trajectories of ``predict`` as `trajectories.pt`: a list of dicts of tensors and plain values.

    ``torch.load(path)`` reads it without pickled classes. Every rank writes its own file.

    Args:
        folder: where to; the run's log folder if it is not given.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._trajectories: list[Trajectory] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Trajectory],
        batch: Tensor,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes a batch's trajectories."""
        self._trajectories += outputs

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file and says where it is."""
        folder = Path(self._folder or trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = folder / f"trajectories{suffix}.pt"
        torch.save([trajectory._asdict() for trajectory in self._trajectories], path)
        rank_zero_info(f"{len(self._trajectories)} trajectories are in {path}")
        self._trajectories = []
