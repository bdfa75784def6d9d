"""A trained policy as one file that runs without this package."""

import json
import logging
import math
import warnings
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from pydoc import locate
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor, nn

from lightning_rl.algorithms import RLModule
from lightning_rl.checkpoint_io import read_whole

FORMATS = (".onnx", ".pt2")


def load_module(checkpoint: Path, **settings: Any) -> RLModule:
    """The trained module, of whichever class, with the weights of a checkpoint; on the CPU.

    Args:
        checkpoint: the file.
        settings: hyperparameters that the checkpoint could not store.

    Raises:
        ValueError: no module of this package wrote the file, its class cannot be imported, or it is torn.
        FileNotFoundError: there is none.
    """
    content = read_whole(checkpoint)
    path = content.get("hyper_parameters", {}).get("_class_path", "") if isinstance(content, dict) else ""
    algorithm = locate(path)
    if path and algorithm is None:
        raise ValueError(f"{checkpoint} is of {path}, which cannot be imported: run this where its module is.")
    if not (isinstance(algorithm, type) and issubclass(algorithm, RLModule)):
        raise ValueError(f"{checkpoint} is not a checkpoint of this package: it is of {path or 'no class'}.")
    return algorithm.load_from_checkpoint(checkpoint, map_location="cpu", **settings)


class DeployedPolicy(nn.Module):
    """The greedy policy from observations to actions, both in the environment's own shapes, units and types.

    Args:
        module: a trained module.
    """

    def __init__(self, module: RLModule) -> None:
        super().__init__()
        self.policy = deepcopy(module.greedy_policy())  # the module goes on as it is
        self.observation_size = math.prod(module.observation_space.shape)
        self.parameter_dtype = module.parameter_dtype
        self.action_shape = module.action_space.shape or ()
        self.action_dtype = torch.from_numpy(np.empty(0, module.action_space.dtype)).dtype

    def forward(self, observation: Tensor) -> Tensor:
        """``[n, *observation_shape]`` to ``[n, *action_shape]``."""
        action: Tensor = self.policy(observation.reshape(-1, self.observation_size).to(self.parameter_dtype))
        return action.to(self.action_dtype).reshape(-1, *self.action_shape)


def export_policy(module: RLModule, output: Path) -> None:
    """Writes the greedy policy to a file.

    The file takes float32 observations ``observation``, ``[n, *observation_shape]`` for any n, and gives ``action``,
    ``[n, *action_shape]``, in the environment's units, as evaluation does; whoever acts with it holds each action for
    `action_repeat` steps. It carries what `metadata` tells: an ONNX file as its model's properties, a ``torch.export``
    archive as ``metadata.json``.

    Args:
        module: a trained module.
        output: a path that ends in ``.onnx`` or ``.pt2``.

    Raises:
        ValueError: the path ends in something else.
        ImportError: a package that ONNX files need is missing.
    """
    require_format(output)
    policy = DeployedPolicy(module).cpu().eval().requires_grad_(False)
    example = torch.zeros(2, *module.observation_space.shape, dtype=torch.float32)
    batch = {"observation": {0: torch.export.Dim("batch")}}
    output.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # PyTorch warns of itself
        program = torch.export.export(policy, (example,), dynamic_shapes=batch, strict=False)
        if output.suffix == ".pt2":
            torch.export.save(program, output, extra_files={"metadata.json": json.dumps(metadata(module))})
        else:
            _save_onnx(program, metadata(module), output)


def _save_onnx(program: torch.export.ExportedProgram, properties: dict[str, str], output: Path) -> None:
    # It says of each torchvision operator that torchvision is not there.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    onnx = torch.onnx.export(program, input_names=["observation"], output_names=["action"], dynamo=True, verbose=False)
    assert onnx is not None
    onnx.model.metadata_props.update(properties)
    onnx.save(output)


def require_format(output: Path) -> None:
    """Refuses a path that cannot be written to, before anything is loaded.

    Raises:
        ValueError: the path ends in neither format.
        ImportError: a package that ONNX files need is missing.
    """
    if output.suffix not in FORMATS:
        raise ValueError(f"output={str(output)!r}: a name that ends in {' or '.join(FORMATS)} was expected.")
    if output.suffix == ".onnx":
        try:
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"an ONNX file needs a package that is not installed ({error}): pip install 'lightning-rl[export]', or "
                "choose a name that ends in .pt2."
            ) from error


def metadata(module: RLModule) -> dict[str, str]:
    """What the file says of itself."""
    return {
        "algorithm": module.algorithm,
        "environment": module.environment.name,
        "action_repeat": str(module.environment.action_repeat),
        "observation_space": json.dumps(describe_space(module.observation_space)),
        "action_space": json.dumps(describe_space(module.action_space)),
        "environment_steps": str(module.environment_steps),
        "lightning_rl": version("lightning-rl"),
    }


def describe_space(space: gym.Space[Any]) -> dict[str, Any]:
    """A space's kind, type and bounds, as values that JSON has; ``None`` where a bound is infinite."""
    kinds = {Box: ("shape", "low", "high"), Discrete: ("n", "start"), MultiDiscrete: ("nvec", "start")}
    fields = next(names for kind, names in kinds.items() if isinstance(space, kind))
    values = {name: np.asarray(getattr(space, name)) for name in fields}
    unbounded = np.array(None, dtype=object)
    finite = {name: np.where(np.isfinite(value), value, unbounded).tolist() for name, value in values.items()}
    return {"space": type(space).__name__, "dtype": str(space.dtype), **finite}
