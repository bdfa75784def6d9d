import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SameWeights(Callback):
    """Checks after every item that all ranks hold the same weights, to the bit; for looking into a run."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compares a hash of all parameters and buffers.

        Raises:
            RuntimeError: the ranks have drifted apart.
        """
        digest = hashlib.sha256()
        for tensor in pl_module.state_dict().values():
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        ours = digest.hexdigest()
        first = trainer.strategy.broadcast(ours)
        if not trainer.strategy.reduce_boolean_decision(ours == first, all=True):
            raise RuntimeError(
                f"after {trainer.global_step} updates the ranks' weights differ: an update of your own has to average "
                "its gradients over ranks (lightning_rl.distributed.average)."
            )
