import os
import shlex
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.markup import escape

from lightning_rl.callbacks.checkpoints import checkpoint_folder, run_folder
from lightning_rl.callbacks.curve import LearningCurve


class RunSummary(Callback):
    """Says at the end of ``fit`` how good the best evaluation was and where everything is."""

    _ended = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers that the run came to its end."""
        self._ended = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prints the summary, below the progress bar."""
        if stage == "fit" and self._ended:
            folder, checkpoints = run_folder(trainer), checkpoint_folder(trainer)  # both ask all ranks
            if trainer.is_global_zero:
                pictures = {} if folder is None else _pictures(folder)
                flags = "" if _is_stored(pl_module.hparams.get("env")) else " --model.env MODULE.FUNCTION"
                self._print({**_best(trainer), **_checkpoints(trainer, checkpoints, flags), **pictures})
            self._ended = False

    def _print(self, lines: dict[str, str]) -> None:
        console = Console(highlight=False)
        for title, text in lines.items():  # a path or a command stays in one piece, to be copied
            console.print(f"[bold]{title:<16}[/bold] {escape(text)}", soft_wrap=True)


def _best(trainer: Trainer) -> dict[str, str]:
    points = [point for each in _curves(trainer) for point in each.points if point.val_return == point.val_return]
    if not points:
        return {}
    best = max(points, key=lambda point: point.val_return)
    text = f"{best.val_return:.1f} ± {best.val_return_std:.1f} after {best.step:,} environment steps"
    return {"best evaluation": f"{text} ({best.minutes:.1f} minutes)"}


def _curves(trainer: Trainer) -> list[LearningCurve]:
    return [each for each in trainer.callbacks if isinstance(each, LearningCurve)]  # type: ignore[attr-defined]


def _checkpoints(trainer: Trainer, folder: Path, flags: str) -> dict[str, str]:
    best = [each.best_model_path for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    kept = [*map(Path, best), folder / "last.ckpt"]
    paths = [path for path in kept if path.is_file()]
    if not paths:
        return {}
    names = ", ".join(_relative(path) for path in dict.fromkeys(paths))
    watch = f"lightning-rl predict --ckpt_path {shlex.quote(_relative(paths[0]))} --trainer.callbacks+=VideoRecorder"
    return {"checkpoints": names, "to watch it": f"{watch}{flags}"}


def _is_stored(environment: Any) -> bool:
    """Whether a checkpoint knows the environment: not one from the script itself, or a lambda."""
    return not str(environment).endswith(">")


def _pictures(folder: Path) -> dict[str, str]:
    found = {"learning curve": folder / "curve.png", "videos": folder / "videos"}
    return {title: _relative(path) for title, path in found.items() if path.exists()}


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
