"""What is said, where training begins, of the items that Lightning's loop counts."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_rl.callbacks import ModelCheckpoint

MORE_ROUNDS = 16
"""An item: with as many Lightning's loop was seen to take 2 to 4 % of a training, with one 11 to 15."""
MANY_ITEMS = 1_000
"""An epoch; with fewer there is little time to be saved."""


def warn_of_uncrossed(trainer: Trainer, updates_per_item: int, rounds_per_item: int) -> None:
    """Says which of the user's checkpoints would fire late or never, and what to use."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, lightning_callbacks.ModelCheckpoint):
            every = callback._every_n_train_steps
            if callback._train_time_interval is not None:
                rank_zero_warn(
                    "ModelCheckpoint(train_time_interval=…) never saves under manual optimization, which this module "
                    "uses: choose every_n_train_steps of lightning_rl.callbacks.ModelCheckpoint."
                )
            crosses = isinstance(callback, ModelCheckpoint)
            # The item in which updates begin may have fewer of them, if it has several rounds.
            misses = updates_per_item and (every % updates_per_item or rounds_per_item > 1)
            if not crosses and every and misses:
                rank_zero_warn(
                    f"ModelCheckpoint(every_n_train_steps={every}) saves only where an item of {updates_per_item} "
                    "updates ends on a multiple: use lightning_rl.callbacks.ModelCheckpoint, which saves whenever one "
                    "is crossed."
                )


def tell_of_split_item(trainer: Any, updates_per_item: int, rounds_per_item: int) -> None:
    """Says it where ``max_steps`` ends a run within an item: the item's other updates are not made up for."""
    if trainer.max_steps > 0 and rounds_per_item > 1 and not trainer.fast_dev_run:
        rank_zero_info(
            f"max_steps={trainer.max_steps} may end the run within an item of {rounds_per_item} rounds, which counts "
            "as a whole one when the run is resumed: its epoch is then shorter. With rounds_per_item=1 it need not be."
        )
        return
    split = trainer.max_steps > 0 and updates_per_item > 1 and trainer.max_steps % updates_per_item
    if split and not trainer.fast_dev_run:
        rank_zero_info(
            f"max_steps={trainer.max_steps} ends the run within an item of {updates_per_item} updates, whose others "
            "are not made up for when it is resumed: from a multiple it goes on exactly."
        )


def tell_of_short_items(trainer: Any, updates_per_item: int, rounds_per_epoch: int) -> None:
    """Says it where many items carry one update each, which costs more of the loop's time than it need.

    Args:
        trainer: of the run that begins.
        updates_per_item: updates that an item carries.
        rounds_per_epoch: rounds of interaction an epoch, of one rank.
    """
    limited = trainer.max_steps > 0 or trainer.fast_dev_run  # a limit of updates goes better with short items
    if updates_per_item != 1 or rounds_per_epoch < MANY_ITEMS or limited:
        return
    more = next(n for n in range(MORE_ROUNDS, 0, -1) if rounds_per_epoch % n == 0)
    if more > 1:
        rank_zero_info(
            f"An item of Lightning's loop carries one update here. With rounds_per_item={more} it would carry {more}, "
            "in less time. The same is learned, unless a callback changes settings on the way; what counts items, as "
            "log_every_n_steps, val_check_interval and limit_train_batches do, counts fewer of them."
        )
