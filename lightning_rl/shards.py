"""The experience of several ranks in one checkpoint: each writes what it lived through, and the first names all."""

import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_rl.callbacks.checkpoints import checkpoint_folder
from lightning_rl.checkpoint_io import SHARDS, WholeCheckpointIO, read_whole, write_whole


def write_shard(trainer: Trainer, experience: dict[str, Any]) -> list[str] | None:
    """Writes this rank's experience, unless it is the first rank, whose experience is in the checkpoint itself.

    Every rank calls it. The files have names of their own, so that a checkpoint that is there already keeps its
    shards until the new one, which names these, has taken its place.

    Returns:
        The files' paths, one for each rank after the first, which `WholeCheckpointIO` brings to where the checkpoint
        goes; nothing where one of them could not be written and the run goes on without.

    Raises:
        OSError: this rank's, or another's, could not be written.
    """
    token = trainer.strategy.broadcast(uuid.uuid4().hex)
    folder = trainer.strategy.broadcast(str(checkpoint_folder(trainer) / SHARDS))
    paths = [Path(folder) / f"{token}-rank-{rank}.pt" for rank in range(1, trainer.world_size)]
    failure: OSError | None = None
    if trainer.global_rank > 0:
        try:
            write_whole({"experience": experience}, paths[trainer.global_rank - 1])
        except OSError as error:
            failure = error
    if trainer.strategy.reduce_boolean_decision(failure is None, all=True):
        return [str(path) for path in paths]
    if failure is None:
        failure = OSError("another rank could not write its part of the checkpoint; the one before is as it was.")
    plugin = trainer.strategy.checkpoint_io
    if not isinstance(plugin, WholeCheckpointIO):
        raise failure
    plugin.tell(failure)
    return None


def read_shard(path: Path, names: list[str], rank: int) -> dict[str, Any]:
    """A later rank's experience, of the checkpoint at a path.

    Raises:
        ValueError: the file is not there, or torn.
    """
    shard = path.parent / SHARDS / Path(names[rank - 1]).name
    try:
        experience: dict[str, Any] = read_whole(shard)["experience"]
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} names {shard} as the experience of rank {rank}, and there is no such file: keep the folder "
            f"{SHARDS!r} beside the checkpoints."
        ) from error
    return experience
