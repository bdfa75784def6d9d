"""Exported policies, run by a process that does not have this package."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from lightning.pytorch import Trainer

from lightning_rl import RLModule, SACModule, TRPOModule
from lightning_rl.cli import main
from lightning_rl.export import describe_space, export_policy, load_module

MakeTrainer = Callable[..., Trainer]

PLAYER = """
import json, sys
import gymnasium, numpy, torch

sys.modules["lightning_rl"] = None  # importing it fails from here on
path, name, seeds = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    policy = lambda observation: session.run(["action"], {"observation": observation})[0]
    metadata = session.get_modelmeta().custom_metadata_map
else:
    files = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=files).module()
    policy = lambda observation: program(torch.from_numpy(observation)).numpy()
    metadata = json.loads(files["metadata.json"])
environment = gymnasium.make(name, **json.loads(sys.argv[4]))
observations, actions, returns = [], [], []
for seed in seeds:
    observation, _ = environment.reset(seed=seed)
    ended, total = False, 0.0
    while not ended:
        action = policy(observation[None].astype("float32"))[0]
        observations.append(observation.tolist())
        actions.append(action.tolist())
        observation, reward, terminated, truncated, _ = environment.step(action)
        ended, total = terminated or truncated, total + float(reward)
    returns.append(total)
batch = policy(numpy.array(observations, "float32"))
print(json.dumps([observations, actions, returns, batch.tolist(), str(batch.dtype), metadata]))
"""


@pytest.fixture(params=[".onnx", ".pt2"])
def suffix(request: pytest.FixtureRequest) -> str:
    return request.param


def played(path: Path, environment: str, seeds: list[int], **settings: Any) -> list[Any]:
    arguments = [str(path), environment, json.dumps(seeds), json.dumps(settings)]
    command = [sys.executable, "-W", "ignore", "-c", PLAYER, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def require_same_policy(module: RLModule, path: Path, environment: str, **settings: Any) -> dict[str, str]:
    batches = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).predict(module)
    episodes = [episode for batch in batches for episode in batch]
    seeds = [episode.seed for episode in episodes]
    observations, actions, returns, batch, dtype, metadata = played(path, environment, seeds, **settings)
    expected = module.act(np.array(observations, np.float32))
    assert dtype == str(module.action_space.dtype)
    np.testing.assert_allclose(np.array(actions), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.array(batch), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(returns, [float(episode.rewards.sum()) for episode in episodes], rtol=1e-4)
    return metadata


def test_sac(small_sac: Callable[..., SACModule], quiet_trainer: MakeTrainer, suffix: str) -> None:
    module = small_sac(actor_averaging=0.1)
    quiet_trainer(max_epochs=2).fit(module)
    path = Path(f"exported/policy{suffix}")
    module.train()
    export_policy(module, path)
    assert module.averaged_actor.training  # exporting leaves the module as it is
    metadata = require_same_policy(module, path, "Pendulum-v1", max_episode_steps=30)
    assert (metadata["algorithm"], metadata["environment"]) == ("SAC", "Pendulum-v1")
    assert metadata["environment_steps"] == "320"
    space = json.loads(metadata["action_space"])
    assert space == {"space": "Box", "dtype": "float32", "shape": [1], "low": [-2.0], "high": [2.0]}


@pytest.mark.parametrize("squash", [False, True])
def test_trpo_with_its_normalisation(
    small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer, suffix: str, squash: bool
) -> None:
    module = small_trpo(normalize_observations=True, squash_actions=squash)
    quiet_trainer(max_epochs=2).fit(module)
    assert not torch.equal(module.policy.normalizer.mean, torch.zeros(3))
    path = Path(f"policy{suffix}")
    export_policy(module, path)
    require_same_policy(module, path, "Pendulum-v1", max_episode_steps=30)


def test_discrete_actions(small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer, suffix: str) -> None:
    module = small_trpo(env="CartPole-v1", max_episode_steps=30)
    quiet_trainer(max_epochs=2).fit(module)
    path = Path(f"policy{suffix}")
    export_policy(module, path)
    metadata = require_same_policy(module, path, "CartPole-v1", max_episode_steps=30)
    assert json.loads(metadata["action_space"]) == {"space": "Discrete", "dtype": "int64", "n": 2, "start": 0}
    assert json.loads(metadata["observation_space"])["low"][1] is None  # a velocity, without a bound


def test_the_file_tells_how_long_actions_are_held(small_sac: Callable[..., SACModule], suffix: str) -> None:
    path = Path(f"policy{suffix}")
    export_policy(small_sac(action_repeat=2), path)
    *_, metadata = played(path, "Pendulum-v1", [0], max_episode_steps=5)
    assert metadata["action_repeat"] == "2"


class Switches(gym.Env[Any, Any]):
    """Two choices, seen as a number without a dimension."""

    observation_space = gym.spaces.Box(-1, 1, ())
    action_space = gym.spaces.MultiDiscrete([2, 3], start=[0, 1])


def test_several_choices_and_a_number_without_a_dimension(suffix: str) -> None:
    module = TRPOModule(env=Switches, max_episode_steps=5, hidden_sizes=(8,))
    torch.nn.init.normal_(module.policy.network[-1].weight)  # else all choices are nearly equal
    path = Path(f"policy{suffix}")
    export_policy(module, path)
    observations = np.linspace(-1, 1, 7, dtype=np.float32)
    expected = module.act(observations)
    assert len(np.unique(expected, axis=0)) > 1
    if suffix == ".onnx":
        [actions] = onnxruntime.InferenceSession(path).run(["action"], {"observation": observations})
    else:
        actions = torch.export.load(path).module()(torch.from_numpy(observations)).numpy()
    assert actions.tolist() == expected.tolist()


def test_from_the_command_line(
    small_sac: Callable[..., SACModule], quiet_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    module = small_sac()
    quiet_trainer(max_epochs=1).fit(module)
    [checkpoint] = Path().glob("lightning_logs/*/checkpoints/best.ckpt")
    main(["export", "--ckpt_path", str(checkpoint), "--output", "policy.pt2"])
    assert "The policy is in policy.pt2" in capsys.readouterr().out
    policy = torch.export.load("policy.pt2").module()
    observation = module.observation_space.sample()[None]
    assert torch.equal(policy(torch.from_numpy(observation)), torch.from_numpy(module.act(observation)))


def test_an_environment_that_was_not_stored_is_a_flag(
    small_sac: Callable[..., SACModule], quiet_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_trainer(max_epochs=1).fit(small_sac(env=lambda: gym.make("Pendulum-v1")))
    [checkpoint] = Path().glob("lightning_logs/*/checkpoints/best.ckpt")
    arguments = ["export", "--ckpt_path", str(checkpoint), "--output", "policy.pt2"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "could not store; give it again" in capsys.readouterr().err
    main([*arguments, "--env", "Pendulum-v1"])
    assert "The policy is in policy.pt2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "checkpoint", "said"),
    [
        ("policy.h5", "none.ckpt", "a name that ends in .onnx or .pt2 was expected"),
        ("policy.pt2", "none.ckpt", "there is no checkpoint none.ckpt"),
        ("policy.pt2", "other.ckpt", "not a checkpoint of this package"),
        ("policy.pt2", "tensor.ckpt", "not a checkpoint of this package"),
        ("policy.pt2", "elsewhere.ckpt", "elsewhere.ckpt is of elsewhere.Module, which cannot be imported"),
        ("policy.pt2", "text.ckpt", "text.ckpt"),
    ],
)
def test_what_cannot_be_exported_is_told_of(
    output: str, checkpoint: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}}, "other.ckpt")
    torch.save(torch.zeros(3), "tensor.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"_class_path": "elsewhere.Module"}}, "elsewhere.ckpt")
    Path("text.ckpt").write_text("no checkpoint")
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", checkpoint, "--output", output])
    assert said in capsys.readouterr().err
    assert not Path(output).exists()


def test_a_checkpoint_tells_its_class(small_trpo: Callable[..., TRPOModule], quiet_trainer: MakeTrainer) -> None:
    quiet_trainer(max_epochs=1).fit(small_trpo())
    [checkpoint] = Path().glob("lightning_logs/*/checkpoints/best.ckpt")
    assert type(load_module(checkpoint)) is TRPOModule


def test_spaces_of_integers_are_described() -> None:
    space = gym.spaces.MultiDiscrete([2, 3], start=[0, 1])
    assert describe_space(space) == {"space": "MultiDiscrete", "dtype": "int64", "nvec": [2, 3], "start": [0, 1]}
