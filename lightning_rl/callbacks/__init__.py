from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from lightning_rl.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, ModelCheckpoint
from lightning_rl.callbacks.curve import LearningCurve
from lightning_rl.callbacks.interruption import Interrupted, Interruption
from lightning_rl.callbacks.progress import RLProgressBar
from lightning_rl.callbacks.ranks import SameWeights
from lightning_rl.callbacks.schedules import FallingNoise, GrowingHorizon, GrowingPenalty, RisingCorrelation
from lightning_rl.callbacks.summary import RunSummary
from lightning_rl.callbacks.trajectories import TrajectoryWriter
from lightning_rl.callbacks.video import VideoRecorder

__all__ = [
    "BestCheckpoint",
    "FallingNoise",
    "GrowingHorizon",
    "GrowingPenalty",
    "Interrupted",
    "Interruption",
    "LastCheckpoint",
    "LearningCurve",
    "ModelCheckpoint",
    "RLProgressBar",
    "RisingCorrelation",
    "RunSummary",
    "SameWeights",
    "TrajectoryWriter",
    "VideoRecorder",
    "default_callbacks",
]


def default_callbacks(trainer: Trainer) -> list[Callback]:
    """What a bare ``Trainer()`` lacks: best and last checkpoint, learning curve and summary, interruption, progress.

    Lightning's own defaults make room for them; whatever the user brought stays, and is not doubled.
    """
    added: list[Callback] = []
    present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    checkpoints = [each for each in trainer.checkpoint_callbacks if not isinstance(each, Interruption)]
    # Lightning adds its default unless there is a Checkpoint, which a LastCheckpoint or an Interruption is as well.
    saving = [each for each in trainer.checkpoint_callbacks if getattr(each, "saves", True)]
    own = [each for each in checkpoints if isinstance(each, lightning_callbacks.ModelCheckpoint)]
    if len(checkpoints) == 1 and _is_default(checkpoints[0]):
        present.remove(checkpoints[0])
        own = []
    if saving and not any(each.monitor for each in own):
        best = BestCheckpoint()
        best.dirpath = next((each.dirpath for each in own if each.dirpath is not None), None)
        added.append(best)
        for each in own:  # snapshots, which come after it: ckpt_path="best" is the first one's
            present.remove(each)
            added.append(each)
    keeps_last = any(isinstance(c, LastCheckpoint) or getattr(c, "save_last", False) for c in checkpoints)
    if saving and not keeps_last:
        added.append(LastCheckpoint())
    bar = trainer.progress_bar_callback
    if type(bar) is RichProgressBar and _settings(bar) == _settings(RichProgressBar()):
        present.remove(bar)
        added.append(RLProgressBar())
    kinds = (LearningCurve, RunSummary)
    added += [kind() for kind in kinds if not any(isinstance(callback, kind) for callback in present)]
    last = [callback for callback in present if isinstance(callback, Interruption)]
    for callback in last:  # it comes after all others
        present.remove(callback)
    return [*added, *(last or [Interruption(saves=bool(saving))])]


def _is_default(callback: Callback) -> bool:
    """Whether this is the ModelCheckpoint that a Trainer adds by itself."""
    plain = lightning_callbacks.ModelCheckpoint
    return type(callback) is plain and _settings(callback) == _settings(plain())


def _settings(callback: Callback) -> dict[str, Any]:
    """What a callback was made with: its plain attributes."""
    return {
        name: value
        for name, value in vars(callback).items()
        if value is None or isinstance(value, bool | int | float | str | dict | timedelta | RichProgressBarTheme)
    }
