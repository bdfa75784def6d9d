import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_rl import SACModule, TRPOModule
from lightning_rl.callbacks import VideoRecorder
from lightning_rl.callbacks.video import record_episode
from lightning_rl.environments import VALIDATION_SEEDS

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]


def frames(path: Path, height: int, width: int) -> Any:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    film = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(film, np.uint8).reshape(-1, height, width, 3)


def blocks(picture: Any) -> Any:
    """The means of squares of 20 by 20 pixels, which a film's compression hardly changes."""
    return picture.astype(float).reshape(25, 20, 25, 20, 3).mean((1, 3))


def test_chosen_epochs_and_the_end_are_recorded(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    seed_everything(0)
    trainer = quiet_trainer(max_epochs=3, callbacks=[VideoRecorder(every_n_epochs=2)])
    module = small_sac()
    trainer.fit(module)
    folder = Path(trainer.log_dir)
    assert sorted(path.name for path in (folder / "videos").iterdir()) == ["320.mp4", "480.mp4"]
    logged = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    gifs = logged.Images("episode")
    assert [gif.step for gif in gifs] == [320, 480]
    assert gifs[0].encoded_image_string.startswith(b"GIF89a")
    recorded = frames(folder / "videos" / "480.mp4", 500, 500)
    assert abs(len(recorded) - 31) <= 1  # the first picture and one a step; the film's end is rounded
    # The film is the episode that the policy plays, up to its compression.
    environment = gym.make("Pendulum-v1", render_mode="rgb_array", max_episode_steps=30)
    observation, _ = environment.reset(seed=VALIDATION_SEEDS[0])
    expected = [blocks(environment.render())]
    for _ in range(30):
        observation = environment.step(module.act(observation))[0]
        expected.append(blocks(environment.render()))
    pictures = [blocks(picture) for picture in recorded]
    ours = [np.abs(picture - each).mean() for picture, each in zip(pictures, expected, strict=False)]
    next_ones = [np.abs(picture - each).mean() for picture, each in zip(pictures, expected[1:], strict=False)]
    assert max(ours) < 0.1  # of 255
    assert np.median(next_ones) > 0.4  # a picture too early or too late would be noticed, where the pendulum swings


def test_recording_leaves_the_run_as_it_is(small_sac: SAC, quiet_trainer: MakeTrainer) -> None:
    weights = []
    for callbacks in ([], [VideoRecorder(every_n_epochs=1)]):
        seed_everything(0)
        module = small_sac()
        quiet_trainer(max_epochs=2, callbacks=callbacks).fit(module)
        weights.append(torch.cat([parameter.flatten() for parameter in module.parameters()]))
    assert torch.equal(*weights)


def test_prediction_is_recorded(small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer) -> None:
    module = small_trpo(env="CartPole-v1", max_episode_steps=20)
    trainer = quiet_trainer(callbacks=[VideoRecorder(episodes=2)])
    episodes = [episode for batch in trainer.predict(module) for episode in batch]
    videos = Path(trainer.log_dir) / "videos"
    recorded = [len(frames(videos / name, 400, 600)) for name in ("0-test.mp4", "0-test-2.mp4")]
    assert recorded == pytest.approx([len(episode.observations) for episode in episodes[:2]], abs=1)


def test_each_step_of_a_repeated_action_is_recorded(small_sac: SAC, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small_sac(action_repeat=3)
    acted = []
    monkeypatch.setattr(module, "act", lambda observation: acted.append(observation) or np.ones(1, np.float32))
    recorded = record_episode(module, seed=0, path=Path("film.mp4"))
    assert len(acted) == 10
    assert len(recorded) == 31  # of 30 steps


def without_pictures() -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=30)


def deaf(render_mode: str) -> gym.Env[Any, Any]:
    return without_pictures()


@pytest.mark.parametrize(
    ("make", "said"), [(without_pictures, "takes no render_mode"), (deaf, "has render mode None; 'rgb_array' was")]
)
def test_an_environment_without_pictures_is_told_of_before_training(
    small_sac: SAC, quiet_trainer: MakeTrainer, make: Any, said: str
) -> None:
    settings = {} if make is without_pictures else {"env_kwargs": {"render_mode": "human"}}
    module = small_sac(env=make, max_episode_steps=None, **settings)
    with pytest.raises(ValueError, match=said):
        quiet_trainer(max_epochs=1, callbacks=[VideoRecorder()]).fit(module)
    assert module.global_step == 0


@pytest.mark.parametrize("name", ["every_n_epochs", "episodes"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: an integer of at least 1 was expected"):
        VideoRecorder(**{name: 0})
