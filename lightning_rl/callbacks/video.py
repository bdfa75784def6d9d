import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RecordVideo
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from lightning_rl.callbacks.checkpoints import run_folder
from lightning_rl.environments import TEST_SEEDS, VALIDATION_SEEDS, ActionRepeat, EnvironmentSpec
from lightning_rl.evaluation import evaluating

Frame = NDArray[np.uint8]
GIF_STRIDE, GIF_WIDTH = 4, 360  # TensorBoard's copy: every so many frames, so many pixels wide


class VideoRecorder(Callback):
    """Records greedy episodes as MP4 files, `videos/STEPS.mp4` in the run's folder, and for TensorBoard's images.

    In ``fit`` it records the first validation episode, after chosen epochs and at the end; in ``test`` and ``predict``
    the first test episode, as `STEPS-test.mp4`. Gymnasium's own environments need no screen; MuJoCo's do without one by
    ``MUJOCO_GL=egl``.

    Args:
        every_n_epochs: epochs between two recordings.
        episodes: recorded each time; all but the first have a number in their names.

    Raises:
        ValueError: a number below one.
    """

    def __init__(self, every_n_epochs: int = 10, episodes: int = 1) -> None:
        for name, value in {"every_n_epochs": every_n_epochs, "episodes": episodes}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: an integer of at least 1 was expected.")
        self.every_n_epochs = every_n_epochs
        self.episodes = episodes
        self._recorded: int | None = None  # after so many environment steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes sure that recording is possible, before training begins.

        Raises:
            ImportError: a package is missing.
            ValueError: the environment renders no pictures.
        """
        if stage == "validate":
            return
        try:
            import moviepy  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "VideoRecorder needs moviepy, which is not installed: pip install 'lightning-rl[video]'."
            ) from error
        module: Any = pl_module
        rendered(module.environment).close()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records after a chosen epoch."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._record(trainer, pl_module, VALIDATION_SEEDS)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records what training ends with."""
        if self._recorded != pl_module.environment_steps:
            self._record(trainer, pl_module, VALIDATION_SEEDS)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records what was tested."""
        self._record(trainer, pl_module, TEST_SEEDS, "-test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records what was predicted."""
        self._record(trainer, pl_module, TEST_SEEDS, "-test")

    def _record(self, trainer: Trainer, module: Any, seeds: Sequence[int], stage: str = "") -> None:
        self._recorded = module.environment_steps
        folder = (run_folder(trainer) or Path(trainer.default_root_dir)) / "videos"
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for index in range(self.episodes):
            path = folder / f"{self._recorded}{stage}{f'-{index + 1}' if index else ''}.mp4"
            frames = record_episode(module, seeds[index], path)
            rank_zero_info(f"A greedy episode is in {path}")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger) and not index:
                    _add_gif(logger, frames, self._recorded)


def rendered(environment: EnvironmentSpec) -> gym.Env[Any, Any]:
    """The environment, made so that it gives pictures, one for each of its own steps.

    Raises:
        ValueError: it has no render mode ``rgb_array``.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's: there is no screen
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    spec = replace(environment, env_kwargs={**environment.env_kwargs, "render_mode": "rgb_array"}, action_repeat=1)
    try:
        made = spec.make()
    except TypeError as error:
        raise ValueError(
            f"{environment.name} takes no render_mode ({error}): let the callable hand render_mode='rgb_array' to the "
            "environment that it makes."
        ) from error
    if made.render_mode != "rgb_array":
        made.close()
        raise ValueError(f"{environment.name} has render mode {made.render_mode!r}; 'rgb_array' was expected.")
    return made


def record_episode(module: Any, seed: int, path: Path) -> list[Frame]:
    """Plays a greedy episode and writes it as an MP4 file.

    Args:
        module: an `RLModule`.
        seed: of the episode.
        path: of the file, whose folder is made.

    Returns:
        Its pictures, ``[height, width, 3]``.

    Raises:
        ValueError: the environment renders no pictures.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # RecordVideo warns of a folder that is there already.
        recorder = RecordVideo(rendered(module.environment), f"{folder}/new", episode_trigger=lambda _: True)
        environment = ActionRepeat(recorder, module.environment.action_repeat)
        with closing(environment), evaluating(module):
            observation, _ = environment.reset(seed=seed)
            ended = False
            while not ended:
                observation, _, terminated, truncated, _ = environment.step(module.act(observation))
                ended = terminated or truncated
            frames: list[Any] = recorder.recorded_frames
        shutil.move(next(Path(folder, "new").glob("*.mp4")), path)
    return frames


def gif(frames: Sequence[Frame]) -> tuple[bytes, int]:
    """A small moving picture, and its height: GIF_WIDTH pixels wide, every GIF_STRIDE-th frame, as fast as life."""
    height = round(frames[0].shape[0] * GIF_WIDTH / frames[0].shape[1])
    pictures = [Image.fromarray(frame).resize((GIF_WIDTH, height)).quantize(32) for frame in frames[::GIF_STRIDE]]
    file = io.BytesIO()
    settings = {"save_all": True, "append_images": pictures[1:], "duration": 20 * GIF_STRIDE, "loop": 0}
    pictures[0].save(file, format="GIF", optimize=True, **settings)
    return file.getvalue(), height


def _add_gif(logger: TensorBoardLogger, frames: Sequence[Frame], step: int) -> None:
    """Puts a small copy among TensorBoard's images (whose own add_video knows moviepy 1 alone)."""
    content, height = gif(frames)
    image = Summary.Image(height=height, width=GIF_WIDTH, colorspace=3, encoded_image_string=content)
    writer = logger.experiment._get_file_writer()
    writer.add_summary(Summary(value=[Summary.Value(tag="episode", image=image)]), step)
