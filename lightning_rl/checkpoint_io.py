import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a file of that name is whole at every moment, and reads whole ones alone.

    A module of this package brings it where the Trainer has no plugin of this kind; local files are its concern.

    Args:
        on_failure: what follows where a checkpoint cannot be written, on a full disk for instance: ``raise`` ends the
            run, ``warn`` says so and lets training go on. Either way the checkpoint before is as it was.

    Raises:
        ValueError: another word.
    """

    def __init__(self, on_failure: Literal["raise", "warn"] = "raise") -> None:
        if on_failure not in ("raise", "warn"):
            raise ValueError(f"on_failure={on_failure!r}: 'raise' or 'warn' was expected.")
        self.on_failure = on_failure
        self._failed = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes a checkpoint, and then removes the shards of the one that it replaces.

        Raises:
            OSError: it could not be written, and ``on_failure`` is ``raise``.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        self._failed = True
        if checkpoint.get("shards", []) is None:  # one of them could not be written, which was said
            return
        replaced = shards_of(Path(path))
        try:
            write_whole(with_shards_beside(checkpoint, Path(path)), Path(path))
        except OSError as error:
            self.tell(error)
        else:
            self._failed = False
            remove(replaced)

    def tell(self, error: OSError) -> None:
        """Raises the error or says it, as ``on_failure`` has it.

        Raises:
            OSError: the error.
        """
        if self.on_failure == "raise":
            raise error
        rank_zero_warn(f"{error} Training goes on.")

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[[Tensor, str], Tensor] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint of tensors and plain values; nothing in a file is ever executed unless it is asked for.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is torn, is no checkpoint, or carries pickled objects.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        return read_whole(Path(path), map_location, weights_only is not False)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint with its shards; not while the newer one, for which it goes, could not be written."""
        if self._failed:
            return
        shards = [] if "://" in str(path) else shards_of(Path(path))
        super().remove_checkpoint(path)
        remove(shards)


def write_whole(content: dict[str, Any], path: Path) -> None:
    """Writes a file beside its place, flushes it to the disk and gives it its name in one step.

    Raises:
        OSError: it could not be written; what had its name before still has it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # PyTorch turns a failed write into a RuntimeError of its own
        partial.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(
            cause.errno,
            f"the checkpoint {path} could not be written ({cause.strerror}); the one before, if there is one, is as it "
            "was. Make room, or write elsewhere with default_root_dir.",
        ) from error


def read_whole(path: Path, map_location: Any = "cpu", weights_only: bool = True) -> dict[str, Any]:
    """Reads what `write_whole` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is torn, is no checkpoint, or carries pickled objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
    except zipfile.BadZipFile:
        torn = "its table of contents"
    if torn is not None:
        raise ValueError(f"{path} is torn, or no checkpoint ({torn} cannot be read): use an earlier one.")
    try:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} carries more than tensors and plain values, and loading it could run whatever its author wrote: "
            f"it was not loaded. ({str(error).splitlines()[0]})"
        ) from error
    return loaded


def with_shards_beside(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint that names its shards as they lie beside its path, once they are moved there.

    They were written before anyone but Lightning knew the path, where the run's checkpoints usually are.

    Raises:
        OSError: they could not be moved.
    """
    written = [Path(shard) for shard in checkpoint.get("shards", [])]
    folder = path.parent / SHARDS
    for shard in written:
        if shard.parent.resolve() != folder.resolve():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(shard, folder / shard.name)
    return {**checkpoint, "shards": [shard.name for shard in written]} if written else checkpoint


def shards_of(path: Path) -> list[Path]:
    """The files that a checkpoint names as its other ranks' experience; none where it cannot be read."""
    if not (path.parent / SHARDS).is_dir() or not path.is_file():
        return []
    try:
        names = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("shards", [])
    except (OSError, RuntimeError, pickle.UnpicklingError):
        return []
    return [path.parent / SHARDS / Path(name).name for name in names]


def remove(paths: list[Path]) -> None:
    """Removes files, which may be gone already."""
    for path in paths:
        path.unlink(missing_ok=True)


SHARDS = "shards"
"""The folder, beside the checkpoints, of what the ranks after the first have lived through."""


def _flush_folder(folder: Path) -> None:
    # A new name is on the disk only when its folder is; elsewhere than on POSIX a folder cannot be opened.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
